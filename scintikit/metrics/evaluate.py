"""All that is measured on a classifier's test, in one dictionary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scintikit.metrics.calibration import calibration_scores, expected_calibration_error, reliability_curve
from scintikit.metrics.checks import check_class_names, check_groups, check_labels, check_probabilities
from scintikit.metrics.classification import Scores, classification_counts, classification_scores, merge, nest
from scintikit.metrics.conformal import conformal_scores, conformal_sets
from scintikit.metrics.intervals import Interval, bootstrap_values, percentile_interval

PER_CENTRE = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")
LEVEL = 0.95


def evaluate_classifier(
    probabilities: ArrayLike,
    labels: ArrayLike,
    patients: ArrayLike,
    centres: ArrayLike,
    class_names: Sequence[str],
    *,
    conformal_threshold: ArrayLike | None = None,
    conformal_alpha: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a classifier on its test, each number with a 95 % interval.

    Parameters
    ----------
    probabilities : array_like, shape (N, C)
    labels : array_like of int, shape (N,)
    patients, centres : array_like, shape (N,)
        Pseudonyms; intervals come from resampling patients within their centre (`bootstrap_intervals`).
    class_names : sequence of str
        C names in the order of the columns.
    conformal_threshold : array_like, optional
        A number or shape (C,), calibrated on validation data; without it there is no section `conformal`.
    conformal_alpha : float, optional
        The alpha of that calibration; the result then names the coverage that was promised.
    bootstrap : int
        Resamples; 0 gives values without intervals.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        JSON-able, without NaN: `n`, `patients`, `classes`, `macro_classes`, `overall`, `per_class`, `confusion` (all
        explained in `classification_metrics`), `per_centre`, `calibration` (`ece` without interval, `brier`,
        `reliability`),
        `conformal` (`coverage`, `set_size`, ... also `per_class` and `per_centre`, and the histogram `sizes`) and
        `intervals`, how they were made. An estimate is {"value", "low", "high"}, None where it cannot be measured,
        plus "undefined", the number of resamples that do not define it, if there are any. Macro averages of a centre
        run over the `macro_classes` that it has. A centre with one patient has no intervals.

    Raises
    ------
    MetricError
        Shapes, probabilities, labels or the threshold are unusable.
    """
    probabilities = check_probabilities(probabilities)
    labels = check_labels(labels, *probabilities.shape)
    names = check_class_names(class_names, probabilities.shape[1])
    patients = check_groups(patients, len(labels), "Patients")
    centres = check_groups(centres, len(labels), "Centres")
    sets = None if conformal_threshold is None else conformal_sets(probabilities, conformal_threshold)

    def statistic(weights: np.ndarray) -> Scores:
        scores = classifier_scores(probabilities, labels, weights, names, centres)
        return scores if sets is None else scores | conformal_scores(sets, labels, weights, names, centres)

    result = estimates(statistic, patients, centres, bootstrap, seed)
    merge(result, classification_counts(probabilities, labels, names))
    merge(result, {"per_centre": _centre_classes(labels, centres)})
    result["calibration"]["ece"] = Interval(expected_calibration_error(probabilities, labels)).as_json()
    result["calibration"]["reliability"] = reliability_curve(probabilities, labels)
    if sets is not None:
        result["conformal"]["sizes"] = np.bincount(sets.sum(axis=1), minlength=len(names) + 1).tolist()
        result["conformal"]["promised"] = None if conformal_alpha is None else 1 - conformal_alpha
    return result


def estimates(
    statistic: Callable[[np.ndarray], Scores], patients: np.ndarray, centres: np.ndarray, bootstrap: int, seed: int
) -> dict[str, Any]:
    """Return every value of a statistic with its interval, JSON-able, and how the intervals were made.

    Parameters
    ----------
    statistic : callable
        As for `bootstrap_intervals`; what lies at ("per_centre", centre, ...) is of that centre's items alone.
    patients, centres : ndarray of str, shape (N,)
    bootstrap, seed : int
        Resamples and their seed.

    Returns
    -------
    dict
        The estimates by their places, `patients` (their number), `per_centre` also with `n` (items) and `patients`,
        and `intervals`. A centre with one patient has no intervals.
    """
    values = bootstrap_values(statistic, patients, centres, n=bootstrap, seed=seed)
    sizes = {str(centre): _sizes(patients[centres == centre]) for centre in np.unique(centres)}
    result = nested_intervals(values, {name for name, size in sizes.items() if size["patients"] == 1})
    how = {
        "method": "percentile bootstrap over patients within their centre",
        "level": LEVEL,
        "resamples": bootstrap,
        "seed": seed,
    }
    return merge(result, {"per_centre": sizes, "patients": len(np.unique(patients)), "intervals": how})


def nested_intervals(values: Mapping[tuple[str, ...], np.ndarray], alone: Collection[str]) -> dict[str, Any]:
    """Return what `bootstrap_values` gave as estimates by their places; centres of one patient have no intervals."""
    return nest(
        {
            # Resampling one patient tells nothing.
            place: percentile_interval(
                value[:1] if "per_centre" in place and place[place.index("per_centre") + 1] in alone else value, LEVEL
            ).as_json()
            for place, value in values.items()
        }
    )


def _sizes(patients: np.ndarray) -> dict[str, int]:
    return {"n": len(patients), "patients": len(np.unique(patients))}


def classifier_scores(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, names: Sequence[str], centres: np.ndarray
) -> Scores:
    """Return `classification_scores` with the Brier score and with the scores of each centre, arrays `(R,)`."""
    scores = classification_scores(probabilities, labels, weights, names)
    scores |= calibration_scores(probabilities, labels, weights)
    for centre in np.unique(centres):
        of = centres == centre
        own = classification_scores(probabilities[of], labels[of], weights[:, of], names)
        scores |= {("per_centre", str(centre), metric): own["overall", metric] for metric in PER_CENTRE}
    return scores


def _centre_classes(labels: np.ndarray, centres: np.ndarray) -> dict[str, dict[str, int]]:
    return {str(centre): {"macro_classes": len(np.unique(labels[centres == centre]))} for centre in np.unique(centres)}
