"""Copies of training pictures are found whatever was done to them; pictures of other patients are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric
from scipy.ndimage import gaussian_filter, shift

from scintikit.errors import MetricError
from scintikit.metrics.memorisation import (
    LEAST,
    Neighbours,
    TrainingPictures,
    align,
    lower_tail_threshold,
    nearest_by_features,
)

SIDE = 64
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def uptake(seed: int) -> np.ndarray:
    """Expected counts of a model scintigram: two lobes, some spots, a body outline that all patients share."""
    rng = np.random.default_rng(seed)
    body = 40 / (1 + np.exp((np.hypot((ROWS - 70) / 1.6, COLUMNS - 31.5) - 28) / 1.5))
    spots = np.zeros((SIDE, SIDE))
    for side, size in ((-1, 300), (1, 300), *((0, 200) for _ in range(4))):
        row, column = rng.normal((30, 32 + 9 * side), (3, 2) if side else (7, 10))
        height, width = rng.uniform(3, 8), rng.uniform(2, 5)
        spots += (
            size * rng.uniform(0.3, 1) * np.exp(-(((ROWS - row) / height) ** 2 + ((COLUMNS - column) / width) ** 2))
        )
    return gaussian_filter(body + spots, 1)


def picture(expected: np.ndarray, seed: int) -> np.ndarray:
    """Poisson counts as (1, H, W), variance-stabilised, in [0, 1]."""
    root = np.sqrt(np.random.default_rng(seed).poisson(expected))
    return (root / np.percentile(root, 99.8)).clip(0, 1)[None].astype(np.float32)


def patients(numbers: range) -> np.ndarray:
    return np.stack([picture(uptake(number), number) for number in numbers])


def moved(expected: np.ndarray, flip: bool, down: float, right: float) -> np.ndarray:
    """Move, then mirror: the audit mirrors back first and finds the same shift."""
    placed = shift(expected, (down, right), order=3, mode="nearest").clip(0)
    return placed[:, ::-1] if flip else placed


@pytest.fixture(scope="module")
def training() -> np.ndarray:
    return patients(range(60))


@pytest.fixture(scope="module")
def bank(training: np.ndarray) -> TrainingPictures:
    return TrainingPictures(training)


@pytest.fixture(scope="module")
def others(bank: TrainingPictures) -> Neighbours:
    return bank.nearest(patients(range(1000, 1060)))


@pytest.mark.parametrize(
    ("flip", "down", "right"), [(False, 0, 0), (True, 0, 0), (False, 5, -3), (True, -2.5, 6.25), (False, 0.5, 0.3)]
)
def test_copies_with_fresh_grain_are_found_mirrored_or_shifted(
    bank: TrainingPictures, others: Neighbours, flip: bool, down: float, right: float
) -> None:
    copied = range(0, 60, 6)
    made = np.stack([picture(moved(uptake(number), flip, down, right), 5000 + number) for number in copied])
    near = bank.nearest(made)
    assert near.index.tolist() == list(copied)
    assert (near.flip == flip).all()
    assert near.shift == pytest.approx(np.tile([down, right], (10, 1)), abs=0.5)
    assert near.distance.max() < 0.5 * others.distance.min()
    assert near.ratio.max() < 0.3


def test_other_patients_are_not_near(others: Neighbours) -> None:
    assert others.distance.min() > 0.03
    assert np.median(others.ratio) > 0.6


def test_grain_hardly_counts(bank: TrainingPictures, training: np.ndarray) -> None:
    again = np.stack([picture(uptake(number), 9000 + number) for number in range(10)])
    same = bank.nearest(training[:10])
    assert same.distance == pytest.approx(np.zeros(10), abs=1e-4)
    as_they_are = SSIMMetric(2)(torch.from_numpy(again), torch.from_numpy(training[:10])).numpy()[:, 0]
    assert (bank.nearest(again).distance < 0.2 * (1 - as_they_are)).all()


def test_pictures_do_not_influence_each_other(bank: TrainingPictures, others: Neighbours) -> None:
    alone = bank.nearest(patients(range(1007, 1008)))
    assert alone.index[0] == others.index[7]
    assert alone.distance[0] == pytest.approx(others.distance[7], abs=1e-5)


def test_larger_and_oblong_pictures_with_two_views() -> None:
    def views(seed: int, flip: bool = False) -> np.ndarray:
        first, second = (picture(uptake(seed + offset), seed + offset) for offset in (0, 500))
        both = np.concatenate([first, second]).repeat(2, axis=1).repeat(3, axis=2)  # (2, 128, 192)
        return both[..., ::-1] if flip else both

    bank = TrainingPictures(np.stack([views(number) for number in range(12)]))
    near = bank.nearest(np.stack([np.roll(views(3, flip=True), 6, axis=1), views(8)]))
    assert near.index.tolist() == [3, 8]
    assert near.flip.tolist() == [True, False]
    assert near.shift == pytest.approx(np.array([[6, 0], [0, 0]]), abs=1)  # in pixels of the pictures
    assert near.distance.max() < 0.02


def test_align_undoes_what_was_done(bank: TrainingPictures, training: np.ndarray) -> None:
    made = picture(moved(uptake(4), True, 3, -4), 1)[None]
    near = bank.nearest(made)
    inner = (..., slice(8, -8), slice(8, -8))
    before, after = (np.abs(p - training[4])[inner].mean() for p in (made[0], align(made, near.flip, near.shift)[0]))
    assert after < 0.6 * before


def test_one_training_picture_has_no_ratio(training: np.ndarray) -> None:
    near = TrainingPictures(training[:1]).nearest(training[:3])
    assert near.index.tolist() == [0, 0, 0]
    assert np.isnan(near.ratio).all()


def test_features_find_the_nearest_mirrored_or_not() -> None:
    training = np.eye(4, dtype=np.float32)
    own = np.array([[9, 1, 0, 0], [1, 1, 1, 1]], dtype=np.float32)
    mirrored = np.array([[1, 1, 1, 1], [0, 0, 0, 2]], dtype=np.float32)
    index, distance = nearest_by_features(own, mirrored, training)
    assert index.tolist() == [0, 3]
    assert distance == pytest.approx([1 - 9 / np.sqrt(82), 0], abs=1e-6)


@pytest.mark.parametrize(("size", "rate"), [(500, 0.001), (500, 0.0005), (100, 0.005)])
def test_threshold_lets_the_stated_share_pass(size: int, rate: float) -> None:
    """Distances in eight dimensions: P(d < x) = 1 - exp(-x^8)."""
    rng = np.random.default_rng(0)
    thresholds = np.array([lower_tail_threshold(rng.weibull(8, size), rate) for _ in range(400)])
    shares = 1 - np.exp(-(thresholds**8))
    assert np.median(shares) == pytest.approx(rate, rel=0.4)
    assert shares.mean() < 3 * rate


def test_threshold_may_lie_below_all_reference_distances() -> None:
    reference = np.random.default_rng(1).weibull(8, 200)
    assert lower_tail_threshold(reference, 1e-4) < reference.min()
    assert lower_tail_threshold(10 * reference, 0.01) == pytest.approx(10 * lower_tail_threshold(reference, 0.01))


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (np.zeros((2, 1, 8, 64), np.float32), "16 pixels"),
        (np.zeros((2, 64, 64), np.float32), "expected finite"),
        (np.full((2, 1, 64, 64), np.nan, np.float32), "expected finite"),
        (np.full((2, 1, 64, 64), 2, np.float32), "0 to 1"),
    ],
)
def test_unusable_pictures_are_refused(pictures: np.ndarray, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        TrainingPictures(pictures)


def test_pictures_of_another_shape_are_refused(bank: TrainingPictures) -> None:
    with pytest.raises(MetricError, match="preprocess both in the same way"):
        bank.nearest(np.zeros((1, 1, 32, 32), np.float32))


@pytest.mark.parametrize(
    ("reference", "rate", "message"),
    [
        (np.ones(LEAST - 1), 0.001, "at least 10"),
        (np.full(50, np.nan), 0.001, "finite"),
        (np.arange(1, 101), 0.2, "below 0.1"),
        (np.arange(1, 101), 0, "between 0 and 1"),
    ],
)
def test_unusable_references_are_refused(reference: np.ndarray, rate: float, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        lower_tail_threshold(reference, rate)
