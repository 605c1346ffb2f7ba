"""Scores of sets of pictures: equal to their definitions, near their floor where they should be, far where not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from monai.metrics import FIDMetric
from sklearn.metrics import roc_auc_score

from scintikit.errors import MetricError
from scintikit.metrics import Sample, fid, fidelity_metrics, kid
from scintikit.metrics.fidelity import neighbour_scores, real_or_synthetic

NAMES = ["normal", "goiter"]


def normal(seed: int, *shape: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, shape)


def sample(
    seed: int, counts: tuple[int, int] = (60, 40), *, shift: float = 0.0, grain: float = 0.0, patients: str = "r"
) -> Sample:
    """Two classes that lie apart; `shift` moves the features, `grain` the power of the high frequencies."""
    label = np.repeat([0, 1], counts)
    total = len(label)
    log_power = normal(seed + 1, total, 30, scale=0.1)
    log_power[:, 20:] += grain
    features = normal(seed, total, 8, shift=shift)
    features[:, 0] += 3 * label
    return Sample(
        features=features,
        log_power=log_power,
        intensities=normal(seed + 2, total, 4),
        histograms=np.full((total, 50), 0.02),
        labels=np.eye(2, dtype=bool)[label],
        patients=np.array([f"{patients}{number}" for number in range(total)]),
    )


# --- KID ---


def test_kid_is_the_mean_over_pairs_of_different_items() -> None:
    real, synthetic = normal(0, 7, 3), normal(1, 5, 3)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / 3 + 1) ** 3

    def within(side: np.ndarray) -> float:
        return np.mean([kernel(a, b) for i, a in enumerate(side) for j, b in enumerate(side) if i != j])

    across = np.mean([kernel(a, b) for a in real for b in synthetic])
    assert kid(real, synthetic) == pytest.approx(within(real) + within(synthetic) - 2 * across)


def test_kid_of_one_distribution_is_zero_on_average_whatever_the_sizes() -> None:
    values = [kid(normal(2 * k, 20, 4), normal(2 * k + 1, 50, 4)) for k in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
    assert kid(normal(0, 50, 4), normal(1, 50, 4, shift=1)) > 5 * np.std(values)


def test_kid_of_samples_with_the_same_classes_is_zero_on_average() -> None:
    strata = np.repeat([0, 1], [8, 12])
    plain, weighted = [], []
    for number in range(300):
        sides = [normal(2 * number + k, 20, 4) + 2 * strata[:, None] for k in (0, 1)]
        plain.append(kid(*sides))
        weighted.append(kid(*sides, strata, strata))
    error = np.std(weighted) / np.sqrt(300)
    assert abs(np.mean(weighted)) < 3 * error
    assert np.mean(plain) < -10 * error


def test_kid_with_classes_of_one_item_is_zero_on_average() -> None:
    strata = np.array([0] * 12 + [1, 2, 3, 4])
    places = normal(99, 5, 4, scale=2)
    values = []
    for number in range(300):
        sides = [normal(2 * number + k, 16, 4) + places[strata] for k in (0, 1)]
        values.append(kid(*sides, strata, strata))
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


# --- FID ---


def sqrtm_fid(real: np.ndarray, synthetic: np.ndarray) -> float:
    one, other = (np.cov(side, rowvar=False) for side in (real, synthetic))
    difference = real.mean(axis=0) - synthetic.mean(axis=0)
    root = scipy.linalg.sqrtm(one @ other).real
    return float(difference @ difference + np.trace(one + other - 2 * root))


@pytest.mark.parametrize(("items", "features"), [((80, 60), 16), ((400, 300), 64), ((20, 30), 50)])
def test_fid_equals_the_form_with_a_matrix_root(items: tuple[int, int], features: int) -> None:
    real, synthetic = normal(0, items[0], features), normal(1, items[1], features, shift=0.3, scale=1.5)
    # Singular covariances (fewer items than features) make the matrix root inexact, not the singular values.
    tolerance = 1e-4 if items[0] > features else 1e-3
    assert fid(real, synthetic) == pytest.approx(sqrtm_fid(real, synthetic), abs=tolerance)


def test_fid_equals_monai() -> None:
    real, synthetic = normal(0, 200, 16), normal(1, 150, 16, shift=0.2)
    expected = float(FIDMetric()(torch.from_numpy(synthetic), torch.from_numpy(real)))
    assert fid(real, synthetic) == pytest.approx(expected, abs=1e-4)


def test_fid_of_the_same_items_is_zero() -> None:
    assert fid(normal(0, 50, 8), normal(0, 50, 8)) == pytest.approx(0, abs=1e-9)


# --- precision, recall, density, coverage ---


def test_neighbour_scores_are_as_defined() -> None:
    real, synthetic, k = normal(0, 12, 2), normal(1, 9, 2, shift=0.5), 3
    distance = np.linalg.norm(real[:, None] - synthetic[None], axis=2)
    reach_real = [sorted(np.linalg.norm(real - x, axis=1))[k] for x in real]
    reach_synthetic = [sorted(np.linalg.norm(synthetic - x, axis=1))[k] for x in synthetic]
    inside = [[distance[i, j] <= reach_real[i] for j in range(9)] for i in range(12)]
    scores = neighbour_scores(real, synthetic, k)
    assert scores["precision"].tolist() == np.any(inside, axis=0).tolist()
    assert scores["coverage"].tolist() == np.any(inside, axis=1).tolist()
    assert scores["density"].tolist() == pytest.approx((np.sum(inside, axis=0) / k).tolist())
    assert scores["recall"].tolist() == [any(distance[i] <= reach_synthetic) for i in range(12)]


def test_a_generator_that_lost_a_mode_keeps_precision_and_loses_coverage_and_recall() -> None:
    real = np.concatenate([normal(0, 100, 4), normal(1, 100, 4, shift=20)])
    means = {key: value.mean() for key, value in neighbour_scores(real, normal(2, 200, 4)).items()}
    assert means["precision"] > 0.9
    assert means["density"] > 0.7
    assert means["recall"] < 0.6
    assert means["coverage"] < 0.6
    far = {key: value.mean() for key, value in neighbour_scores(real, normal(2, 200, 4, shift=100)).items()}
    assert far == dict.fromkeys(far, 0)


# --- real or synthetic ---


def test_a_classifier_finds_a_shift_and_nothing_in_one_distribution() -> None:
    made = np.repeat([0, 1], 200)
    groups = np.arange(400)
    shifted = real_or_synthetic(normal(0, 200, 5), normal(1, 200, 5, shift=1), groups)
    assert roc_auc_score(made, shifted) > 0.9
    assert 0 < shifted.min() <= shifted.max() == 1
    same = [
        roc_auc_score(made, real_or_synthetic(normal(2 * k, 200, 5), normal(2 * k + 1, 200, 5), groups))
        for k in range(10)
    ]
    assert np.mean(same) == pytest.approx(0.5, abs=0.04)


def test_pictures_of_a_patient_and_what_was_made_from_them_are_held_out_together() -> None:
    # Each of 40 patients looks like no other, has six equal pictures, and gave rise to real or synthetic ones only.
    looks = np.eye(40).repeat(6, axis=0)
    patients = np.arange(40).repeat(6)
    made = np.repeat([0, 1], 120)
    grouped = real_or_synthetic(looks[:120], looks[120:], patients)
    assert roc_auc_score(made, grouped) == pytest.approx(0.5, abs=0.1)
    leaking = real_or_synthetic(looks[:120], looks[120:], np.arange(240))
    assert roc_auc_score(made, leaking) > 0.9


def test_one_patient_cannot_be_held_out() -> None:
    with pytest.raises(MetricError, match="held out"):
        real_or_synthetic(normal(0, 20, 2), normal(1, 20, 2), np.zeros(40))


# --- all together ---


@pytest.fixture
def few_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scintikit.metrics.fidelity.REPEATS", 3)


@pytest.mark.usefixtures("few_repeats")
def test_a_perfect_generator_is_at_the_floor_and_all_is_json() -> None:
    result = fidelity_metrics(sample(0), sample(10, patients="s"), NAMES, bootstrap=50)
    json.dumps(result, allow_nan=False)
    scores = result["overall"]["scores"]
    assert scores["kid"]["low"] < 0 < scores["kid"]["high"]
    for key in ("precision", "recall", "coverage", "auc_features", "auc_spectrum"):
        assert scores[key]["matched"]["value"] == pytest.approx(scores[key]["floor"]["value"], abs=0.1), key
        assert scores[key]["low"] <= scores[key]["value"] <= scores[key]["high"], key
    assert scores["auc_features"]["floor"]["value"] == pytest.approx(0.5, abs=0.1)
    assert scores["grain_ratio"]["value"] == pytest.approx(1, abs=0.05)
    assert scores["grain_ratio"]["floor"]["low"] <= 1 <= scores["grain_ratio"]["floor"]["high"]
    assert scores["fid"]["low"] is None
    # Half the pictures give a larger FID by themselves, so it is compared with its floor at the same number.
    assert scores["fid"]["matched"]["value"] > scores["fid"]["value"]
    assert scores["fid"]["matched"]["value"] == pytest.approx(scores["fid"]["floor"]["value"], rel=0.5)
    assert result["overall"]["n_floor"] == 50
    assert set(result["per_class"]) == set(NAMES)


def of_patients(seed: int, patients: np.ndarray) -> Sample:
    """Pictures that are mostly what their patient looks like."""
    plain = sample(seed, (len(patients), 0))
    looks = normal(1234, 80, 8)[patients]
    return replace(plain, features=looks + 0.3 * plain.features, patients=patients.astype(str))


def test_generator_that_has_its_patients_from_the_real_side_is_at_the_floor_not_beyond() -> None:
    real = of_patients(0, np.arange(80))
    synthetic = of_patients(10, np.random.default_rng(0).integers(0, 80, 400))
    scores = fidelity_metrics(real, synthetic, NAMES, bootstrap=0)["overall"]["scores"]
    for key in ("kid", "fid"):  # otherwise KID is far below the range of the floor
        assert scores[key]["floor"]["low"] < scores[key]["matched"]["value"] < scores[key]["floor"]["high"], key


@pytest.mark.usefixtures("few_repeats")
def test_missing_grain_is_seen_by_the_spectrum_only() -> None:
    result = fidelity_metrics(sample(0), sample(10, grain=-0.3, patients="s"), NAMES, bootstrap=50)
    for group in (result["overall"], *result["per_class"].values()):
        scores = group["scores"]
        assert scores["auc_spectrum"]["value"] > 0.95
        assert scores["auc_features"]["value"] == pytest.approx(0.5, abs=0.15)
        assert scores["grain_ratio"]["value"] == pytest.approx(0.5, abs=0.03)
        assert scores["grain_ratio"]["high"] < 0.6
        assert scores["grain_distance"]["value"] == pytest.approx(0.3, abs=0.03)
        assert scores["grain_distance"]["floor"]["value"] < 0.05
        assert scores["grain_distance"]["value"] > scores["spectrum_distance"]["value"]
    band = result["overall"]["curves"]["spectrum"]
    ratio = np.subtract(band["synthetic"], band["real"])
    assert (ratio[20:] < band["floor_low"][20:]).all()


@pytest.mark.usefixtures("few_repeats")
def test_other_features_are_far_from_the_floor() -> None:
    scores = fidelity_metrics(sample(0), sample(10, shift=1, patients="s"), NAMES, bootstrap=0)["overall"]["scores"]
    for key in ("kid", "fid", "auc_features"):
        assert scores[key]["matched"]["value"] > 1.3 * scores[key]["floor"]["high"], key
    assert scores["auc_spectrum"]["value"] == pytest.approx(0.5, abs=0.15)
    assert all(scores[key]["low"] is None for key in scores)


@pytest.mark.usefixtures("few_repeats")
def test_the_same_seed_gives_the_same_numbers() -> None:
    first, again = (fidelity_metrics(sample(0), sample(10), NAMES, bootstrap=20, seed=3) for _ in range(2))
    assert first == again
    assert first != fidelity_metrics(sample(0), sample(10), NAMES, bootstrap=20, seed=4)


@pytest.mark.usefixtures("few_repeats")
def test_another_class_mix_is_no_difference() -> None:
    result = fidelity_metrics(sample(0, (80, 20)), sample(10, (60, 60), patients="s"), NAMES, bootstrap=0)
    assert (result["overall"]["n_real"], result["overall"]["n_synthetic"]) == (100, 75)
    assert result["per_class"]["goiter"]["n_synthetic"] == 60
    assert abs(result["overall"]["scores"]["auc_features"]["matched"]["value"] - 0.5) < 0.1


@pytest.mark.usefixtures("few_repeats")
def test_a_lacking_class_is_a_difference_and_said() -> None:
    result = fidelity_metrics(sample(0), sample(10, (50, 0), patients="s"), NAMES, bootstrap=0)
    assert any("all classes: the synthetic pictures lack a class" in text for text in result["warnings"])
    assert any("goiter" in text and "too few" in text for text in result["warnings"])
    assert "scores" not in result["per_class"]["goiter"]
    overall = result["overall"]["scores"]
    assert overall["coverage"]["matched"]["value"] < overall["coverage"]["floor"]["low"] - 0.1


@pytest.mark.usefixtures("few_repeats")
def test_a_class_that_no_real_picture_shows_is_left_out() -> None:
    result = fidelity_metrics(sample(0, (40, 0)), sample(10, (40, 40), patients="s"), NAMES, bootstrap=0)
    assert (result["overall"]["n_real"], result["overall"]["n_synthetic"]) == (40, 40)
    assert result["per_class"]["goiter"] == {"n_real": 0, "n_synthetic": 40}


@pytest.mark.usefixtures("few_repeats")
def test_few_pictures_are_warned_about() -> None:
    few = fidelity_metrics(sample(0, (150, 199)), sample(10, (250, 250), patients="s"), NAMES, bootstrap=0)
    assert [text.split(":")[0] for text in few["warnings"]] == NAMES
    assert all("fewer than 200" in text for text in few["warnings"])
    enough = fidelity_metrics(sample(0, (200, 200)), sample(10, (200, 200), patients="s"), NAMES, bootstrap=0)
    assert enough["warnings"] == []


@pytest.mark.usefixtures("few_repeats")
def test_fewer_synthetic_than_half_of_the_real_pictures() -> None:
    result = fidelity_metrics(sample(0, (120, 80)), sample(10, (24, 16), patients="s"), NAMES, bootstrap=0)
    assert result["overall"]["n_floor"] == 40


@pytest.mark.usefixtures("few_repeats")
def test_too_few_patients_are_refused() -> None:
    with pytest.raises(MetricError, match=r"too few to compare.*better pictures of 200 patients"):
        fidelity_metrics(sample(0, (5, 5)), sample(10, (50, 50)), NAMES)


@pytest.mark.parametrize("measure", [kid, fid, neighbour_scores])
def test_unusable_features_are_refused(measure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MetricError, match="columns"):
        measure(normal(0, 20, 3), normal(1, 20, 4))
    with pytest.raises(MetricError, match="expected finite"):
        measure(np.full((20, 3), np.nan), normal(1, 20, 3))
    with pytest.raises(MetricError, match="expected finite"):
        measure(normal(0, 20, 3), normal(0, 20))
