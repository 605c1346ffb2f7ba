import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import brier_score_loss

from scintikit.errors import ScintikitError
from scintikit.metrics import (
    apply_temperature,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
)


def test_ece_by_hand():
    # 2 bins: (0, .5] holds .5 (wrong); (.5, 1] holds .6 (right), .8 (wrong), 1 (right)
    probabilities = np.array([[0.5, 0.5], [0.6, 0.4], [0.2, 0.8], [1.0, 0.0]])
    labels = [1, 0, 0, 0]
    expected = (1 * abs(0 - 0.5) + 3 * abs(2 / 3 - 0.8)) / 4
    assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(expected)
    curve = reliability_curve(probabilities, labels, bins=2)
    assert curve["count"] == [1, 3]
    assert curve["confidence"] == pytest.approx([0.5, 0.8])
    assert curve["accuracy"] == pytest.approx([0, 2 / 3])
    assert reliability_curve(probabilities, labels)["accuracy"][0] is None


def test_ece_is_small_for_honest_and_large_for_boastful_probabilities():
    generator = np.random.default_rng(0)
    honest = generator.dirichlet(np.ones(4), size=20000)
    labels = (generator.random((20000, 1)) > honest.cumsum(axis=1)).sum(axis=1).clip(max=3)
    assert expected_calibration_error(honest, labels) < 0.015
    boastful = honest**3 / (honest**3).sum(axis=1, keepdims=True)
    assert expected_calibration_error(boastful, labels) > 0.1


def test_brier_by_hand_and_against_scikit_learn():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
    assert brier_score(probabilities, [0, 1]) == pytest.approx((0.09 + 0.04 + 0.01 + 1 + 1) / 2)
    generator = np.random.default_rng(0)
    positive, labels = generator.random(50), generator.integers(0, 2, 50)
    ours = brier_score(np.stack([1 - positive, positive], axis=1), labels)
    assert ours == pytest.approx(2 * brier_score_loss(labels, positive))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(temperature):
    generator = np.random.default_rng(1)
    logits = generator.normal(scale=2, size=(20000, 4))
    labels = (generator.random((20000, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1).clip(max=3)
    found = fit_temperature(logits * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    assert apply_temperature(logits * temperature, temperature) == pytest.approx(softmax(logits, axis=1))
    log_probabilities = np.log(softmax(logits * temperature, axis=1))
    assert fit_temperature(log_probabilities, labels) == pytest.approx(found, rel=1e-3)


def test_unusable_input_is_refused():
    with pytest.raises(ScintikitError, match="temperature"):
        apply_temperature([[0.0, 1.0]], 0)
    with pytest.raises(ScintikitError, match="Logits"):
        fit_temperature([[0.0, -np.inf]], [0])
    with pytest.raises(ScintikitError, match="bins"):
        expected_calibration_error([[0.5, 0.5]], [0], bins=0)
