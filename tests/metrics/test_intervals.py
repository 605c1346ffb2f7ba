import json
import time
import warnings

import numpy as np
import pytest

from scintikit.errors import ScintikitError
from scintikit.metrics import bootstrap_intervals, classification_metrics, evaluate_classifier
from scintikit.metrics.intervals import bootstrap_weights

NAMES = ["diffuse goiter", "nodular goiter", "normal", "thyroiditis"]


def mean_of(values):
    return lambda weights: {("mean",): weights @ values / weights.sum(axis=1)}


def case(items=400, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, items)
    logits = generator.normal(size=(items, 4)) + 1.5 * np.eye(4)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, labels, np.arange(items) // 2, np.array(["F", "H", "I"])[np.arange(items) // 2 % 3]


def test_patients_stay_together_and_centres_keep_their_size():
    patients = np.array(["p1", "p2", "p1", "p3", "p4", "p4", "p5"])
    centres = np.array(["A", "A", "A", "B", "B", "B", "B"])
    weights = bootstrap_weights(patients, centres, n=300, seed=1)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 4] == weights[:, 5]).all()
    assert (weights[:, [0, 1]].sum(axis=1) == 2).all()
    assert (weights[:, [3, 4, 6]].sum(axis=1) == 3).all()
    assert len(np.unique(weights[:, 0])) > 1


def test_interval_of_a_mean_has_the_known_width_and_is_repeatable():
    values = np.random.default_rng(0).normal(size=400)
    first = bootstrap_intervals(mean_of(values), np.arange(400), n=2000, seed=3)["mean",]
    assert first.value == pytest.approx(values.mean())
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert (first.low, first.high) == pytest.approx((first.value - half_width, first.value + half_width), abs=0.015)
    assert bootstrap_intervals(mean_of(values), np.arange(400), n=2000, seed=3)["mean",] == first


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(7)
    repeats, covered = 300, 0
    for repeat in range(repeats):
        of_patient = generator.normal(size=60)
        values = np.repeat(of_patient, 3)  # images of a patient all alike: counting images would be far too sure
        found = bootstrap_intervals(mean_of(values), np.repeat(np.arange(60), 3), n=300, seed=repeat)["mean",]
        covered += found.low <= 0 <= found.high
    assert 0.89 < covered / repeats < 0.99


def test_undefined_resamples_are_counted():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    result = evaluate_classifier(probabilities, [0, 0, 0, 1], list("pqrs"), list("AAAA"), ["a", "b"], seed=0)
    weights = bootstrap_weights(list("pqrs"), list("AAAA"), n=1000, seed=0)
    lost = int(((weights[:, 3] == 0) | (weights[:, 3] == 4)).sum())
    assert lost > 100
    assert result["overall"]["macro_auc"]["undefined"] == lost
    assert "undefined" not in result["overall"]["accuracy"]


def test_evaluation_is_complete_finite_and_agrees_with_the_plain_metrics():
    probabilities, labels, patients, centres = case()
    result = evaluate_classifier(
        probabilities, labels, patients, centres, NAMES, conformal_threshold=0.7, conformal_alpha=0.1, bootstrap=200
    )
    json.dumps(result, allow_nan=False)
    plain = classification_metrics(probabilities, labels, NAMES)
    assert {name: entry["value"] for name, entry in result["overall"].items()} == plain["overall"]
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in result["overall"].values())
    assert result["confusion"] == plain["confusion"]
    assert result["patients"] == 200
    assert list(result["per_centre"]) == ["F", "H", "I"]
    of = centres == "H"
    own = classification_metrics(probabilities[of], labels[of], NAMES)["overall"]
    assert result["per_centre"]["H"]["macro_f1"]["value"] == pytest.approx(own["macro_f1"])
    assert result["per_centre"]["H"]["n"] == of.sum()
    assert sum(result["conformal"]["sizes"]) == 400
    assert result["conformal"]["promised"] == 0.9
    covered = 1 - probabilities[np.arange(400), labels] <= 0.7
    assert result["conformal"]["per_centre"]["F"]["coverage"]["value"] == pytest.approx(
        (covered | (probabilities.argmax(1) == labels))[centres == "F"].mean(), abs=0.02
    )


def test_zero_resamples_give_values_without_intervals():
    result = evaluate_classifier(*case(40), NAMES, bootstrap=0)
    assert result["overall"]["accuracy"]["value"] > 0
    assert result["overall"]["accuracy"]["low"] is None
    assert "conformal" not in result


def test_a_thousand_resamples_of_all_metrics_are_fast():
    started = time.process_time()
    evaluate_classifier(*case(), NAMES, conformal_threshold=0.7)
    assert time.process_time() - started < 10


def test_unusable_input_is_refused():
    with pytest.raises(ScintikitError, match="level"):
        bootstrap_intervals(mean_of(np.ones(3)), np.arange(3), level=95)
    with pytest.raises(ScintikitError, match="Centres have shape"):
        bootstrap_intervals(mean_of(np.ones(3)), np.arange(3), ["A"])
    with pytest.raises(ScintikitError, match="0 or more"):
        bootstrap_intervals(mean_of(np.ones(3)), np.arange(3), n=-1)


def test_one_patient_has_no_interval():
    probabilities, labels, _, _ = case(12)
    result = evaluate_classifier(probabilities, labels, ["p"] * 12, ["F"] * 12, NAMES, bootstrap=50)
    assert result["overall"]["accuracy"]["low"] is None
    centres = ["F"] * 2 + ["H"] * 10
    patients = ["p"] * 2 + list("abcdefghij")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_classifier(
            probabilities, labels, patients, centres, NAMES, bootstrap=50, conformal_threshold=0.7
        )
    assert result["overall"]["accuracy"]["low"] is not None
    assert result["per_centre"]["F"]["accuracy"]["low"] is None
    assert result["conformal"]["per_centre"]["F"]["coverage"]["low"] is None
    assert result["per_centre"]["H"]["accuracy"]["low"] is not None


def test_many_centres_with_one_patient_have_an_interval_together():
    probabilities, labels, _, _ = case(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_classifier(probabilities, labels, range(40), range(40), NAMES, bootstrap=200)
    accuracy = result["overall"]["accuracy"]
    assert accuracy["high"] - accuracy["low"] > 0.1
