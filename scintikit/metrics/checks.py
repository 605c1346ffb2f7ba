"""What every metric asks of its input, checked in one place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from scintikit.errors import MetricError

SUM_TOLERANCE = 1e-3  # probabilities may come from bfloat16 networks or from a CSV file with few digits


def check_probabilities(probabilities: ArrayLike) -> np.ndarray:
    """Return probabilities as float64 `(N, C)` with finite rows in [0, 1] that sum to 1, or raise `MetricError`.

    What rounding has put above 1 becomes 1.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise MetricError(f"Probabilities have shape {values.shape}; expected (items, classes), at least 1 x 2.")
    _refuse(~np.isfinite(values).all(axis=1), "Probabilities are not finite", "check the network's output")
    outside = (values < 0).any(axis=1) | (values > 1 + SUM_TOLERANCE).any(axis=1)
    _refuse(outside, "Probabilities lie outside [0, 1]", "apply softmax to logits first")
    _refuse(np.abs(values.sum(axis=1) - 1) > SUM_TOLERANCE, "Probabilities do not sum to 1", "apply softmax first")
    return values.clip(max=1)


def check_labels(labels: ArrayLike, items: int, classes: int) -> np.ndarray:
    """Return labels as int64 `(N,)` within `0 .. classes - 1`, or raise `MetricError`."""
    values = np.asarray(labels)
    if values.shape != (items,):
        raise MetricError(f"Labels have shape {values.shape}; expected one for each of the {items} items.")
    if not np.issubdtype(values.dtype, np.integer):
        raise MetricError(f"Labels have type {values.dtype}; expected integers 0 .. {classes - 1}.")
    _refuse((values < 0) | (values >= classes), "Labels are unknown", f"expected integers 0 .. {classes - 1}")
    return values.astype(np.int64)


def check_disease_probabilities(probabilities: ArrayLike) -> np.ndarray:
    """Return one probability for each disease by itself, float64 `(N, D)` within [0, 1], or raise `MetricError`."""
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise MetricError(f"Probabilities have shape {values.shape}; expected (items, diseases), at least 1 x 1.")
    _refuse(~np.isfinite(values).all(axis=1), "Probabilities are not finite", "check the network's output")
    outside = ((values < 0) | (values > 1)).any(axis=1)
    _refuse(outside, "Probabilities lie outside [0, 1]", "apply the sigmoid to logits first")
    return values


def check_disease_labels(labels: ArrayLike, items: int, diseases: int) -> np.ndarray:
    """Return which item has which disease as bool `(N, D)` from 0 and 1, or raise `MetricError`."""
    values = np.asarray(labels)
    if values.shape != (items, diseases):
        raise MetricError(
            f"Labels have shape {values.shape}; expected ({items}, {diseases}): one per item and disease."
        )
    _refuse(~np.isin(values, (0, 1)).all(axis=1), "Labels are unknown", "expected 0 (absent) or 1 (present)")
    return values.astype(bool)


def check_class_names(class_names: Sequence[str], classes: int) -> list[str]:
    """Return the class names as a list of `classes` different strings, or raise `MetricError`."""
    names = [str(name) for name in class_names]
    if len(names) != classes or len(set(names)) != classes:
        raise MetricError(f"Got the class names {names}; expected {classes} different ones, in the columns' order.")
    return names


def check_groups(groups: ArrayLike, items: int, what: str) -> np.ndarray:
    """Return one string per item (its patient or its centre), or raise `MetricError`."""
    values = np.asarray(groups)
    if values.shape != (items,):
        raise MetricError(f"{what} have shape {values.shape}; expected one for each of the {items} items.")
    return values.astype(str)


def check_fraction(value: float, what: str) -> float:
    """Return a number strictly between 0 and 1, or raise `MetricError`."""
    if not 0 < value < 1:
        raise MetricError(f"{what} is {value}; expected a number between 0 and 1, both excluded.")
    return float(value)


def _refuse(bad: ArrayLike, problem: str, remedy: str) -> None:
    bad = np.asarray(bad)
    if bad.any():
        raise MetricError(f"{problem} in {bad.sum()} of {bad.size} rows, first in row {int(bad.argmax())}; {remedy}.")
