import json
import time
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from scintikit.errors import ScintikitError
from scintikit.metrics import evaluate_diseases, sensitivity_thresholds
from scintikit.metrics.classification import weighted_auc, weighted_average_precision

DISEASES = ["metastasis", "arthritis"]
NAMES = [*DISEASES, "normal"]


def case(seed=0, items=300, digits=None):
    generator = np.random.default_rng(seed)
    labels = (generator.random((items, 2)) < (0.55, 0.45)).astype(int)
    probabilities = 1 / (1 + np.exp(-(generator.normal(size=(items, 2)) + 2 * labels - 1)))
    if digits is not None:  # many ties
        probabilities = np.round(probabilities, digits)
    return probabilities, labels


def evaluate(probabilities, labels, thresholds=(0.5, 0.4), centres=None, **options):
    items = len(labels)
    centres = np.array(["F", "H", "I"])[np.arange(items) // 2 % 3] if centres is None else centres
    return evaluate_diseases(probabilities, labels, thresholds, np.arange(items) // 2, centres, DISEASES, **options)


def values(entries):
    return {name: entry["value"] for name, entry in entries.items() if isinstance(entry, dict) and "value" in entry}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("digits", [None, 1])
def test_agrees_with_scikit_learn(seed, digits):
    probabilities, labels = case(seed, digits=digits)
    result = evaluate(probabilities, labels, bootstrap=0)
    calls = probabilities >= (0.5, 0.4)
    truth, called = (np.column_stack([part, part.sum(axis=1) == 0]) for part in (labels, calls))
    scores = np.column_stack([probabilities, (1 - probabilities).prod(axis=1)])
    for c, name in enumerate(NAMES):
        precision, sensitivity, f1, _ = sk.precision_recall_fscore_support(
            truth[:, c], called[:, c], average="binary", zero_division=0
        )
        tn, fp, fn, tp = sk.confusion_matrix(truth[:, c], called[:, c]).ravel()
        entry = result["per_class"][name]
        assert values(entry) == pytest.approx(
            {
                "accuracy": sk.accuracy_score(truth[:, c], called[:, c]),
                "precision": precision,
                "sensitivity": sensitivity,
                "specificity": tn / (tn + fp),
                "f1": f1,
                "auc": sk.roc_auc_score(truth[:, c], scores[:, c]),
                "auprc": sk.average_precision_score(truth[:, c], scores[:, c]),
            }
        )
        assert entry["counts"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    expected = sk.precision_recall_fscore_support(truth, called, average="macro", zero_division=0)[:3]
    overall = values(result["overall"])
    assert [overall[f"macro_{metric}"] for metric in ("precision", "sensitivity", "f1")] == pytest.approx(expected)
    assert overall["macro_accuracy"] == pytest.approx((truth == called).mean())
    assert overall["exact_match"] == pytest.approx(sk.accuracy_score(labels, calls))
    assert overall["macro_auc"] == pytest.approx(sk.roc_auc_score(labels, probabilities, average="macro"))
    average = sk.average_precision_score(labels, probabilities, average="macro")
    assert overall["macro_auprc"] == pytest.approx(average)
    for d, name in enumerate(DISEASES):
        brier = sk.brier_score_loss(labels[:, d], probabilities[:, d])
        assert result["calibration"][name]["brier"]["value"] == pytest.approx(brier)


@pytest.mark.parametrize("score", [weighted_auc, weighted_average_precision])
def test_weights_are_repetitions(score):
    probabilities, labels = case(4, 60, digits=1)
    drawn = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=5)
    ours = score(probabilities[:, 0], labels[:, 0] == 1, drawn.astype(float))
    for weights, value in zip(drawn, ours, strict=True):
        repeated = np.repeat(np.arange(60), weights)
        alone = score(probabilities[repeated, 0], labels[repeated, 0] == 1, np.ones((1, 60)))
        assert value == pytest.approx(alone[0])


def test_sets_of_diseases_are_counted_from_none_to_many():
    labels = [[0, 0], [1, 0], [1, 1], [1, 1], [0, 1]]
    calls = [[0, 1], [1, 0], [1, 1], [1, 0], [0, 1]]
    found = evaluate(np.array(calls, dtype=float), labels, (1.0, 1.0), bootstrap=0)["label_sets"]
    assert found["names"] == ["normal", "metastasis", "arthritis", "metastasis | arthritis"]
    assert found["counts"] == [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]]


def test_result_is_complete_and_json():
    probabilities, labels = case(items=240)
    result = evaluate(probabilities, labels, bootstrap=100)
    json.dumps(result, allow_nan=False)
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in result["overall"].values())
    assert (result["n"], result["patients"], result["classes"]) == (240, 120, NAMES)
    assert result["thresholds"] == {"metastasis": 0.5, "arthritis": 0.4}
    of = np.arange(240) // 2 % 3 == 1
    own = evaluate(probabilities[of], labels[of], bootstrap=0)
    centre = result["per_centre"]["H"]
    assert {name: centre[name]["value"] for name in ("macro_auc", "exact_match", "macro_f1")} == {
        name: own["overall"][name]["value"] for name in ("macro_auc", "exact_match", "macro_f1")
    }
    assert centre["auc"]["arthritis"]["value"] == own["per_class"]["arthritis"]["auc"]["value"]
    assert centre["support"]["metastasis"] == labels[of, 0].sum()
    assert (centre["n"], centre["patients"]) == (80, 40)
    curve = result["calibration"]["arthritis"]["reliability"]
    assert sum(curve["count"]) == 240
    gaps = [abs(p - q) * n for p, q, n in zip(curve["confidence"], curve["accuracy"], curve["count"], strict=True) if n]
    assert result["calibration"]["arthritis"]["ece"]["value"] == pytest.approx(sum(gaps) / 240)
    first = np.digitize(probabilities[:, 1], np.linspace(0, 1, 16)[1:-1], right=True) == 4
    assert curve["accuracy"][4] == pytest.approx(labels[first, 1].mean())


def test_what_cannot_be_measured_is_none():
    probabilities, labels = case(items=90)
    centres = np.where(labels[:, 1] == 1, "F", "H")  # H has no arthritis
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(probabilities, labels, centres=centres, bootstrap=20)
    centre = result["per_centre"]["H"]
    assert centre["auc"]["metastasis"]["value"] is not None
    assert [centre[name]["value"] for name in ("macro_auc", "macro_f1")] == [None, None]
    assert centre["auc"]["arthritis"] == {"value": None, "low": None, "high": None}
    assert centre["exact_match"]["low"] is not None
    assert result["overall"]["macro_auc"]["value"] is not None


def test_thresholds_are_the_highest_that_reach_the_target():
    probabilities, labels = case(2, digits=2)
    thresholds = sensitivity_thresholds(probabilities, labels, target=0.9)
    for disease, threshold in enumerate(thresholds):
        positive = probabilities[labels[:, disease] == 1, disease]
        assert (positive >= threshold).mean() >= 0.9
        assert (positive > threshold).mean() < 0.9
    ten = np.linspace(0.1, 1, 10)
    assert sensitivity_thresholds(np.append(ten, 0)[:, None], [[1]] * 10 + [[0]], 0.9) == pytest.approx([0.2])


def test_a_thousand_resamples_are_fast():
    started = time.process_time()
    evaluate(*case(items=500))
    assert time.process_time() - started < 10


def test_unusable_input_is_refused():
    probabilities, labels = case(items=10)
    with pytest.raises(ScintikitError, match="No item has disease 1"):
        sensitivity_thresholds(probabilities, labels * (1, 0))
    with pytest.raises(ScintikitError, match="Every item has disease 0"):
        sensitivity_thresholds(probabilities, labels | np.array((1, 0)))
    with pytest.raises(ScintikitError, match="target sensitivity is 90"):
        sensitivity_thresholds(probabilities, labels, 90)
    with pytest.raises(ScintikitError, match="one number for each of 2 diseases"):
        evaluate(probabilities, labels, (0.5,))
    with pytest.raises(ScintikitError, match=r"expected 0 \(absent\)"):
        evaluate(probabilities, labels * 2)
    with pytest.raises(ScintikitError, match="one per item and disease"):
        evaluate(probabilities, labels[:, 0])
    with pytest.raises(ScintikitError, match="sigmoid"):
        evaluate(probabilities * 3, labels)
    with pytest.raises(ScintikitError, match="not finite"):
        evaluate(probabilities * np.nan, labels)
    with pytest.raises(ScintikitError, match="different"):
        evaluate(probabilities, labels, normal="arthritis")
