"""Do two ways of training differ, when both the test patients and the training seeds are a sample?

Patients and seeds are crossed, as cases and readers are in studies of observers: every training sees every patient.
The difference D_k of two trainings with the same seed k then varies with the seed (another seed, another difference)
and with the patients, in a way that all seeds share. Formulas and what was simulated: `docs/metrics.md`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import digamma, polygamma, stdtr, stdtrit

from scintikit.metrics.intervals import Interval

SMALLEST = 1e-12  # of a standard error: below the rounding of any score, so that equal values stay ties


@dataclass(frozen=True)
class Difference:
    """A mean difference over paired seeds and its distribution: of `resampled` plus `error` times Student's t.

    The effect is Cohen's d_z; `undefined` resamples were left out. What cannot be told is NaN.
    """

    value: float
    resampled: np.ndarray
    error: float = 0.0
    degrees: float = 1.0
    effect: float = np.nan
    seeds: int = 0
    undefined: int = 0

    def interval(self, level: float = 0.95) -> Interval:
        """Return the value between two quantiles of its distribution."""
        low, high = (self._quantile(probability) for probability in ((1 - level) / 2, (1 + level) / 2))
        return Interval(self.value, low, high, self.undefined)

    def p(self) -> float:
        """Return the two-sided p of no difference; never less than the smallest that so many resamples can tell."""
        if not self.resampled.size:
            return np.nan
        tail = self._below(0.0)
        return min(1.0, 2 * max(min(tail, 1 - tail), 1 / (1 + len(self.resampled))))

    def _below(self, value: float) -> float:
        """Return the probability of less than a value, of which what equals it counts half."""
        return float(stdtr(self.degrees, (value - self.resampled) / max(self.error, SMALLEST)).mean())

    def _quantile(self, probability: float) -> float:
        if not self.resampled.size:
            return np.nan
        step = self.error * float(stdtrit(self.degrees, probability))
        lowest, highest = (float(end) + step for end in (self.resampled.min(), self.resampled.max()))
        margin = 1e-9 + self.error  # rounding must not put the root outside
        return float(brentq(lambda value: self._below(value) - probability, lowest - margin, highest + margin))


def paired_differences(scores: np.ndarray, base: int, patients: int) -> list[Difference]:
    """Return how each scenario differs from a base, with other patients and other seeds in mind.

    Parameters
    ----------
    scores : ndarray, shape (S, K, 1 + R)
        Of S scenarios with K seeds: the score, then that of each of R resamples of the patients, which are the same
        for all. NaN for a missing run and for a resample that does not define the score.
    base : int
        Index of the scenario that the others are compared with.
    patients : int
        Their number, for the effect size.

    Returns
    -------
    list of Difference
        One for each scenario (that of the base with itself is 0), from the seeds that both sides have. With one such
        seed, interval and p are over patients alone.

    Notes
    -----
    The part of the patients is the bootstrap of the mean difference, scaled to the covariance that different seeds
    share: what is left of its variance is already in the variance of the seeds (Obuchowski and Rockette, Commun. Stat.
    Simul. Comput. 1995;24:285; Hillis et al., Acad. Radiol. 2008;15:647). The part of the seeds is Student's t times
    their standard error. The sum of the two is Behrens' and Fisher's distribution, which at any ratio of the two
    variances calls no more than it should (Robinson, Ann. Stat. 1976;4:963); a crossed bootstrap of 3 to 5 seeds calls
    too much. The effect size is the difference in units of the standard deviation of what one patient contributes to
    it (d_z: Lakens, Front. Psychol. 2013;4:863), estimated by the bootstrap.
    """
    variances, degrees = seed_variances(scores[:, :, 0])
    return [
        _difference(scores[other] - scores[base], variances[other] + variances[base], degrees, patients)
        for other in range(len(scores))
    ]


def _difference(differences: np.ndarray, expected: float, degrees: float, patients: int) -> Difference:
    """Return the difference from those of each seed `(K, 1 + R)` and the variance that is expected between seeds."""
    differences = differences[~np.isnan(differences[:, 0])]
    seeds = len(differences)
    if not seeds:
        return Difference(np.nan, np.empty(0))
    values, resampled = differences[:, 0], differences[:, 1:]
    resampled = resampled[:, ~np.isnan(resampled).any(axis=0)]
    value, undefined = float(values.mean()), differences.shape[1] - 1 - resampled.shape[1]
    if not resampled.size:
        return Difference(value, np.empty(0), seeds=seeds, undefined=undefined)
    deviations = resampled.mean(axis=0) - value
    spread, error = float(deviations.std()), 0.0
    effect = value / (spread * np.sqrt(patients)) if spread > SMALLEST else np.nan
    if seeds > 1:
        covariance = (seeds * spread**2 - resampled.var(axis=1).mean()) / (seeds - 1)
        deviations = deviations * np.sqrt(max(covariance, 0) / max(spread, SMALLEST) ** 2)
        error = float(np.sqrt(max(values.var(ddof=1), expected) / seeds))
    return Difference(value, value + deviations, error, degrees, effect, seeds, undefined)


def seed_variances(scores: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the variance of each scenario between its seeds `(S,)`, and how many degrees of freedom it has.

    Parameters
    ----------
    scores : ndarray, shape (S, K)
        NaN for a missing run.

    Notes
    -----
    Three to five seeds tell a variance badly, so scenarios learn from each other: what a seed does to all of them is
    taken away, and each variance is drawn to the common one by empirical Bayes, the more so the less the scenarios
    differ (Smyth, Stat. Appl. Genet. Mol. Biol. 2004;3:3, section 6.2). It is never taken below the scenario's own.
    Two scenarios give the variance of the ordinary paired t-test.
    """
    trained = (~np.isnan(scores)).sum(axis=0)
    scores = scores[:, trained > 1]
    trained = trained[trained > 1]
    # Taking away the mean of t values takes away 1 / t of the variance.
    rest = (scores - np.nanmean(scores, axis=0)) / np.sqrt(1 - 1 / trained)
    own_degrees = (~np.isnan(scores)).sum(axis=1) - 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a scenario with one seed has none
        own = np.nanvar(rest, axis=1, ddof=1)
    known = own_degrees > 0
    if not known.any() or not own[known].any():
        return np.zeros(len(scores)), 1.0
    degrees = own_degrees[known]
    prior, prior_degrees = _prior(own[known], degrees)
    variances = np.full(len(scores), prior)
    if np.isfinite(prior_degrees):
        variances[known] = (prior_degrees * prior + degrees * own[known]) / (prior_degrees + degrees)
    variances[known] = np.maximum(variances[known], own[known])
    pooled = degrees.sum() * (1 - 1 / len(degrees)) if len(degrees) > 1 else degrees[0]
    return variances, float(min(prior_degrees + degrees.min(), pooled))


def _prior(variances: np.ndarray, degrees: np.ndarray) -> tuple[float, float]:
    """Return the variance that scenarios have in common, and how many degrees of freedom this knowledge is worth."""
    common = float(np.average(variances, weights=degrees))
    if len(variances) < 2:
        return common, np.inf
    logarithms = np.log(np.maximum(variances, 1e-5 * common)) - digamma(degrees / 2) + np.log(degrees / 2)
    excess = float(logarithms.var(ddof=1) - polygamma(1, degrees / 2).mean())
    few, many = 1e-2, 1e4
    if excess <= polygamma(1, many / 2):
        return common, np.inf
    excess = min(excess, float(polygamma(1, few / 2)))
    worth = float(brentq(lambda worth: polygamma(1, worth / 2) - excess, few, many))
    return float(np.exp(logarithms.mean() + digamma(worth / 2) - np.log(worth / 2))), worth


def holm(p: Sequence[float] | ArrayLike) -> np.ndarray:
    """Return p-values corrected for their number (Holm, Scand. J. Stat. 1979;6:65); NaN is no test and stays NaN."""
    values = np.asarray(p, dtype=float)
    tests = int((~np.isnan(values)).sum())
    order = np.argsort(values)[:tests]  # NaN comes last
    corrected = np.full(values.shape, np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(tests, 0, -1)))
    return corrected
