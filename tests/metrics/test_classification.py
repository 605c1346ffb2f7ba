import json

import numpy as np
import pytest
from sklearn import metrics as sk

from scintikit.errors import ScintikitError
from scintikit.metrics import classification_metrics
from scintikit.metrics.classification import weighted_auc

NAMES = ["diffuse goiter", "nodular goiter", "normal", "thyroiditis"]


def random_case(seed, items=150, classes=4, digits=None):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, items)
    logits = generator.normal(size=(items, classes)) + 1.2 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if digits is not None:  # many ties
        probabilities = np.round(probabilities, digits)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities, labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("digits", [None, 1])
def test_agrees_with_scikit_learn(seed, digits):
    probabilities, labels = random_case(seed, digits=digits)
    predicted = probabilities.argmax(axis=1)
    result = classification_metrics(probabilities, labels, NAMES)
    overall = result["overall"]
    assert overall["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert overall["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert overall["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, predicted))
    for average in ("micro", "macro", "weighted"):
        expected = sk.precision_recall_fscore_support(labels, predicted, average=average)[:3]
        ours = [overall[f"{average}_{metric}"] for metric in ("precision", "recall", "f1")]
        assert ours == pytest.approx(expected)
        auc = sk.roc_auc_score(np.eye(4)[labels], probabilities, average=average)
        assert overall[f"{average}_auc"] == pytest.approx(auc)
    assert result["confusion"] == sk.confusion_matrix(labels, predicted).tolist()
    per_class = sk.precision_recall_fscore_support(labels, predicted)
    for c, name in enumerate(NAMES):
        entry = result["per_class"][name]
        ours = [entry[metric] for metric in ("precision", "recall", "f1", "support")]
        assert ours == pytest.approx([values[c] for values in per_class])
        specificity = sk.recall_score(labels != c, predicted != c)
        assert entry["specificity"] == pytest.approx(specificity)
        assert entry["auc"] == pytest.approx(sk.roc_auc_score(labels == c, probabilities[:, c]))


def test_hand_made_case():
    # true 0 0 0 1 1 2, called 0 0 1 1 1 1
    probabilities = np.array([[8, 1, 1], [7, 2, 1], [3, 6, 1], [2, 7, 1], [1, 8, 1], [1, 5, 4]]) / 10
    result = classification_metrics(probabilities, [0, 0, 0, 1, 1, 2], ["a", "b", "c"])
    assert result["confusion"] == [[2, 1, 0], [0, 2, 0], [0, 1, 0]]
    a, b, c = (result["per_class"][name] for name in "abc")
    assert (a["precision"], a["recall"], a["specificity"]) == pytest.approx((1, 2 / 3, 1))
    assert (b["precision"], b["recall"], b["specificity"]) == pytest.approx((1 / 2, 1, 2 / 4))
    assert (c["precision"], c["recall"], c["f1"], c["predicted"]) == (0, 0, 0, 0)
    assert c["auc"] == 1
    assert result["overall"]["macro_specificity"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert result["overall"]["micro_specificity"] == pytest.approx((3 + 2 + 5) / (3 + 4 + 5))


def test_absent_class_is_none_and_stays_out_of_macro_averages():
    probabilities, labels = random_case(5)
    kept = labels != 3
    result = classification_metrics(probabilities[kept], labels[kept], NAMES)
    absent = result["per_class"]["thyroiditis"]
    assert [absent[metric] for metric in ("precision", "recall", "f1", "auc")] == [None] * 4
    assert absent["support"] == 0
    assert absent["predicted"] > 0
    assert absent["specificity"] < 1
    assert result["macro_classes"] == 3
    aucs = [result["per_class"][name]["auc"] for name in NAMES[:3]]
    assert result["overall"]["macro_auc"] == pytest.approx(np.mean(aucs))
    json.dumps(result, allow_nan=False)


def test_a_single_class_has_no_auc_and_no_mcc():
    result = classification_metrics([[0.9, 0.1], [0.2, 0.8]], [0, 0], ["a", "b"])
    assert result["overall"]["macro_auc"] is None
    assert result["overall"]["weighted_auc"] is None
    assert result["overall"]["mcc"] is None
    assert result["overall"]["accuracy"] == 0.5
    json.dumps(result, allow_nan=False)


def test_weighted_auc_agrees_with_scikit_learn_for_weights_and_ties():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 10, 80) / 10
    positive = generator.random(80) < 0.3
    weights = np.vstack([generator.integers(0, 4, (20, 80)), positive * 1])
    ours = weighted_auc(scores, positive, weights)
    expected = [sk.roc_auc_score(positive, scores, sample_weight=row) for row in weights[:-1]]
    assert ours[:-1] == pytest.approx(expected)
    assert np.isnan(ours[-1])


@pytest.mark.parametrize(
    ("probabilities", "labels", "names", "message"),
    [
        ([[0.5, 0.5], [np.nan, 1]], [0, 1], "ab", "not finite in 1 of 2 rows, first in row 1"),
        ([[0.5, 0.5], [0.7, 0.7]], [0, 1], "ab", "do not sum to 1"),
        ([[2.0, -1.0], [0, 1]], [0, 1], "ab", "outside"),
        ([0.5, 0.5], [0, 1], "ab", "shape"),
        ([[0.5, 0.5]], [0, 1], "ab", "Labels have shape"),
        ([[0.5, 0.5]], [2], "ab", "Labels are unknown"),
        ([[0.5, 0.5]], [0.0], "ab", "expected integers"),
        ([[0.5, 0.5]], [0], "aa", "class names"),
    ],
)
def test_unusable_input_is_refused(probabilities, labels, names, message):
    with pytest.raises(ScintikitError, match=message):
        classification_metrics(probabilities, labels, list(names))
