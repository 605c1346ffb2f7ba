"""How well a classifier does where several diseases occur at once: one probability and one threshold per disease."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scintikit.errors import MetricError
from scintikit.metrics.calibration import calibration_curve, calibration_error
from scintikit.metrics.checks import (
    check_class_names,
    check_disease_labels,
    check_disease_probabilities,
    check_fraction,
    check_groups,
)
from scintikit.metrics.classification import Scores, merge, rates, ratio, weighted_auc, weighted_average_precision
from scintikit.metrics.evaluate import estimates
from scintikit.metrics.intervals import Interval

RATES = ("accuracy", "precision", "sensitivity", "specificity", "f1")
CURVES = ("auc", "auprc")
PER_CENTRE = ("macro_auc", "exact_match", "macro_f1")
SEPARATOR = " | "  # between the diseases of one image, as in the tables that `index` reads


def evaluate_diseases(
    probabilities: ArrayLike,
    labels: ArrayLike,
    thresholds: ArrayLike,
    patients: ArrayLike,
    centres: ArrayLike,
    class_names: Sequence[str],
    *,
    normal: str = "normal",
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure on its test a classifier that says for each disease by itself whether it is present.

    Parameters
    ----------
    probabilities : array_like, shape (N, D)
        Of each disease; rows need not sum to 1.
    labels : array_like of 0 and 1, shape (N, D)
    thresholds : array_like, shape (D,)
        A disease is called present from this probability on; chosen on validation data (`sensitivity_thresholds`).
    patients, centres : array_like, shape (N,)
        Pseudonyms; intervals come from resampling patients within their centre (`bootstrap_intervals`).
    class_names : sequence of str
        The D diseases in the order of the columns.
    normal : str
        Name of the class of images without any of the diseases. It is called where no disease is.
    bootstrap : int
        Resamples; 0 gives values without intervals.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        JSON-able, without NaN: `n`, `patients`, `classes` (the diseases, then normal), `diseases`, `thresholds`;
        `per_class` has accuracy, precision, sensitivity, specificity, f1, auc, auprc, and the numbers `support` (items
        of the class), `predicted` (called so) and `counts` (tp, fp, fn, tn); `overall` has the macro means of the first
        five over all classes and of auc and auprc over the diseases, and exact_match; `label_sets` counts true sets of
        diseases in rows and called ones in columns; `per_centre` has macro_auc, exact_match, macro_f1, `auc` of each
        disease and `support`; `calibration` has for each disease `ece` (without interval), `brier` and `reliability`;
        `intervals` says how they were made. Estimates as in `evaluate_classifier`.

    Raises
    ------
    MetricError
        Shapes, probabilities, labels, names or thresholds are unusable.

    Notes
    -----
    Formulas: `docs/metrics.md`. What cannot be measured is None: the AUC of a class that no or all items have, the
    specificity of one that all have, precision, sensitivity, F1 and AUPRC of one that none has, and every macro mean
    with such a part: the mean over what is left would be another number.
    """
    probabilities = check_disease_probabilities(probabilities)
    labels = check_disease_labels(labels, *probabilities.shape)
    names = check_class_names([*class_names, normal], probabilities.shape[1] + 1)
    patients = check_groups(patients, len(labels), "Patients")
    centres = check_groups(centres, len(labels), "Centres")
    diseases, limits = names[:-1], check_thresholds(thresholds, probabilities.shape[1])
    calls = probabilities >= limits
    truth, called = with_normal(labels), with_normal(calls)
    scores = with_no_disease(probabilities)

    def statistic(weights: np.ndarray) -> Scores:
        return diseases_scores(scores, truth, called, weights, names, centres)

    result = estimates(statistic, patients, centres, bootstrap, seed)
    for centre in np.unique(centres):
        support = truth[centres == centre].sum(axis=0).tolist()
        result["per_centre"][str(centre)]["support"] = dict(zip(names, support, strict=True))
    for disease, name in enumerate(diseases):
        pair = probabilities[:, disease], labels[:, disease].astype(float)
        result["calibration"][name] |= {
            "ece": Interval(calibration_error(*pair)).as_json(),
            "reliability": calibration_curve(*pair),
        }
    counted = {
        "n": len(labels),
        "classes": names,
        "diseases": diseases,
        "thresholds": dict(zip(diseases, limits.tolist(), strict=True)),
        "per_class": {name: _counts(truth[:, c], called[:, c]) for c, name in enumerate(names)},
        "label_sets": _label_sets(labels, calls, names),
    }
    return merge(result, counted)


def diseases_scores(
    scores: np.ndarray,
    truth: np.ndarray,
    called: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str],
    centres: np.ndarray,
) -> Scores:
    """Return `disease_scores` with the Brier score of each disease and with the scores of each centre, `(R,)`."""
    result = disease_scores(scores, truth, called, weights, names)
    for disease, name in enumerate(names[:-1]):
        result["calibration", name, "brier"] = _mean((scores - truth)[:, disease] ** 2, weights)
    for centre in np.unique(centres):
        of = centres == centre
        own = disease_scores(scores[of], truth[of], called[of], weights[:, of], names)
        result |= {("per_centre", str(centre), metric): own["overall", metric] for metric in PER_CENTRE}
        result |= {("per_centre", str(centre), "auc", name): own["per_class", name, "auc"] for name in names[:-1]}
    return result


def disease_scores(
    scores: np.ndarray, truth: np.ndarray, called: np.ndarray, weights: np.ndarray, names: Sequence[str]
) -> Scores:
    """Return the scalars of `per_class` and `overall` of `evaluate_diseases` for each of R sets of item weights.

    Parameters
    ----------
    scores : ndarray, shape (N, D + 1)
        The higher, the more likely the class; normal is the last one.
    truth, called : ndarray of bool, shape (N, D + 1)
    weights : ndarray, shape (R, N)
    names : sequence of str
        D + 1.

    Returns
    -------
    dict
        Arrays of shape (R,); NaN marks what cannot be measured.
    """
    hit, support, predicted = (weights @ members.astype(float) for members in (truth & called, truth, called))
    total = weights.sum(axis=1, keepdims=True)
    per_class = rates(hit, support, predicted, total)
    per_class["sensitivity"] = per_class.pop("recall")
    per_class["accuracy"] = ratio(total - support - predicted + 2 * hit, total)
    columns = range(len(names))
    per_class["auc"] = np.stack([weighted_auc(scores[:, c], truth[:, c], weights) for c in columns], axis=1)
    per_class["auprc"] = np.stack(
        [weighted_average_precision(scores[:, c], truth[:, c], weights) for c in columns], axis=1
    )
    result: Scores = {("overall", f"macro_{metric}"): per_class[metric].mean(axis=1) for metric in RATES}
    result |= {("overall", f"macro_{metric}"): per_class[metric][:, :-1].mean(axis=1) for metric in CURVES}
    result["overall", "exact_match"] = _mean((truth == called).all(axis=1), weights)
    for c, name in enumerate(names):
        result |= {("per_class", name, metric): per_class[metric][:, c] for metric in (*RATES, *CURVES)}
    return result


def sensitivity_thresholds(probabilities: ArrayLike, labels: ArrayLike, target: float = 0.90) -> np.ndarray:
    """Return for each disease the highest threshold at which the sensitivity is at least `target`, float64 `(D,)`.

    Parameters
    ----------
    probabilities : array_like, shape (N, D)
        Of validation items; they must not be the test's.
    labels : array_like of 0 and 1, shape (N, D)
    target : float
        On other patients the sensitivity will be near it, not above it: the choice fits the validation items.

    Raises
    ------
    MetricError
        The arrays or the target are unusable, or no or every item has a disease: then nothing can be chosen.
    """
    probabilities = check_disease_probabilities(probabilities)
    labels = check_disease_labels(labels, *probabilities.shape)
    check_fraction(target, "The target sensitivity")
    return np.array([_threshold(probabilities[:, d], labels[:, d], d, target) for d in range(labels.shape[1])])


def _threshold(probabilities: np.ndarray, positive: np.ndarray, disease: int, target: float) -> float:
    if positive.all() or not positive.any():
        raise MetricError(
            f"{'Every' if positive.all() else 'No'} item has disease {disease} (column of the labels); "
            "a threshold needs items with and without it. Validate on more patients."
        )
    # The small number keeps 0.9 * 10 from needing the 10th instead of the 9th of ten by rounding.
    needed = int(np.ceil(target * positive.sum() - 1e-9))
    return float(np.sort(probabilities[positive])[::-1][needed - 1])


def check_thresholds(thresholds: ArrayLike, diseases: int) -> np.ndarray:
    """Return thresholds as float64 `(D,)`, or raise `MetricError`."""
    values = np.asarray(thresholds, dtype=np.float64)
    if values.shape != (diseases,) or not np.isfinite(values).all():
        raise MetricError(f"The thresholds are {values.tolist()}; expected one number for each of {diseases} diseases.")
    return values


def with_normal(present: np.ndarray) -> np.ndarray:
    """Add to `(N, D)`, whether each disease is present, the column of items that have none: bool `(N, D + 1)`."""
    return np.column_stack([present, ~present.any(axis=1)])


def with_no_disease(probabilities: np.ndarray) -> np.ndarray:
    """Add to `(N, D)`, the probability of each disease, that of none if they were independent: `(N, D + 1)`."""
    return np.column_stack([probabilities, (1 - probabilities).prod(axis=1)])


def set_name(present: Iterable[bool], class_names: Sequence[str], normal: str = "normal") -> str:
    """Return the names of the diseases that are present, such as "metastasis | arthritis", or `normal` for none."""
    return SEPARATOR.join(name for name, has in zip(class_names, present, strict=True) if has) or normal


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return ratio(weights @ values.astype(float), weights.sum(axis=1))


def _counts(truth: np.ndarray, called: np.ndarray) -> dict[str, Any]:
    table = {"tp": truth & called, "fp": ~truth & called, "fn": truth & ~called, "tn": ~truth & ~called}
    return {
        "support": int(truth.sum()),
        "predicted": int(called.sum()),
        "counts": {cell: int(members.sum()) for cell, members in table.items()},
    }


def _label_sets(labels: np.ndarray, calls: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Count true sets of diseases in rows, called ones in columns: those that occur, from none to many diseases."""
    sets, member = np.unique(np.concatenate([labels, calls]), axis=0, return_inverse=True)
    order = np.lexsort([*~sets.T[::-1], sets.sum(axis=1)])
    place = np.argsort(order)[member.ravel()]
    counts = np.zeros((len(sets), len(sets)), dtype=int)
    np.add.at(counts, (place[: len(labels)], place[len(labels) :]), 1)
    return {"names": [set_name(sets[i], names[:-1], names[-1]) for i in order], "counts": counts.tolist()}
