"""Do probabilities mean what they say? Calibration error, Brier score, reliability curve, temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from scintikit.errors import MetricError
from scintikit.metrics.checks import check_labels, check_probabilities
from scintikit.metrics.classification import Scores, plain, ratio

BINS = 15
TEMPERATURES = (0.05, 20.0)


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error of the confidence, that is, the highest probability of an item.

    Items fall into `bins` equal intervals (low, high] of confidence in [0, 1]; ECE is the mean over items of the
    difference between the accuracy and the mean confidence of the item's bin (Guo et al., ICML 2017, eq. 3).

    It comes without an interval: chance differences within the bins push it up, the more so in a bootstrap resample,
    whose percentiles can lie above the value itself.
    """
    probabilities = check_probabilities(probabilities)
    labels = check_labels(labels, *probabilities.shape)
    return calibration_error(*_confidence(probabilities, labels), bins)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the same for any probabilities `(N,)` and whether what they promise came true `(N,)`, 0 or 1."""
    member = _members(confidence, bins)
    return float(np.abs((confidence - correct) @ member).sum() / len(confidence))


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the multi-class Brier score: mean over items of the sum over classes of (p - y)^2, from 0 to 2.

    For two classes it is twice the usual binary score (Brier, Mon. Weather Rev. 1950;78:1).
    """
    probabilities = check_probabilities(probabilities)
    labels = check_labels(labels, *probabilities.shape)
    return float(calibration_scores(probabilities, labels, np.ones((1, len(labels))))["calibration", "brier"][0])


def calibration_scores(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Scores:
    """Return the Brier score `(R,)` for each of R sets of item weights `(R, N)`."""
    squares = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    return {("calibration", "brier"): weights @ squares / weights.sum(axis=1)}


def reliability_curve(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> dict[str, list[Any]]:
    """Return what a reliability diagram shows, JSON-able.

    Returns
    -------
    dict
        `edges` (bins + 1), and for every bin `count`, mean `confidence` and `accuracy` (None in an empty bin).
    """
    probabilities = check_probabilities(probabilities)
    labels = check_labels(labels, *probabilities.shape)
    return calibration_curve(*_confidence(probabilities, labels), bins)


def calibration_curve(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> dict[str, list[Any]]:
    """Return the same for any probabilities `(N,)` and whether what they promise came true `(N,)`, 0 or 1."""
    member = _members(confidence, bins)
    count = member.sum(axis=0)
    return {
        "edges": np.linspace(0, 1, bins + 1).tolist(),
        "count": count.astype(int).tolist(),
        "confidence": [plain(value) for value in ratio(confidence @ member, count)],
        "accuracy": [plain(value) for value in ratio(correct @ member, count)],
    }


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the temperature T that makes softmax(logits / T) most likely on validation data.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Logits, or logarithms of probabilities, which differ from them by a constant per item.
    labels : array_like of int, shape (N,)
        They must not be the test's.

    Returns
    -------
    float
        Above 1 if the classifier is over-confident; between 0.05 and 20.

    Raises
    ------
    MetricError
        Logits are not finite (clip probabilities before taking the logarithm) or the labels are unusable.

    Notes
    -----
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017. The order of the classes does not change.
    """
    logits = _check_logits(logits)
    labels = check_labels(labels, *logits.shape)
    items = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[items, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def apply_temperature(logits: ArrayLike, temperature: float) -> np.ndarray:
    """Return the probabilities softmax(logits / temperature), float64 `(N, C)`."""
    if not temperature > 0:
        raise MetricError(f"The temperature is {temperature}; expected a number above 0.")
    return softmax(_check_logits(logits) / temperature, axis=1)


def _confidence(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each item's highest probability, and whether it was right."""
    return probabilities.max(axis=1), (probabilities.argmax(axis=1) == labels).astype(float)


def _members(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return each item's bin as one-hot rows `(N, bins)`."""
    if bins < 1:
        raise MetricError(f"The number of bins is {bins}; expected at least 1.")
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    return np.eye(bins)[np.digitize(confidence, inner_edges, right=True)]


def _check_logits(logits: ArrayLike) -> np.ndarray:
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or not np.isfinite(values).all():
        raise MetricError(f"Logits of shape {values.shape} are unusable; expected finite numbers (items, classes).")
    return values
