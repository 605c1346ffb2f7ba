"""Confidence intervals by bootstrap over patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scintikit.errors import MetricError
from scintikit.metrics.checks import check_fraction, check_groups
from scintikit.metrics.classification import plain

CHUNK_ELEMENTS = 2_000_000  # weights handled at once: 16 MB, however large the data set


@dataclass(frozen=True)
class Interval:
    """A value with its interval; NaN for what cannot be measured, `undefined` resamples were left out."""

    value: float
    low: float = np.nan
    high: float = np.nan
    undefined: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return {"value", "low", "high"} with None for NaN, and "undefined" if resamples were left out."""
        entry: dict[str, Any] = {name: plain(getattr(self, name)) for name in ("value", "low", "high")}
        return entry | ({"undefined": self.undefined} if self.undefined else {})


def bootstrap_intervals(
    statistic: Callable[[np.ndarray], Mapping[tuple[str, ...], np.ndarray]],
    patients: ArrayLike,
    centres: ArrayLike | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[tuple[str, ...], Interval]:
    """Return percentile intervals of a statistic from resampling patients within their centre.

    Parameters
    ----------
    statistic : callable
        Takes weights `(R, N)`, how often each item was drawn, and returns named arrays `(R,)`; NaN where the
        statistic is undefined.
    patients : array_like, shape (N,)
        All items of a drawn patient come together, because images of one patient are not independent.
    centres : array_like, shape (N,), optional
        As many patients are drawn from each centre as it has. A patient seen in several centres counts for that of
        the first item. Centres with one patient are taken together: each on its own would always give that patient,
        and many of them an interval without width.
    n : int
        Resamples; 0 gives values without intervals.
    seed : int
        The same seed gives the same intervals.
    level : float
        Confidence level of the two-sided interval.

    Returns
    -------
    dict
        An `Interval` for every name. An interval is missing (NaN) if no resample defines the statistic (how many
        did not is its `undefined`), or if there is only one patient.

    Raises
    ------
    MetricError
        Lengths differ, `n` is negative or `level` is not between 0 and 1.

    Notes
    -----
    Percentile method: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    check_fraction(level, "The confidence level")
    resampled = bootstrap_values(statistic, patients, centres, n=n, seed=seed)
    return {name: percentile_interval(values, level) for name, values in resampled.items()}


def bootstrap_values(
    statistic: Callable[[np.ndarray], Mapping[tuple[str, ...], np.ndarray]],
    patients: ArrayLike,
    centres: ArrayLike | None = None,
    *,
    n: int,
    seed: int,
) -> dict[tuple[str, ...], np.ndarray]:
    """Return under each name the statistic itself and then that of each resample, `(1 + n,)`.

    Parameters are those of `bootstrap_intervals`. One patient alone has no resamples.
    """
    weights = bootstrap_weights(patients, centres, n=n, seed=seed)
    n = n if len(np.unique(np.asarray(patients).astype(str))) > 1 else 0
    rows = max(1, CHUNK_ELEMENTS // weights.shape[1])
    chunks = [statistic(weights[start : start + rows].astype(float)) for start in range(0, n, rows)]
    values = statistic(np.ones((1, weights.shape[1])))
    return {name: np.concatenate([value, *(chunk[name] for chunk in chunks)]) for name, value in values.items()}


def bootstrap_weights(patients: ArrayLike, centres: ArrayLike | None = None, *, n: int, seed: int) -> np.ndarray:
    """Return how often each item is drawn in each of `n` resamples of the patients, int32 `(n, N)`."""
    if n < 0:
        raise MetricError(f"The number of bootstrap resamples is {n}; expected 0 or more, 1000 is usual.")
    patients = np.asarray(patients)
    if patients.ndim != 1 or not patients.size:
        raise MetricError(f"Patients have shape {patients.shape}; expected a list with one for each item.")
    patients = patients.astype(str)
    centres = np.zeros(len(patients)) if centres is None else check_groups(centres, len(patients), "Centres")
    _, first, patient_of_item = np.unique(patients, return_index=True, return_inverse=True)
    _, stratum, size = np.unique(centres[first], return_inverse=True, return_counts=True)
    stratum = np.where(size[stratum] == 1, -1, stratum)
    drawn = np.zeros((n, len(first)), dtype=np.int32)
    generator = np.random.default_rng(seed)
    for number in np.unique(stratum):
        members = np.flatnonzero(stratum == number)
        drawn[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=n)
    return drawn[:, patient_of_item]


def percentile_interval(values: np.ndarray, level: float) -> Interval:
    """Return the first of the values `(1 + n,)` with the interval between percentiles of the others."""
    value, resampled = float(values[0]), values[1:]
    defined = resampled[~np.isnan(resampled)]
    undefined = resampled.size - defined.size
    if np.isnan(value) or not defined.size:
        return Interval(value, undefined=0 if np.isnan(value) else undefined)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), undefined)
