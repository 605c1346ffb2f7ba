import numpy as np
import pytest

from scintikit.errors import ScintikitError
from scintikit.metrics import conformal_sets, conformal_threshold


def exchangeable(generator, items):
    labels = generator.choice(3, items, p=[0.6, 0.3, 0.1])
    logits = generator.normal(size=(items, 3)) * 1.5 + np.array([3.0, 1.5, 0.8])[labels, None] * np.eye(3)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def coverage_over_repeats(alpha, repeats, items, of_class=None, **options):
    generator = np.random.default_rng(11)
    hits = trials = 0
    for _ in range(repeats):
        probabilities, labels = exchangeable(generator, 2 * items)
        threshold = conformal_threshold(probabilities[:items], labels[:items], alpha, **options)
        sets = conformal_sets(probabilities[items:], threshold, never_empty=False)
        covered = sets[np.arange(items), labels[items:]]
        chosen = np.ones(items, dtype=bool) if of_class is None else labels[items:] == of_class
        hits, trials = hits + covered[chosen].sum(), trials + chosen.sum()
    return hits / trials


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_coverage_is_what_was_promised_on_exchangeable_data(alpha):
    items, repeats = 99, 400
    coverage = coverage_over_repeats(alpha, repeats, items)
    # Coverage given a calibration set is Beta((n + 1)(1 - alpha), (n + 1) alpha), the test adds a binomial part.
    spread = np.sqrt(alpha * (1 - alpha) * (1 / (items + 2) + 1 / items) / repeats)
    assert coverage == pytest.approx(1 - alpha, abs=4 * spread)


def test_class_conditional_thresholds_cover_the_rare_class():
    marginal = coverage_over_repeats(0.2, 100, 200, of_class=2)
    conditional = coverage_over_repeats(0.2, 100, 200, of_class=2, class_conditional=True)
    assert marginal < 0.7
    assert conditional > 0.77


def test_threshold_is_the_finite_sample_quantile():
    scores = np.arange(1, 11) / 20
    probabilities = np.stack([1 - scores, scores], axis=1)
    # n = 10, alpha = .2: the ceil(11 * .8) = 9th smallest score
    assert conformal_threshold(probabilities, np.zeros(10, int), 0.2) == pytest.approx([0.45, 0.45])
    # n = 9, alpha = .1: exactly the 9th; alpha = .05: there is no 10th, so every class is included
    assert conformal_threshold(probabilities[:9], np.zeros(9, int), 0.1) == pytest.approx([0.45, 0.45])
    assert conformal_threshold(probabilities[:9], np.zeros(9, int), 0.05).tolist() == [1, 1]
    assert conformal_threshold(probabilities, np.zeros(10, int), 0.2, class_conditional=True)[1] == 1


def test_sets_and_the_never_empty_option():
    probabilities = [[0.9, 0.08, 0.02], [0.45, 0.35, 0.2], [0.5, 0.45, 0.05]]
    assert conformal_sets(probabilities, 0.52, never_empty=False).tolist() == [
        [True, False, False],
        [False, False, False],
        [True, False, False],
    ]
    assert conformal_sets(probabilities, 0.52)[1].tolist() == [True, False, False]
    assert conformal_sets(probabilities, [0.0, 0.6, 1.0])[2].tolist() == [False, True, True]
    assert conformal_sets(probabilities, 1.0).all()


def test_unusable_input_is_refused():
    with pytest.raises(ScintikitError, match="alpha"):
        conformal_threshold([[0.5, 0.5]], [0], 1.0)
    for threshold in (1.5, [0.1, 0.2, 0.3], np.nan):
        with pytest.raises(ScintikitError, match="threshold"):
            conformal_sets([[0.5, 0.5]], threshold)


def test_probabilities_that_rounding_put_above_one():
    certain = np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 10] * np.float32(1.0000001)
    threshold = conformal_threshold(certain, [0, 1, 2, 3] * 10)
    assert threshold.tolist() == [0] * 4
    assert conformal_sets(certain, threshold).sum() == 40
