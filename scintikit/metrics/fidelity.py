"""How near synthetic scintigrams come to real ones: two sets of pictures compared.

None of these numbers means anything alone. Each stands beside its floor, the same number between two halves of the real
pictures, and, because most of them depend on how many pictures there are, beside its value at the floor's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import qr
from scipy.stats import rankdata, t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scintikit.errors import MetricError
from scintikit.metrics.checks import check_class_names, check_groups
from scintikit.metrics.classification import weighted_auc
from scintikit.metrics.intervals import Interval, bootstrap_intervals
from scintikit.metrics.spectrum import (
    grain_band,
    intensity_histograms,
    intensity_statistics,
    log_ratio,
    radial_spectra,
    spectral_distance,
)

NEIGHBOURS = 5
BLOCKS, BLOCK_SIZE = 10, 10  # blocks at most, pictures a block at least
REPEATS = 10
FEWEST = 12  # pictures on either side below which nothing is measured
ENOUGH = 200  # pictures on either side below which a warning is due
LEVEL = 0.95
ROC_POINTS = 101


def kid(
    real: ArrayLike,
    synthetic: ArrayLike,
    real_strata: ArrayLike | None = None,
    synthetic_strata: ArrayLike | None = None,
) -> float:
    """Return the kernel inception distance of features (N, D) and (M, D): the unbiased squared MMD.

    The kernel is ((x . y) / D + 1)^3. The expectation is 0 for two samples of the same distribution, whatever their
    sizes, so a value may be negative. Binkowski et al., Demystifying MMD GANs, ICLR 2018 (arXiv 1801.01401).

    Parameters
    ----------
    real, synthetic : array_like, shape (N, D) and (M, D)
    real_strata, synthetic_strata : array_like, shape (N,) and (M,), optional
        Classes, where both sides were given the same shares of them; both or neither. Such samples are more alike than
        independent ones; pairs within a class are weighted so that the expectation stays 0.
    """
    first, second = _check_features(real, synthetic)
    across = _kernel(first, second)
    one, other = _classes(real_strata, len(first), synthetic_strata, len(second))
    pairs = np.maximum(one.sum(axis=0) * other.sum(axis=0), 1)
    own_across = np.einsum("ic,ic->c", one, across @ other) / pairs
    return _within(first, one, own_across) + _within(second, other, own_across) - 2 * float(across.mean())


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _classes(one: ArrayLike | None, n: int, other: ArrayLike | None, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the strata of both sides as 0/1, (n, classes) and (m, classes); None is one class."""
    sides = [np.zeros(k) if side is None else np.asarray(side) for side, k in ((one, n), (other, m))]
    _, number = np.unique(np.concatenate(sides), return_inverse=True)
    of_class = np.eye(number.max() + 1)[number]
    return of_class[:n], of_class[n:]


def _within(features: np.ndarray, of_class: np.ndarray, own_across: np.ndarray) -> float:
    """Return the mean kernel of independent pairs, estimated from the pairs of different items."""
    count, sizes = len(features), of_class.sum(axis=0)
    kernel = _kernel(features, features)
    np.fill_diagonal(kernel, 0)
    # n_c (n_c - 1) pairs of different items stand for all n_c^2 of a class. The only item of a class has no such pair:
    # those with its class on the other side stand for it.
    own = np.einsum("ic,ic->c", of_class, kernel @ of_class) / np.maximum(sizes - 1, 1)
    return float((kernel.sum() + np.where(sizes == 1, own_across, own).sum()) / count**2)


def fid(real: ArrayLike, synthetic: ArrayLike) -> float:
    """Return the Frechet distance of the normal distributions fitted to features (N, D) and (M, D).

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)`, Heusel et al., NeurIPS 2017 (arXiv 1706.08500). The trace of the root
    is the sum of the singular values of R1 R2^T, where R^T R is a covariance matrix: exact, and much faster than a
    matrix root. Its bias grows as the samples shrink: compare values of equal sample sizes only.
    """
    first, second = _check_features(real, synthetic)
    difference = first.mean(axis=0) - second.mean(axis=0)
    one, other = _covariance_root(first), _covariance_root(second)
    overlap = np.linalg.norm(one @ other.T, "nuc")
    return max(0.0, float(difference @ difference + np.square(one).sum() + np.square(other).sum() - 2 * overlap))


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """Return an upper triangle R whose R^T R is the covariance matrix of features (N, D)."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return qr(centred, mode="r")[0][: features.shape[1]]


def neighbour_scores(real: ArrayLike, synthetic: ArrayLike, k: int = NEIGHBOURS) -> dict[str, np.ndarray]:
    """Return what each picture adds to precision, recall, density and coverage; the scores are the means.

    A ball around each item reaches to its k-th neighbour on its own side. Precision: share of synthetic items in a ball
    of a real one; recall: share of real items in a ball of a synthetic one (Kynkaanniemi et al., NeurIPS 2019,
    arXiv 1904.06991). Density: in how many real balls a synthetic item lies, divided by k; coverage: share of real
    balls with a synthetic item (Naeem et al., ICML 2020, arXiv 2002.09797).

    Parameters
    ----------
    real, synthetic : array_like, shape (N, D) and (M, D)
    k : int

    Returns
    -------
    dict
        `precision` and `density` (M,), `recall` and `coverage` (N,).
    """
    first, second = _check_features(real, synthetic)
    if min(len(first), len(second)) <= k:
        raise MetricError(f"{len(first)} and {len(second)} pictures have no {k}-th neighbours; give more, better 200.")
    distance = euclidean_distances(first, second)
    in_real = distance <= _reach(first, k)[:, None]
    in_synthetic = distance <= _reach(second, k)[None]
    return {
        "precision": in_real.any(axis=0).astype(float),
        "recall": in_synthetic.any(axis=1).astype(float),
        "density": in_real.sum(axis=0) / k,
        "coverage": in_real.any(axis=1).astype(float),
    }


def _reach(features: np.ndarray, k: int) -> np.ndarray:
    """Return each item's distance to its k-th neighbour, itself (at distance 0) not counted."""
    return np.partition(euclidean_distances(features), k, axis=1)[:, k]


def real_or_synthetic(
    real: ArrayLike, synthetic: ArrayLike, groups: ArrayLike, strata: ArrayLike | None = None, seed: int = 0
) -> np.ndarray:
    """Let a logistic regression tell real from synthetic pictures it was not fitted to.

    Two folds, each scored by the regression fitted to the other one, so that every picture gets a score; scores are
    ranks within the fold, because two regressions have no common scale.

    Parameters
    ----------
    real, synthetic : array_like, shape (N, D) and (M, D)
    groups : array_like, shape (N + M,)
        Patients of the real pictures, then of those the synthetic ones were made from; a group stays in one fold.
    strata : array_like of int, shape (N + M,), optional
        Classes, to be alike in both folds; that of a group is that of its first item.
    seed : int
        Decides the folds.

    Returns
    -------
    ndarray, shape (N + M,)
        From 0, looks real, to 1, looks synthetic.
    """
    values = np.concatenate(_check_features(real, synthetic))
    made = np.arange(len(values)) >= len(np.asarray(real))
    groups = check_groups(groups, len(values), "Groups")
    fold = _parts(2, np.zeros(len(values)) if strata is None else np.asarray(strata), made, groups, seed)
    scores = np.empty(len(values))
    for number in (0, 1):
        fitted, scored = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if len(np.unique(made[fitted])) < 2:
            raise MetricError("All real or all synthetic pictures are of one patient; nothing can be held out.")
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))
        answers = model.fit(values[fitted], made[fitted]).decision_function(values[scored])
        scores[scored] = rankdata(answers) / len(scored)
    return scores


def _parts(count: int, strata: np.ndarray, made: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return for each item which of `count` random parts it is in.

    Parts share no group and are alike in their strata and in what was made.
    """
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    has = np.zeros((2, len(first)), dtype=bool)  # a real item, a synthetic one
    has[made.astype(int), number] = True
    order = np.lexsort((np.random.default_rng(seed).permutation(len(first)), strata[first], *has))
    part = np.empty(len(first), dtype=int)
    part[order] = np.arange(len(first)) % count
    return part[number]


@dataclass(frozen=True)
class Sample:
    """One side of a comparison.

    Attributes
    ----------
    features : ndarray, shape (N, D)
    log_power : ndarray, shape (N, F)
        From `radial_spectra`.
    intensities : ndarray, shape (N, S)
        From `intensity_statistics`.
    histograms : ndarray, shape (N, B)
        From `intensity_histograms`.
    labels : ndarray of bool, shape (N, C)
        Which classes an item shows.
    patients : ndarray of str, shape (N,)
        For a synthetic item, that of the item it was made from.
    """

    features: np.ndarray
    log_power: np.ndarray
    intensities: np.ndarray
    histograms: np.ndarray
    labels: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(cls, pictures: np.ndarray, features: np.ndarray, labels: np.ndarray, patients: ArrayLike) -> Sample:
        """Return the sample of pictures (N, C, H, W) in [0, 1] whose features (N, D) an extractor found."""
        patients = check_groups(patients, len(pictures), "Patients")
        numbers = radial_spectra(pictures), intensity_statistics(pictures), intensity_histograms(pictures)
        return cls(features, *numbers, labels, patients)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.features)

    def take(self, chosen: np.ndarray | slice) -> Sample:
        """Return some of the items."""
        return Sample(*(getattr(self, field.name)[chosen] for field in fields(self)))


def fidelity_metrics(
    real: Sample,
    synthetic: Sample,
    class_names: Sequence[str],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare synthetic with real pictures, all together and class by class.

    Parameters
    ----------
    real, synthetic : Sample
    class_names : sequence of str
        C names in the order of the labels' columns.
    bootstrap : int
        Resamples; 0 gives values without intervals.
    seed : int
        Of folds, halves, blocks and the bootstrap.

    Returns
    -------
    dict
        JSON-able: `overall` and `per_class`, each with `n_real`, `n_synthetic`, `n_floor`, `scores` and `curves`, and
        the list `warnings`. A score is {"value", "low", "high", "matched", "floor"}; `matched` and `floor` are
        {"value", "low", "high"}: mean and range over repeats of one random half of the real pictures against as many
        synthetic ones made from other patients, and against the other half. What cannot be measured is None; a class
        with pictures of fewer than 12 patients on either side has no `scores`. docs/fidelity.md explains each score.

    Raises
    ------
    MetricError
        Arrays are unusable or there are pictures of fewer than 12 patients on either side.
    """
    names = check_class_names(class_names, real.labels.shape[1])
    warnings: list[str] = []
    overall = _compare(real, synthetic, "all classes", warnings, bootstrap, seed)
    if "scores" not in overall:
        raise MetricError(f"{warnings[-1]}; give more of them, better pictures of {ENOUGH} patients")
    per_class = {}
    for number, name in enumerate(names):
        one, other = (side.take(side.labels[:, number]) for side in (real, synthetic))
        per_class[name] = _compare(one, other, name, warnings, bootstrap, seed)
    return {"overall": overall, "per_class": per_class, "warnings": warnings}


def _compare(
    real: Sample, synthetic: Sample, name: str, warnings: list[str], bootstrap: int, seed: int
) -> dict[str, Any]:
    """Measure one group of pictures, its floor, and both at the same size; say in `warnings` what is doubtful."""
    rng = np.random.default_rng(seed)
    if _enough(real, synthetic):
        chosen = _like(real.labels, synthetic.labels, rng)
        if len(chosen):
            synthetic = synthetic.take(chosen)
        else:
            warnings.append(f"{name}: the synthetic pictures lack a class, which counts as a difference like any other")
    counts = {"n_real": len(real), "n_synthetic": len(synthetic)}
    found = f"{name}: {len(real)} real and {len(synthetic)} synthetic pictures"
    if not _enough(real, synthetic):
        warnings.append(f"{found} are too few to compare: not {FEWEST} patients on either side")
        return counts
    if min(counts.values()) < ENOUGH:
        warnings.append(
            f"{found}, fewer than {ENOUGH}: scores are uncertain; FID, precision, recall, density and coverage are "
            "biased, so compare them at the floor's size only"
        )
    scores, curves = _scores(real, synthetic, bootstrap, seed)
    matched, floor, bands = [], [], []
    for repeat in range(REPEATS):
        one, other, made = _same_size(real, synthetic, rng, seed + repeat)
        matched.append(_scores(one, made, 0, seed)[0])
        floor.append(_scores(one, other, 0, seed)[0])
        bands.append(log_ratio(one.log_power, other.log_power))
    curves["spectrum"] |= {"floor_low": _rounded(np.min(bands, axis=0)), "floor_high": _rounded(np.max(bands, axis=0))}
    compared = {
        key: score.as_json()
        | {"matched": _summary([m[key] for m in matched]), "floor": _summary([f[key] for f in floor])}
        for key, score in scores.items()
    }
    return {**counts, "n_floor": len(one), "scores": compared, "curves": curves}


def _enough(*sides: Sample) -> bool:
    return min(len(np.unique(side.patients)) for side in sides) >= FEWEST


def _same_size(real: Sample, synthetic: Sample, rng: np.random.Generator, seed: int) -> tuple[Sample, Sample, Sample]:
    """Return two halves of the real items by patient, and synthetic items, as many of each.

    The second half has no patient of the first, so synthetic items made from patients of the first are left out too:
    they would be nearer to it than the floor allows. Where too few others are left, they stay.
    """
    half = _parts(2, _strata(real.labels), np.zeros(len(real)), real.patients, seed)
    apart = synthetic.take(~np.isin(synthetic.patients, real.patients[half == 0]))
    made = apart if len(np.unique(apart.patients)) >= FEWEST // 2 else synthetic
    sides = real.take(half == 0), real.take(half == 1), made
    size = min(map(len, sides))
    one, other, made = (side.take(_thinned(side, size, rng)) for side in sides)
    return one, other, made


def _thinned(side: Sample, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return random items that keep the shares of the classes and have as many patients as possible.

    Pictures of, or made from, one patient are alike, so repeated patients would count as a difference from the others.
    """
    classes = _strata(side.labels)
    wanted = np.sort(classes)[np.floor((np.arange(size) + rng.random()) * len(classes) / size).astype(int)]
    shuffled = rng.permutation(len(classes))
    turn = np.empty(len(classes))  # 0 for a patient's first item, 1 for the second ...
    turn[shuffled] = _occurrence(side.patients[shuffled])
    order = np.lexsort((rng.permutation(len(classes)), turn, classes))
    return order[_occurrence(classes[order]) < np.bincount(wanted, minlength=classes.max() + 1)[classes[order]]]


def _occurrence(values: np.ndarray) -> np.ndarray:
    """Return for each value how many equal ones come before it."""
    order = np.argsort(values, kind="stable")
    _, first, number = np.unique(values[order], return_index=True, return_inverse=True)
    before = np.empty(len(values), dtype=int)
    before[order] = np.arange(len(values)) - first[number]
    return before


def _like(pattern: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the largest random choice of items whose classes have the same shares as in a pattern.

    Otherwise a generator asked for as many of each class would be blamed for it in the scores of all classes. The
    choice is empty if a class of the pattern is missing.
    """
    keys = _strata(np.concatenate([pattern, labels]))
    wanted = np.bincount(keys[: len(pattern)], minlength=keys.max() + 1)
    own = keys[len(pattern) :]
    found = np.bincount(own, minlength=len(wanted))
    factor = min(found[wanted > 0] / wanted[wanted > 0])
    shuffled = [rng.permutation(np.flatnonzero(own == key)) for key in range(len(wanted))]
    chosen = [items[: round(count * factor)] for items, count in zip(shuffled, wanted, strict=True)]
    return np.sort(np.concatenate(chosen))


def _strata(labels: np.ndarray) -> np.ndarray:
    """Return one number for each combination of classes."""
    return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)


def _scores(real: Sample, synthetic: Sample, bootstrap: int, seed: int) -> tuple[dict[str, Interval], dict[str, Any]]:
    """Return every score of one comparison, and the curves behind some of them."""
    groups = np.concatenate([real.patients, synthetic.patients])
    strata = _strata(np.concatenate([real.labels, synthetic.labels]))
    looks = {
        "auc_features": real_or_synthetic(real.features, synthetic.features, groups, strata, seed),
        "auc_spectrum": real_or_synthetic(_grain(real), _grain(synthetic), groups, strata, seed),
    }
    ratio = log_ratio(real.log_power, synthetic.log_power)
    band = grain_band(len(ratio))
    scores = {
        "kid": _kid_interval(real, synthetic, bootstrap > 0, seed),
        "fid": Interval(fid(real.features, synthetic.features)),
        **_bootstrapped(real, synthetic, looks, band, bootstrap, seed),
        "spectrum_distance": Interval(spectral_distance(ratio)),
        "grain_distance": Interval(spectral_distance(ratio[band])),
    }
    made = np.arange(len(groups)) >= len(real)
    curves = {
        "spectrum": {
            "real": _rounded(real.log_power.mean(axis=0)),
            "synthetic": _rounded(synthetic.log_power.mean(axis=0)),
        },
        "intensities": {
            "real": _rounded(real.histograms.mean(axis=0)),
            "synthetic": _rounded(synthetic.histograms.mean(axis=0)),
        },
        "roc": {key: _roc(made, look) for key, look in looks.items()},
    }
    return scores, curves


def _grain(side: Sample) -> np.ndarray:
    return np.concatenate([side.log_power, side.intensities], axis=1)


def _bootstrapped(
    real: Sample, synthetic: Sample, looks: dict[str, np.ndarray], band: np.ndarray, bootstrap: int, seed: int
) -> dict[str, Interval]:
    """Return the scores that are weighted means or ranks, with intervals from resampling patients."""
    near = neighbour_scores(real.features, synthetic.features)
    grain = [side.log_power[:, band].mean(axis=1) for side in (real, synthetic)]
    made = np.arange(len(real) + len(synthetic)) >= len(real)

    def statistic(weights: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
        of_real, of_synthetic = weights[:, : len(real)], weights[:, len(real) :]
        scores = {(key,): _mean(near[key], of_synthetic) for key in ("precision", "density")}
        scores |= {(key,): _mean(near[key], of_real) for key in ("recall", "coverage")}
        scores |= {(key,): weighted_auc(look, made, weights) for key, look in looks.items()}
        return scores | {("grain_ratio",): 10 ** (_mean(grain[1], of_synthetic) - _mean(grain[0], of_real))}

    patients = np.concatenate([real.patients, synthetic.patients])
    intervals = bootstrap_intervals(statistic, patients, n=bootstrap, seed=seed, level=LEVEL)
    return {key: interval for (key,), interval in intervals.items()}


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a resample may have lost one side
        return weights @ values / weights.sum(axis=1)


def _kid_interval(real: Sample, synthetic: Sample, interval: bool, seed: int) -> Interval:
    """Return KID of all items; the interval is that of the mean over disjoint blocks, which is wider than its own."""
    strata = _strata(np.concatenate([real.labels, synthetic.labels]))
    sides = [(real, strata[: len(real)]), (synthetic, strata[len(real) :])]
    value = kid(real.features, synthetic.features, *(number for _, number in sides))
    blocks = min(BLOCKS, *(len(np.unique(side.patients)) // BLOCK_SIZE for side, _ in sides))
    if blocks < 2 or not interval:
        return Interval(value)
    parts = [_parts(blocks, number, np.zeros(len(side)), side.patients, seed) for side, number in sides]
    values = []
    for block in range(blocks):
        one, other = ((side.features[p == block], n[p == block]) for (side, n), p in zip(sides, parts, strict=True))
        values.append(kid(one[0], other[0], one[1], other[1]))
    half = float(t.ppf((1 + LEVEL) / 2, blocks - 1) * np.std(values, ddof=1) / np.sqrt(blocks))
    return Interval(value, value - half, value + half)


def _summary(repeats: Sequence[Interval]) -> dict[str, float]:
    values = [repeat.value for repeat in repeats]
    return {"value": float(np.mean(values)), "low": min(values), "high": max(values)}


def _roc(made: np.ndarray, look: np.ndarray) -> dict[str, list[float]]:
    false_rate, true_rate, _ = roc_curve(made, look)
    grid = np.linspace(0, 1, ROC_POINTS)
    return {"false_rate": _rounded(grid), "true_rate": _rounded(np.interp(grid, false_rate, true_rate))}


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]


def _check_features(real: ArrayLike, synthetic: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(side, dtype=np.float64) for side in (real, synthetic))
    for side in (first, second):
        if side.ndim != 2 or len(side) < 2 or not np.isfinite(side).all():
            raise MetricError(f"Features of shape {side.shape} are unusable; expected finite (N, D), at least two.")
    if first.shape[1] != second.shape[1]:
        raise MetricError(
            f"The real features have {first.shape[1]} columns and the synthetic ones {second.shape[1]}; "
            "take both from one extractor."
        )
    return first, second
