import json

import numpy as np
import pytest
from scipy.stats import ttest_rel

from scintikit.errors import ScintikitError
from scintikit.metrics import classification_metrics, compare_scenarios, evaluate_diseases
from scintikit.metrics.crossed import holm, paired_differences, seed_variances
from scintikit.metrics.intervals import bootstrap_weights

NAMES = ["goiter", "normal", "thyroiditis"]
N = 90
CENTRES = np.array(["F", "H", "I"])[np.arange(N) % 3]


def resamples(n=200, seed=0):
    """Weights whose first row counts every patient once."""
    return np.vstack([np.ones(N), bootstrap_weights(np.arange(N), CENTRES, n=n, seed=seed)])


def study(generator, weights, scenarios, seeds, seed_noise, effect=0.0):
    """Scores whose noise is that of patients, of patients in a scenario, of seeds, and of patients with a seed."""
    shape = [(1, 1, N), (scenarios, 1, N), (scenarios, seeds, 1), (scenarios, seeds, N)]
    scales = np.array([3.0, 1.0, seed_noise, 1.0])
    of_patient = sum(scale * generator.normal(size=size) for scale, size in zip(scales, shape, strict=True))
    of_patient[-1] += effect
    return of_patient @ weights.T / N


def probabilities(generator, labels, skill):
    logits = generator.normal(size=(len(labels), 3)) + skill * np.eye(3)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def trained(skills, seeds=3, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, N)
    runs = {name: {k: probabilities(generator, labels, skill) for k in range(seeds)} for name, skill in skills.items()}
    return runs, labels


def compared(runs, labels, **options):
    return compare_scenarios(runs, labels, np.arange(N), CENTRES, NAMES, **{"bootstrap": 200, **options})


@pytest.mark.parametrize(("seeds", "seed_noise"), [(3, 0.0), (3, 0.15), (3, 0.5), (5, 0.15), (5, 0.5)])
def test_scenarios_without_a_difference_are_called_in_at_most_five_percent_of_500_studies(seeds, seed_noise):
    generator, weights, studies = np.random.default_rng(1), resamples(), 500
    p = np.array(
        [
            [difference.p() for difference in paired_differences(study(generator, weights, 4, seeds, seed_noise), 0, N)]
            for _ in range(studies)
        ]
    )[:, 1:]
    tolerance = 2 * np.sqrt(0.05 * 0.95 / studies)
    assert ((p < 0.05).mean(axis=0) < 0.05 + tolerance).all()
    any_called = np.mean([(holm(of_study) < 0.05).any() for of_study in p])
    assert any_called < 0.05 + tolerance
    assert (p < 0.05).mean() > 0.005  # it does not hold its level by calling nothing


def test_patients_alone_would_call_seeds_of_one_scenario_different():
    generator, weights = np.random.default_rng(2), resamples()
    crossed, naive = [], []
    for _ in range(200):
        scores = study(generator, weights, 2, 3, 0.5)
        difference = paired_differences(scores, 0, N)[1].interval()
        crossed.append(not difference.low < 0 < difference.high)
        low, high = np.quantile((scores[1] - scores[0]).mean(axis=0)[1:], (0.025, 0.975))
        naive.append(not low < 0 < high)
    assert np.mean(naive) > 0.2
    assert np.mean(crossed) < 0.08


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_known_difference_is_found_and_its_interval_covers_it(seeds):
    generator, weights = np.random.default_rng(3), resamples(500)
    found, covered = 0, 0
    for _ in range(100):
        differences = paired_differences(study(generator, weights, 6, seeds, 0.1, effect=1.0), 0, N)
        interval = differences[-1].interval()
        found += holm([difference.p() for difference in differences[1:]])[-1] < 0.05
        covered += interval.low < 1 < interval.high
    assert found > 85
    assert covered > 90


def test_nothing_is_counted_twice():
    generator, weights, variances = np.random.default_rng(9), resamples(), []
    for _ in range(300):
        difference = paired_differences(study(generator, weights, 2, 3, 0.1), 0, N)[1]
        variances.append(difference.resampled.var() + difference.error**2)
    patients, seeds, both = 2 / N, 2 * 0.1**2 / 3, 2 / (3 * N)
    assert np.mean(variances) == pytest.approx(patients + seeds + both, rel=0.1)


def test_patients_and_seeds_are_paired():
    generator, weights = np.random.default_rng(4), resamples()
    of_patient = 3 * generator.normal(size=(1, 1, N)) + generator.normal(size=(1, 3, 1))
    scores = (of_patient + np.array([0.0, 0.2])[:, None, None] + 0.1 * generator.normal(size=(2, 3, N))) @ weights.T / N
    paired = paired_differences(scores, 0, N)[1]
    assert paired.p() < 0.02
    # With the base's seeds and resamples in another order nothing belongs together, and nothing is found.
    scores[0] = scores[0][[1, 2, 0]][:, [0, *range(200, 0, -1)]]
    assert paired_differences(scores, 0, N)[1].p() > 0.2


def test_without_noise_of_patients_it_is_the_paired_t_test():
    values = np.random.default_rng(5).normal(size=(2, 4, 1))
    difference = paired_differences(np.repeat(values, 101, axis=2), 0, N)[1]
    expected = ttest_rel(values[1, :, 0], values[0, :, 0])
    assert difference.p() == pytest.approx(expected.pvalue)
    found, interval = difference.interval(), expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_interval_and_effect_of_one_seed_are_those_of_patients():
    weights, values = resamples(2000), np.random.default_rng(6).normal(0.3, 1, N)
    scores = np.stack([np.zeros(2001), values @ weights.T / N])[:, None]
    difference = paired_differences(scores, 0, N)[1]
    assert difference.seeds == 1
    interval = difference.interval()
    assert (interval.low, interval.high) == pytest.approx(
        tuple(np.quantile(scores[1, 0, 1:], (0.025, 0.975))), abs=5e-3
    )
    assert difference.effect == pytest.approx(values.mean() / values.std(), rel=0.1)


def test_scenarios_lend_each_other_their_variance_but_none_gets_less_than_its_own():
    scores = np.random.default_rng(1).normal(size=(60, 3))
    variances, degrees = seed_variances(scores)
    rest = scores - scores.mean(axis=0)
    own = rest.var(axis=1, ddof=1) * 60 / 59
    assert (variances >= own - 1e-12).all()
    assert variances.min() > 5 * own.min()
    assert degrees > 10
    wild = seed_variances(scores * np.where(np.arange(60) % 2, 100, 1)[:, None])
    assert wild[1] < 4
    assert np.median(wild[0][1::2]) > 25 * np.median(wild[0][::2])


def test_holm_agrees_with_the_definition():
    assert holm([0.01, 0.04, 0.03, np.nan, 0.5]) == pytest.approx([0.04, 0.09, 0.09, np.nan, 0.5], nan_ok=True)
    assert holm([0.4, 0.3]) == pytest.approx([0.6, 0.6])


def test_a_study_is_complete_and_its_means_are_those_of_the_seeds():
    runs, labels = trained({"O": 1.0, "O+CA": 1.1, "O+FM": 4.0})
    result = compared(runs, labels)
    json.dumps(result, allow_nan=False)
    alone = [classification_metrics(runs["O"][k], labels, NAMES) for k in range(3)]
    scenario = result["scenarios"]["O"]
    assert scenario["per_seed"]["macro_f1"] == pytest.approx([of["overall"]["macro_f1"] for of in alone])
    assert scenario["scores"]["macro_auc"]["value"] == pytest.approx(
        np.mean([o["overall"]["macro_auc"] for o in alone])
    )
    recall = np.mean([of["per_class"]["normal"]["recall"] for of in alone])
    assert scenario["per_class"]["normal"]["recall"]["value"] == pytest.approx(recall)
    assert list(scenario["per_centre"]) == ["F", "H", "I"]
    assert sum(scenario["calibration"]["reliability"]["count"]) == 3 * N
    assert list(result["comparisons"]) == ["O", "O+CA"]
    found = result["comparisons"]["O"]["O+FM"]["macro_f1"]
    assert found["survives"]
    assert found["difference"]["low"] > 0
    assert found["p"] <= found["p_holm"] < 0.05
    assert found["p_wilcoxon_holm"] < 0.05
    assert not result["comparisons"]["O"]["O+CA"]["macro_f1"]["survives"]
    assert result["sentences"][0].startswith("O+FM has the highest macro F1 of 3 scenarios: 0.")
    assert "Against O 1 of 2 differences in macro F1 survives Holm's correction: O+FM +0." in result["sentences"][1]


def test_equal_scenarios_are_tied():
    runs, labels = trained({"O": 1.0, "other": 1.0})
    result = compared({"O": runs["O"], "same": runs["O"], "other": runs["other"]}, labels)
    same = result["comparisons"]["O"]["same"]["macro_f1"]
    difference = same["difference"]
    assert difference["value"] == 0
    # What these seeds did alike is borrowed from the third scenario: others might not.
    assert difference["low"] == pytest.approx(-difference["high"])
    assert same["p"] == same["p_wilcoxon"] == 1
    assert same["effect"] is None
    assert "none of 2 differences in macro F1 survives" in result["sentences"][1]


def test_missing_runs_leave_the_seeds_that_both_sides_have():
    runs, labels = trained({"O": 1.0, "O+FM": 4.0, "FM": 4.0, "lost": 1.0})
    whole = compared(runs, labels)
    del runs["O+FM"][1], runs["FM"][0], runs["FM"][1]
    runs["lost"] = {}
    result = compared(runs, labels)
    assert list(result["scenarios"]) == ["O", "O+FM", "FM"]
    partial, full = (
        result["scenarios"]["O+FM"]["per_seed"]["macro_f1"],
        whole["scenarios"]["O+FM"]["per_seed"]["macro_f1"],
    )
    assert partial == [full[0], None, full[2]]
    entry = result["comparisons"]["O"]["O+FM"]["macro_f1"]
    base = whole["scenarios"]["O"]["per_seed"]["macro_f1"]
    assert entry["seeds"] == 2
    assert entry["difference"]["value"] == pytest.approx((full[0] - base[0] + full[2] - base[2]) / 2)
    alone = result["comparisons"]["O"]["FM"]["macro_f1"]  # one seed: no test, and none that others are corrected for
    assert (alone["p_holm"], alone["survives"]) == (None, False)
    assert alone["p"] is not None
    assert entry["p_holm"] == entry["p"]
    assert any(sentence.startswith("O+FM has no run of seed 1:") for sentence in result["sentences"])
    assert "1 more was not tested: fewer than two paired seeds" in result["sentences"][1]


def test_with_one_seed_nothing_survives_and_it_says_why():
    runs, labels = trained({"O": 1.0, "FM": 4.0}, seeds=1)
    result = compared(runs, labels)
    entry = result["comparisons"]["O"]["FM"]["macro_f1"]
    assert entry["difference"]["low"] > 0
    assert entry["p"] < 0.05
    assert not entry["survives"]
    assert "with one seed the chance of a training cannot be told from an effect" in result["sentences"][1]


def test_resamples_without_a_class_are_left_out_and_counted():
    runs, labels = trained({"O": 1.0, "FM": 1.5})
    labels[:] = np.arange(N) % 2
    labels[0] = 2
    difference = compared(runs, labels)["comparisons"]["O"]["FM"]["macro_f1"]["difference"]
    lost = (bootstrap_weights(np.arange(N), CENTRES, n=200, seed=0)[:, 0] == 0).sum()
    assert difference["undefined"] == lost > 20
    assert difference["low"] < difference["high"]
    labels[0] = 0
    result = compared(runs, labels)
    assert result["scenarios"]["O"]["per_class"]["thyroiditis"]["f1"]["value"] is None
    assert result["comparisons"]["O"]["FM"]["macro_f1"]["p"] is not None


def test_patients_are_resampled_whole_and_within_their_centre():
    _, labels = trained({"O": 1.0})
    of_patient = np.arange(N) // 15
    right = {"O": {0: np.eye(3)[np.where(of_patient % 2, labels, (labels + 1) % 3)]}}
    width = []
    for patients in (np.arange(N), of_patient):
        result = compare_scenarios(right, labels, patients, np.repeat("F", N), NAMES, bootstrap=200)
        accuracy = result["scenarios"]["O"]["scores"]["accuracy"]
        width.append(accuracy["high"] - accuracy["low"])
    assert width[1] > 2 * width[0]  # six patients, not ninety
    # Accuracy that is all of one centre and none of the other has no spread if centres keep their sizes.
    sure = np.eye(3)[np.where(CENTRES == "F", labels, (labels + 1) % 3)]
    right = compared({"O": {0: sure}}, labels)["scenarios"]["O"]["scores"]["accuracy"]
    assert right["low"] == right["high"] == pytest.approx(1 / 3)


def test_several_diseases_have_thresholds_of_each_run():
    generator = np.random.default_rng(8)
    truth = generator.integers(0, 2, (N, 2))
    runs = {
        name: {k: 1 / (1 + np.exp(-generator.normal(skill * (2 * truth - 1), 1))) for k in range(3)}
        for name, skill in {"O": 0.3, "FM": 2.0}.items()
    }
    thresholds = {name: {k: [0.4 + 0.1 * k, 0.5] for k in range(3)} for name in runs}
    names = ["metastasis", "arthritis"]
    options = {"thresholds": thresholds, "bootstrap": 200}
    result = compare_scenarios(runs, truth, np.arange(N), CENTRES, names, **options)
    json.dumps(result, allow_nan=False)
    alone = [
        evaluate_diseases(runs["O"][k], truth, thresholds["O"][k], np.arange(N), CENTRES, names, bootstrap=0)
        for k in range(3)
    ]
    scenario = result["scenarios"]["O"]
    assert scenario["per_seed"]["macro_f1"] == pytest.approx([of["overall"]["macro_f1"]["value"] for of in alone])
    briers = [of["calibration"][name]["brier"]["value"] for of in alone for name in names]
    assert scenario["calibration"]["brier"]["value"] == pytest.approx(np.mean(briers))
    assert sum(scenario["calibration"]["reliability"]["count"]) == 2 * 3 * N
    assert result["metrics"]["primary"] == "macro_auc"
    assert result["comparisons"]["O"]["FM"]["macro_auc"]["survives"]
    assert result["comparisons"]["O"]["FM"]["macro_auc"]["p_wilcoxon"] < 1e-6
    del thresholds["FM"][2]
    with pytest.raises(ScintikitError, match="FM seed 2 has no thresholds"):
        compare_scenarios(runs, truth, np.arange(N), CENTRES, names, **options)


def test_unusable_input_is_refused():
    runs, labels = trained({"O": 1.0})
    with pytest.raises(ScintikitError, match="0 scenarios with a run"):
        compared({"O": {}}, labels)
    with pytest.raises(ScintikitError, match="expected one of macro_f1"):
        compared(runs, labels, primary="f1")
    runs["FM"] = {4: runs["O"][0][:-1]}
    with pytest.raises(ScintikitError, match="FM seed 4: probabilities have shape"):
        compared(runs, labels)
    runs["FM"] = {4: runs["O"][0] * 2}
    with pytest.raises(ScintikitError, match="FM seed 4: Probabilities"):
        compared(runs, labels)
