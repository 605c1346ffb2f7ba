"""How well a classifier does: one positive class per item, any number of classes.

Everything is computed for many sets of item weights at once, because a bootstrap resample is nothing but a weight per
item (how often it was drawn). The plain metrics are the case of one set of equal weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scintikit.metrics.checks import check_class_names, check_labels, check_probabilities

METRICS = ("precision", "recall", "specificity", "f1", "auc")

Scores = dict[tuple[str, ...], np.ndarray]
"""Values by their place in the nested result, such as ("overall", "macro_f1"); one value per set of weights."""


def classification_metrics(probabilities: ArrayLike, labels: ArrayLike, class_names: Sequence[str]) -> dict[str, Any]:
    """Measure a classifier per class and averaged.

    Parameters
    ----------
    probabilities : array_like, shape (N, C)
        Rows sum to 1. The predicted class is the most probable one (the first of equals).
    labels : array_like of int, shape (N,)
        True classes, `0 .. C - 1`.
    class_names : sequence of str
        C names in the order of the columns.

    Returns
    -------
    dict
        JSON-able. `overall` has accuracy, balanced_accuracy, mcc and {micro,macro,weighted}_{precision, recall,
        specificity, f1, auc}; `per_class` has the same five for every class with its `support` (items of the class)
        and `predicted` (items called so); `confusion` counts true classes in rows, predicted ones in columns;
        `macro_classes` is the number of classes that the macro and weighted averages run over.

    Raises
    ------
    MetricError
        Shapes, probabilities or labels are unusable.

    Notes
    -----
    One class against the rest gives TP, FP, FN and TN. Specificity = TN / (TN + FP); precision = TP / (TP + FP);
    recall = TP / (TP + FN); F1 = 2 TP / (2 TP + FP + FN); AUC is the probability that an item of the class scores
    higher than one of another class, ties counting one half. Micro averages pool TP, FP, FN, TN over the classes (with
    one label per item micro precision, recall and F1 all equal the accuracy) and, for AUC, all N x C scores. MCC is
    Gorodkin's multi-class coefficient (Comput. Biol. Chem. 2004;28:367).

    What cannot be measured is None: all but specificity for a class without items, the AUC and specificity of a class
    that all items have. Absent classes stay out of the macro averages. As in scikit-learn, the precision of a class
    that is never predicted is 0, and so is the MCC of a classifier that always says the same.
    """
    probabilities = check_probabilities(probabilities)
    labels = check_labels(labels, *probabilities.shape)
    names = check_class_names(class_names, probabilities.shape[1])
    scores = classification_scores(probabilities, labels, np.ones((1, len(labels))), names)
    values = nest({place: plain(value[0]) for place, value in scores.items()})
    return merge(values, classification_counts(probabilities, labels, names))


def classification_counts(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return what is counted, not estimated: sizes, the confusion matrix, support and predictions per class."""
    classes = len(names)
    confusion = confusion_matrices(labels, probabilities.argmax(axis=1), np.ones((1, len(labels))), classes)[0]
    confusion = confusion.astype(int)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        "n": len(labels),
        "classes": list(names),
        "macro_classes": int((support > 0).sum()),
        "confusion": confusion.tolist(),
        "per_class": {
            name: {"support": int(support[i]), "predicted": int(predicted[i])} for i, name in enumerate(names)
        },
    }


def classification_scores(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, names: Sequence[str]
) -> Scores:
    """Return every scalar metric of `classification_metrics` for each of R sets of item weights.

    Parameters
    ----------
    probabilities : ndarray, shape (N, C)
    labels : ndarray of int, shape (N,)
    weights : ndarray, shape (R, N)
        Non-negative; in a bootstrap, how often an item was drawn.
    names : sequence of str

    Returns
    -------
    dict
        Arrays of shape (R,). NaN marks what cannot be measured: also an average over classes one of which this set
        of weights has lost, so that an average means the same in all sets.
    """
    classes = len(names)
    confusion = confusion_matrices(labels, probabilities.argmax(axis=1), weights, classes)
    support, predicted, hit = confusion.sum(axis=2), confusion.sum(axis=1), np.einsum("rcc->rc", confusion)
    total = support.sum(axis=1, keepdims=True)
    per_class = rates(hit, support, predicted, total)
    one_versus_rest = np.eye(classes, dtype=bool)[labels]
    per_class["auc"] = np.stack(
        [weighted_auc(probabilities[:, c], one_versus_rest[:, c], weights) for c in range(classes)], axis=1
    )
    pooled_hit, pooled_predicted = hit.sum(axis=1, keepdims=True), predicted.sum(axis=1, keepdims=True)
    pooled = rates(pooled_hit, total, pooled_predicted, total * classes)
    micro = {metric: value[:, 0] for metric, value in pooled.items()}
    micro["auc"] = weighted_auc(probabilities.ravel(), one_versus_rest.ravel(), np.repeat(weights, classes, axis=1))

    present = np.bincount(labels, minlength=classes) > 0
    scores: Scores = {("overall", "accuracy"): micro["recall"]}
    scores["overall", "balanced_accuracy"] = per_class["recall"][:, present].mean(axis=1)
    scores["overall", "mcc"] = _mcc(hit, support, predicted)
    for metric in METRICS:
        value = per_class[metric]
        scores["overall", f"micro_{metric}"] = micro[metric]
        scores["overall", f"macro_{metric}"] = np.where(support > 0, value, np.nan)[:, present].mean(axis=1)
        weighted = np.where(support > 0, value * support, 0).sum(axis=1)
        scores["overall", f"weighted_{metric}"] = ratio(weighted, total[:, 0])
        for c, name in enumerate(names):
            scores["per_class", name, metric] = value[:, c]
    return scores


def confusion_matrices(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """Return weighted confusion matrices `(R, C, C)`, true classes in rows, for weights `(R, N)`."""
    cells = np.eye(classes * classes)[labels * classes + predicted]
    return (weights @ cells).reshape(-1, classes, classes)


def rates(hit: np.ndarray, support: np.ndarray, predicted: np.ndarray, total: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall, specificity and F1 `(R, C)` from true positives, true and predicted items `(R, C)`."""
    absent = np.where(support > 0, 0.0, np.nan)
    others = total - support
    return {
        "precision": np.where(predicted > 0, ratio(hit, predicted), 0.0) + absent,
        "recall": ratio(hit, support),
        "specificity": ratio(others - (predicted - hit), others),
        "f1": ratio(2 * hit, support + predicted) + absent,
    }


def weighted_auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve for each of R sets of weights; NaN without positives or negatives.

    It is the Mann-Whitney statistic: for every positive item the weight of the negatives below it, ties counting half.
    Items are sorted once for all sets of weights.

    Parameters
    ----------
    scores : ndarray, shape (N,)
    positive : ndarray of bool, shape (N,)
    weights : ndarray, shape (R, N)
    """
    positives, negatives = _sums_of_ties(scores, positive, weights)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    return ratio((positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1))


def weighted_average_precision(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average precision for each of R sets of weights; NaN without positives.

    The mean over the positive items of the precision among all items that score as high or higher: the area under the
    precision-recall curve as steps, without interpolation, as in scikit-learn.

    Parameters
    ----------
    scores, positive, weights
        As in `weighted_auc`.
    """
    positives, negatives = _sums_of_ties(-scores, positive, weights)
    found = np.cumsum(positives, axis=1)
    precision = ratio(found, found + np.cumsum(negatives, axis=1))
    # Scores that a resample has not drawn have no precision, and no weight either.
    return ratio(np.where(positives > 0, positives * precision, 0).sum(axis=1), found[:, -1])


def _sums_of_ties(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of positives and of negatives `(R, T)` at each of T different scores, in ascending order."""
    order = np.argsort(scores, kind="stable")
    ties = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    weights, positive = weights[:, order], positive[order]
    return np.add.reduceat(weights * positive, ties, axis=1), np.add.reduceat(weights * ~positive, ties, axis=1)


def _mcc(hit: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    total = support.sum(axis=1)
    covariance = hit.sum(axis=1) * total - (support * predicted).sum(axis=1)
    spread_true = total**2 - (support**2).sum(axis=1)
    spread_predicted = total**2 - (predicted**2).sum(axis=1)
    mcc = np.where(spread_predicted > 0, ratio(covariance, np.sqrt(spread_true * spread_predicted)), 0.0)
    return np.where(spread_true > 0, mcc, np.nan)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; 0 / 0 is NaN without a warning."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return numerator / denominator


def plain(value: float) -> float | None:
    """Return a Python number, or None for NaN, which JSON does not have."""
    return None if np.isnan(value) else float(value)


def nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Turn {("a", "b"): 1} into {"a": {"b": 1}}."""
    nested: dict[str, Any] = {}
    for place, value in flat.items():
        branch = nested
        for key in place[:-1]:
            branch = branch.setdefault(key, {})
        branch[place[-1]] = value
    return nested


def merge(first: dict[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Add the entries of `second` to `first`, level by level, and return it."""
    for key, value in second.items():
        first[key] = merge(first[key], value) if isinstance(first.get(key), dict) else value
    return first
