"""Conformal prediction sets: the classes that cannot be ruled out, with a coverage guarantee.

The score is LAC (least ambiguous set-valued classifier): one minus the probability of the class, which gives the
smallest sets on average (Sadinle, Lei and Wasserman, JASA 2019;114:223). If calibration and test items are
exchangeable, the set holds the true class with probability at least 1 - alpha. Items from another camera are not
exchangeable with those of the calibration: measure the coverage per centre and believe that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from scintikit.errors import MetricError
from scintikit.metrics.checks import check_fraction, check_labels, check_probabilities
from scintikit.metrics.classification import Scores, ratio


def conformal_threshold(
    probabilities: ArrayLike, labels: ArrayLike, alpha: float = 0.1, *, class_conditional: bool = False
) -> np.ndarray:
    """Return the largest score 1 - p that a class in the set may have, from calibration data.

    Parameters
    ----------
    probabilities : array_like, shape (N, C)
        From patients that neither training nor test uses (the validation split).
    labels : array_like of int, shape (N,)
    alpha : float
        Accepted rate of sets that miss the true class.
    class_conditional : bool
        Calibrate each class on its own items (Mondrian), so that the guarantee holds within every class. Rare classes
        then get wide sets, and one with fewer than 1 / alpha - 1 items is always included.

    Returns
    -------
    ndarray, shape (C,), float64
        The ceil((n + 1)(1 - alpha))-th smallest score of the true class among n items (all classes alike unless
        `class_conditional`); 1, which includes every class, if n is too small for that rank.

    Raises
    ------
    MetricError
        Probabilities or labels are unusable, or alpha is not between 0 and 1.
    """
    check_fraction(alpha, "alpha")
    probabilities = check_probabilities(probabilities)
    labels = check_labels(labels, *probabilities.shape)
    scores = 1 - probabilities[np.arange(len(labels)), labels]
    classes = probabilities.shape[1]
    if class_conditional:
        return np.array([_quantile(scores[labels == c], alpha) for c in range(classes)])
    return np.full(classes, _quantile(scores, alpha))


def conformal_sets(probabilities: ArrayLike, threshold: ArrayLike, *, never_empty: bool = True) -> np.ndarray:
    """Return which classes stand in each item's set, bool `(N, C)`.

    Parameters
    ----------
    probabilities : array_like, shape (N, C)
    threshold : array_like, a number or shape (C,)
        From `conformal_threshold`.
    never_empty : bool
        Put the most probable class into a set that would be empty. Coverage can only rise. An empty set means that
        no class is typical for this image; say False to see those.

    Raises
    ------
    MetricError
        Probabilities or the threshold are unusable.
    """
    probabilities = check_probabilities(probabilities)
    limits = np.asarray(threshold, dtype=np.float64)
    if limits.shape not in ((), (probabilities.shape[1],)) or not ((limits >= 0) & (limits <= 1)).all():
        raise MetricError(
            f"The conformal threshold {limits.tolist()} is unusable; expected a number between 0 and 1, "
            f"or one for each of the {probabilities.shape[1]} classes."
        )
    sets = 1 - probabilities <= limits
    if never_empty:
        sets[np.arange(len(sets)), probabilities.argmax(axis=1)] |= ~sets.any(axis=1)
    return sets


def conformal_scores(
    sets: np.ndarray, labels: np.ndarray, weights: np.ndarray, class_names: Sequence[str], centres: np.ndarray
) -> Scores:
    """Return coverage and size of the sets, overall, per class and per centre, for R sets of item weights.

    Parameters
    ----------
    sets : ndarray of bool, shape (N, C)
    labels : ndarray of int, shape (N,)
    weights : ndarray, shape (R, N)
    class_names : sequence of str
    centres : ndarray of str, shape (N,)

    Returns
    -------
    dict
        Arrays `(R,)`: `coverage` (share of sets that hold the true class), `set_size` (mean number of classes), and
        overall `singletons` and `empty` (shares of sets with one and no class).
    """
    size = sets.sum(axis=1)
    covered = sets[np.arange(len(labels)), labels]

    def mean(values: np.ndarray, members: np.ndarray) -> np.ndarray:
        return ratio(weights[:, members] @ values[members].astype(float), weights[:, members].sum(axis=1))

    everyone = np.ones(len(labels), dtype=bool)
    scores: Scores = {
        ("conformal", "coverage"): mean(covered, everyone),
        ("conformal", "set_size"): mean(size, everyone),
        ("conformal", "singletons"): mean(size == 1, everyone),
        ("conformal", "empty"): mean(size == 0, everyone),
    }
    groups = [("per_class", name, labels == c) for c, name in enumerate(class_names)]
    groups += [("per_centre", str(centre), centres == centre) for centre in np.unique(centres)]
    for kind, name, members in groups:
        scores["conformal", kind, name, "coverage"] = mean(covered, members)
        scores["conformal", kind, name, "set_size"] = mean(size, members)
    return scores


def _quantile(scores: np.ndarray, alpha: float) -> float:
    # The small number keeps 0.9 * 10 from becoming the 10th instead of the 9th score by rounding.
    rank = int(np.ceil((len(scores) + 1) * (1 - alpha) - 1e-9))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else 1.0
