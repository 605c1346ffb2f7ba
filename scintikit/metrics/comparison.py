"""Compare classifiers that were trained in several ways, with several seeds each, on one test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import wilcoxon

from scintikit.errors import MetricError
from scintikit.metrics import classification, diseases
from scintikit.metrics.calibration import (
    calibration_curve,
    calibration_error,
    expected_calibration_error,
    reliability_curve,
)
from scintikit.metrics.checks import (
    check_class_names,
    check_disease_labels,
    check_disease_probabilities,
    check_groups,
    check_labels,
    check_probabilities,
)
from scintikit.metrics.classification import Scores, merge, nest, plain
from scintikit.metrics.crossed import holm, paired_differences
from scintikit.metrics.evaluate import LEVEL, classifier_scores, nested_intervals
from scintikit.metrics.intervals import bootstrap_values

BASES = ("O", "O+CA")
AVERAGED = ("macro_f1", "macro_auc", "macro_precision", "macro_recall", "balanced_accuracy", "accuracy", "mcc")
AVERAGED_DISEASES = (
    *("macro_auc", "macro_auprc", "macro_f1", "macro_precision", "macro_sensitivity", "macro_specificity"),
    *("macro_accuracy", "exact_match"),
)

Runs = Mapping[str, Mapping[int, ArrayLike]]
"""What the runs of each scenario gave, by the name of the scenario and the seed."""


def compare_scenarios(
    runs: Runs,
    truth: ArrayLike,
    patients: ArrayLike,
    centres: ArrayLike,
    class_names: Sequence[str],
    *,
    thresholds: Runs | None = None,
    bases: Sequence[str] = BASES,
    primary: str | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure every scenario over its seeds, and tell which differ from a base.

    Parameters
    ----------
    runs : mapping
        Probabilities (N, C) of the same N test items for every scenario and seed. Runs of one seed are paired. A run
        that failed is left out: scores are of the seeds that a scenario has, differences of those that both have.
    truth : array_like
        Class of each item, int (N,), or 0 and 1 for each of several diseases, (N, C).
    patients, centres : array_like, shape (N,)
        Pseudonyms.
    class_names : sequence of str
        C names in the order of the columns.
    thresholds : mapping, optional
        For several diseases: those (C,) of each run, chosen on validation data.
    bases : sequence of str
        Scenarios that all others are compared with; those without a run are left out.
    primary : str, optional
        Metric that the sentences are about; default macro_f1, for several diseases macro_auc.
    bootstrap, seed : int
        Resamples of the patients, at least 1, and their seed.

    Returns
    -------
    dict
        JSON-able, without NaN: `metrics` (the names of what was `averaged`, `per_class` and the `primary` one);
        `scenarios` with `scores`, `per_class`, `per_centre` (means over seeds, intervals over patients alone),
        `per_seed` (None for a missing run; seeds are in `statistics`) and `calibration` of the seeds' predictions
        together; `comparisons` by base, scenario and averaged metric with `difference`, `p`, `p_holm`, `p_wilcoxon`,
        `p_wilcoxon_holm`, `effect`, `seeds` (paired ones) and `survives` (p_holm below 0.05, with two seeds or more);
        `sentences`; `statistics`, how it was done. Calibration of several diseases pools them.

    Raises
    ------
    MetricError
        There is no run, arrays are unusable or differ in their items, thresholds are missing, the primary metric is
        unknown, or there is no resample.

    Notes
    -----
    Formulas: `docs/metrics.md`. Differences: `paired_differences`. Holm's correction runs over all comparisons of one
    base and metric. Wilcoxon's signed-rank test compares, patient by patient, the probability given to the truth (mean
    over seeds and images); it takes the trained networks as they are, so that two seeds of one scenario can "differ".
    No statement rests on it.
    """
    test = _Test(truth, patients, centres, class_names)
    runs = {name: of_seed for name, of_seed in runs.items() if of_seed}
    averaged = AVERAGED_DISEASES if test.several else AVERAGED
    primary = primary or averaged[0]
    if not runs or bootstrap < 1:
        raise MetricError(f"There are {len(runs)} scenarios with a run and {bootstrap} resamples; expected some.")
    if primary not in averaged:
        raise MetricError(f"The primary metric is {primary!r}; expected one of {', '.join(averaged)}.")
    study = _Study(test, runs, thresholds or {}, bootstrap, seed)
    scenarios = {name: study.scenario(name, averaged) for name in runs}
    others = len(runs) > 1
    comparisons = {base: study.comparisons(base, averaged) for base in bases if base in runs and others}
    per_class = (*diseases.RATES, *diseases.CURVES) if test.several else classification.METRICS
    return {
        "metrics": {"averaged": list(averaged), "per_class": list(per_class), "primary": primary},
        "scenarios": scenarios,
        "comparisons": comparisons,
        "sentences": _sentences(scenarios, comparisons, study.seeds, primary),
        "statistics": {"level": LEVEL, "resamples": bootstrap, "seed": seed, "seeds": study.seeds},
    }


class _Test:
    """The items that all runs were tested on: one class each, or several diseases."""

    def __init__(self, truth: ArrayLike, patients: ArrayLike, centres: ArrayLike, class_names: Sequence[str]) -> None:
        self.several = np.ndim(truth) == 2
        self.names = check_class_names(class_names, len(class_names))
        items = len(np.asarray(truth))
        if self.several:
            self.truth = check_disease_labels(truth, items, len(self.names))
        else:
            self.truth = check_labels(truth, items, len(self.names))
        self.patients = check_groups(patients, items, "Patients")
        self.centres = check_groups(centres, items, "Centres")
        of_centre = pd.Series(self.patients).groupby(self.centres).nunique()
        self.alone = {str(centre) for centre in of_centre.index[of_centre == 1]}

    def check(self, probabilities: ArrayLike, run: str) -> np.ndarray:
        """Return the probabilities of a run, (N, C)."""
        try:
            values = (check_disease_probabilities if self.several else check_probabilities)(probabilities)
        except MetricError as error:
            raise MetricError(f"{run}: {error}") from error
        expected = (len(self.truth), len(self.names))
        if values.shape != expected:
            raise MetricError(f"{run}: probabilities have shape {values.shape}; expected {expected}, as the truth has.")
        return values

    def scores(self, probabilities: np.ndarray, called: np.ndarray | None, weights: np.ndarray) -> Scores:
        """Return all scores of one run, `(R,)` each."""
        if called is None:
            return classifier_scores(probabilities, self.truth, weights, self.names, self.centres)
        columns = check_class_names([*self.names, "normal"], len(self.names) + 1)
        truth, called = diseases.with_normal(self.truth), diseases.with_normal(called)
        scores = diseases.diseases_scores(
            diseases.with_no_disease(probabilities), truth, called, weights, columns, self.centres
        )
        briers = [scores.pop(("calibration", name, "brier")) for name in self.names]
        return scores | {("calibration", "brier"): np.mean(briers, axis=0)}

    def to_truth(self, probabilities: Sequence[np.ndarray]) -> pd.Series:
        """Return the probability that the runs give to the truth, the mean of each patient."""
        mean = np.mean(probabilities, axis=0)
        if self.several:
            given = np.where(self.truth, mean, 1 - mean).mean(axis=1)
        else:
            given = mean[np.arange(len(mean)), self.truth]
        return pd.Series(given).groupby(self.patients).mean()

    def calibration(self, probabilities: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return calibration error and reliability of the predictions of all runs together."""
        together = np.concatenate(probabilities)
        truth = np.concatenate([self.truth] * len(probabilities))
        if self.several:
            pair = together.ravel(), truth.ravel().astype(float)
            return {"ece": calibration_error(*pair), "reliability": calibration_curve(*pair)}
        return {"ece": expected_calibration_error(together, truth), "reliability": reliability_curve(together, truth)}


class _Study:
    """All runs with their scores, those of the test and of each resample of its patients."""

    def __init__(self, test: _Test, runs: Runs, thresholds: Runs, bootstrap: int, seed: int) -> None:
        self.test = test
        self.names = list(runs)
        self.seeds = sorted({number for of_seed in runs.values() for number in of_seed})
        self.runs = {
            (name, number): test.check(values, f"{name} seed {number}")
            for name, of_seed in runs.items()
            for number, values in of_seed.items()
        }
        called = {key: self._called(key, thresholds) for key in self.runs}

        def statistic(weights: np.ndarray) -> Scores:
            return {
                (name, str(number), *place): value
                for (name, number), probabilities in self.runs.items()
                for place, value in test.scores(probabilities, called[name, number], weights).items()
            }

        self.values = bootstrap_values(statistic, test.patients, test.centres, n=bootstrap, seed=seed)
        self.places = [place[2:] for place in self.values if place[:2] == next(iter(self.values))[:2]]

    def _called(self, key: tuple[str, int], thresholds: Runs) -> np.ndarray | None:
        if not self.test.several:
            return None
        name, seed = key
        if seed not in thresholds.get(name, {}):
            raise MetricError(f"{name} seed {seed} has no thresholds; give those that were chosen on validation data.")
        return self.runs[key] >= diseases.check_thresholds(thresholds[name][seed], len(self.test.names))

    def _of(self, name: str) -> dict[int, np.ndarray]:
        """Return the probabilities of a scenario by seed."""
        return {seed: values for (scenario, seed), values in self.runs.items() if scenario == name}

    def scenario(self, name: str, averaged: Sequence[str]) -> dict[str, Any]:
        """Return what is told of one scenario."""
        runs = self._of(name)
        means = {place: np.mean([self.values[(name, str(k), *place)] for k in runs], axis=0) for place in self.places}
        result = nested_intervals(means, self.test.alone)
        result["scores"] = result.pop("overall")
        result["per_seed"] = {
            metric: [plain(self.values[name, str(k), "overall", metric][0]) if k in runs else None for k in self.seeds]
            for metric in averaged
        }
        return merge(result, {"calibration": self.test.calibration(list(runs.values()))})

    def comparisons(self, base: str, averaged: Sequence[str]) -> dict[str, Any]:
        """Return how all other scenarios differ from a base."""
        others = [name for name in self.names if name != base]
        ranks = [self._wilcoxon(name, base) for name in others]
        ranks_holm = holm(ranks)
        result: dict[tuple[str, ...], Any] = {}
        for metric in averaged:
            found = paired_differences(self._table(metric), self.names.index(base), len(set(self.test.patients)))
            found = [difference for name, difference in zip(self.names, found, strict=True) if name != base]
            p = [difference.p() for difference in found]
            # With one seed p knows the patients alone: no test of a way of training, and none of those corrected for.
            corrected = holm([value if of.seeds > 1 else np.nan for value, of in zip(p, found, strict=True)])
            for i, (name, difference) in enumerate(zip(others, found, strict=True)):
                result[name, metric] = {
                    "difference": difference.interval(LEVEL).as_json(),
                    "p": plain(p[i]),
                    "p_holm": plain(corrected[i]),
                    "p_wilcoxon": plain(ranks[i]),
                    "p_wilcoxon_holm": plain(ranks_holm[i]),
                    "effect": plain(difference.effect),
                    "seeds": difference.seeds,
                    "survives": bool(corrected[i] < 1 - LEVEL),  # False for NaN
                }
        return nest(result)

    def _table(self, metric: str) -> np.ndarray:
        """Return a score of all scenarios and seeds with its resamples `(S, K, 1 + R)`, NaN for a missing run."""
        missing = np.full_like(next(iter(self.values.values())), np.nan)
        return np.array(
            [
                [self.values.get((name, str(seed), "overall", metric), missing) for seed in self.seeds]
                for name in self.names
            ]
        )

    def _wilcoxon(self, name: str, base: str) -> float:
        runs, others = self._of(name), self._of(base)
        paired = sorted(runs.keys() & others.keys())
        if not paired:
            return np.nan
        difference = self.test.to_truth([runs[k] for k in paired]) - self.test.to_truth([others[k] for k in paired])
        return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def _sentences(
    scenarios: Mapping[str, Any], comparisons: Mapping[str, Any], seeds: Sequence[int], primary: str
) -> list[str]:
    """Say in words which scenario is best, which differences are more than chance, and what is missing."""
    metric = _words(primary)
    scores = {
        name: of["scores"][primary] for name, of in scenarios.items() if of["scores"][primary]["value"] is not None
    }
    said = []
    if scores:
        best = max(scores, key=lambda name: scores[name]["value"])
        runs = sum(value is not None for value in scenarios[best]["per_seed"][primary])
        said.append(
            f"{best} has the highest {metric} of {len(scores)} scenarios: {_interval(scores[best], 'over patients')}, "
            f"mean over {runs} {'seed' if runs == 1 else 'seeds'}."
        )
    else:
        return [f"No scenario has a {metric} on this test."]
    said += [
        _about(base, {name: of[primary] for name, of in others.items()}, metric) for base, others in comparisons.items()
    ]
    for name, of in scenarios.items():
        lost = [str(seed) for seed, value in zip(seeds, of["per_seed"][primary], strict=True) if value is None]
        if lost and name in scores:
            said.append(
                f"{name} has no run of seed {', '.join(lost)}: its scores are of the other seeds, "
                "its differences of those that both sides have."
            )
    return said


def _about(base: str, others: Mapping[str, Any], metric: str) -> str:
    """Say which differences to one base survive."""
    tested = {name: of for name, of in others.items() if of["p_holm"] is not None}
    if not tested:
        return (
            f"Against {base} no difference can be called: that needs several patients, and two seeds or more on both "
            "sides, since with one seed the chance of a training cannot be told from an effect."
        )
    survivors = {name: of for name, of in tested.items() if of["survives"]}
    few = len(others) - len(tested)
    untested = f" {few} more {'was' if few == 1 else 'were'} not tested: fewer than two paired seeds." if few else ""
    if not survivors:
        least = min(tested, key=lambda name: tested[name]["p_holm"])
        return (
            f"Against {base} none of {len(tested)} differences in {metric} survives Holm's correction "
            f"(smallest corrected p {tested[least]['p_holm']:.2g}, {least}).{untested}"
        )
    told = "; ".join(
        f"{name} {_interval(of['difference'], sign='+')}, corrected p {of['p_holm']:.2g}"
        for name, of in survivors.items()
    )
    verb = "survives" if len(survivors) == 1 else "survive"
    share = f"{len(survivors)} of {len(tested)} differences in {metric} {verb} Holm's correction"
    return f"Against {base} {share}: {told}.{untested}"


def _interval(estimate: Mapping[str, Any], over: str = "", sign: str = "") -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    interval = (
        "no interval"
        if low is None
        else f"{100 * LEVEL:.0f} % interval {low:{sign}.3f} to {high:{sign}.3f} {over}".rstrip()
    )
    return f"{value:{sign}.3f} ({interval})"


def _words(metric: str) -> str:
    """Return a metric's name as one says it, such as macro F1."""
    return " ".join(word.upper() if word in {"f1", "auc", "auprc", "mcc"} else word for word in metric.split("_"))
