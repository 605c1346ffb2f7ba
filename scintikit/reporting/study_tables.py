"""Tables of a study: those of its page, and the same numbers as data frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from scintikit.reporting.fidelity import score_text
from scintikit.reporting.figures import metric_name
from scintikit.reporting.report import Cell, Table
from scintikit.reporting.scores import interval_range
from scintikit.reporting.study_figures import group_of, signed

NOTHING: dict[str, Any] = {"value": None, "low": None, "high": None}
CALIBRATION = ("ece", "brier")  # lower is better
KINDS = ("micro", "macro", "weighted")
TESTS = ("p", "p_holm", "p_wilcoxon", "p_wilcoxon_holm", "effect")


def overview_table(results: Mapping[str, Any], order: Sequence[str]) -> Table:
    """Return scenarios in rows: training images, the averages of the primary metric's kind, calibration."""
    names, scenarios = _averages(results["metrics"]), {name: results["scenarios"][name] for name in order}
    columns = [[scenario["scores"].get(name, NOTHING) for scenario in scenarios.values()] for name in names]
    for name in CALIBRATION:
        columns.append([calibration_scores(scenario)[name] for scenario in scenarios.values()])
    names += CALIBRATION
    cells = _cells(columns, names)
    rows: list[list[str | Cell]] = [
        [name, _images(scenario["training"]), *row]
        for (name, scenario), row in zip(scenarios.items(), _rows(cells), strict=True)
    ]
    return Table("All scenarios", ["scenario", "training images", *map(metric_name, names)], rows)


def class_tables(results: Mapping[str, Any], order: Sequence[str]) -> list[Table]:
    """Return for each metric scenarios in rows and classes in columns, followed by the averages."""
    scenarios = [results["scenarios"][name] for name in order]
    classes = list(dict.fromkeys(label for entry in scenarios for label in entry["per_class"]))
    tables = []
    for metric in results["metrics"]["per_class"]:
        kinds = [kind for kind in KINDS if any(f"{kind}_{metric}" in entry["scores"] for entry in scenarios)]
        columns = [[entry["per_class"].get(label, {}).get(metric, NOTHING) for entry in scenarios] for label in classes]
        columns += [[entry["scores"].get(f"{kind}_{metric}", NOTHING) for entry in scenarios] for kind in kinds]
        cells = _cells(columns, [metric] * len(columns))
        rows: list[list[str | Cell]] = [[name, *row] for name, row in zip(order, _rows(cells), strict=True)]
        headings = ["scenario", *classes, *(f"{kind} average" for kind in kinds)]
        tables.append(Table(f"{_capital(metric_name(metric))} by class", headings, rows))
    return tables


def comparison_table(results: Mapping[str, Any], base: str, order: Sequence[str]) -> Table:
    """Return the differences to a base in the primary metric, with tests and effect sizes."""
    metric = results["metrics"]["primary"]
    rows: list[list[str | Cell]] = []
    for name in order:
        entry = results["comparisons"][base].get(name, {}).get(metric)
        if entry is not None and entry["difference"]["value"] is not None:
            difference = entry["difference"]
            span = "" if difference["low"] is None else f"{signed(difference['low'])} to {signed(difference['high'])}"
            tests = [_p_text(entry[test]) for test in TESTS[:-1]]
            effect = "n/a" if entry["effect"] is None else f"{entry['effect']:+.2f}"
            verdict = Cell("yes", strong=True) if entry["survives"] else "no"
            rows.append([name, Cell(signed(difference["value"]), span), *tests, effect, verdict])
    columns = ["scenario", "difference", "p", "p (Holm)", "Wilcoxon p", "Wilcoxon p (Holm)", "effect size", "survives"]
    return Table(f"{_capital(metric_name(metric))}: differences from {base}", columns, rows)


def generator_table(generators: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return how near each source's synthetic images are to real ones, and how many its audit flagged."""
    rows: list[list[str | Cell]] = []
    for source, entry in generators.items():
        texts: list[str | Cell] = []
        for name in ("fid", "kid"):
            floor = entry[f"{name}_floor"]
            score = {**(entry[name] or NOTHING), "floor": dict.fromkeys(NOTHING, floor or 0)}
            floor_text = "n/a" if floor is None else score_text(name, score, "floor", span=False)
            texts += [Cell(score_text(name, score, span=False), _span(name, score)), floor_text]
        rows.append([source, *texts, *(_count(entry[key]) for key in ("flagged", "pictures"))])
    columns = ["source", "FID", "floor", "KID x 1000", "floor", "flagged by the audit", "images"]
    return Table("Synthetic images", columns, rows)


def failure_table(failed: Sequence[Mapping[str, str]]) -> Table:
    """Return what failed and why."""
    return Table("Failed", ["work", "error"], [[entry["work"], entry["error"]] for entry in failed])


def frames(results: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return all numbers of the scenarios as tidy tables, one number with its interval a row."""
    return {
        "scenarios": pd.DataFrame(_scenario_rows(results)),
        "per_class": pd.DataFrame(_part_rows(results, "per_class", "class")),
        "per_centre": pd.DataFrame(_part_rows(results, "per_centre", "centre")),
        "comparisons": pd.DataFrame(_comparison_rows(results)),
    }


def calibration_scores(scenario: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return ECE (it has no interval) and Brier score as estimates."""
    calibration = scenario["calibration"]
    return {"ece": {**NOTHING, "value": calibration["ece"]}, "brier": calibration["brier"]}


def _averages(metrics: Mapping[str, Any]) -> list[str]:
    """Return the averages that are of the primary metric's kind (such as macro), and those that are of none."""
    kind = metrics["primary"].partition("_")[0]
    others = {f"{other}_{metric}" for other in KINDS if other != kind for metric in metrics["per_class"]}
    return [name for name in metrics["averaged"] if name not in others]


def _cells(columns: Sequence[Sequence[Mapping[str, Any]]], metrics: Sequence[str]) -> list[list[Cell]]:
    """Return the columns as cells; the best of each is strong."""
    cells = []
    for column, metric in zip(columns, metrics, strict=True):
        choose: Callable[..., float | None] = min if metric in CALIBRATION else max
        best = choose((entry["value"] for entry in column if entry["value"] is not None), default=None)
        cells.append([_cell(entry, best) for entry in column])
    return cells


def _rows(columns: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(entry: Mapping[str, Any], best: float | None) -> Cell:
    if entry["value"] is None:
        return Cell("n/a")
    return Cell(f"{entry['value']:.3f}", interval_range(entry), entry["value"] == best)


def _images(training: Mapping[str, int]) -> Cell:
    return Cell(f"{sum(training.values()):,}", " + ".join(kind for kind, count in training.items() if count))


def _p_text(p: float | None) -> str:
    if p is None:
        return "n/a"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _span(name: str, score: Mapping[str, Any]) -> str:
    if score["low"] is None:
        return ""
    return " to ".join(score_text(name, {**score, "value": score[end]}, span=False) for end in ("low", "high"))


def _count(value: int | None) -> str:
    return "n/a" if value is None else f"{value:,}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _scenario_rows(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    seeds = results.get("statistics", results["study"])["seeds"]  # those with a run, if that is told
    for name, scenario in results["scenarios"].items():
        about = {"scenario": name, "group": group_of(scenario).name, "images": sum(scenario["training"].values())}
        for metric, entry in scenario["scores"].items():
            values = zip(seeds, scenario["per_seed"].get(metric, []), strict=False)
            yield about | _row(metric, entry) | {f"seed_{seed}": value for seed, value in values}
        for metric, entry in calibration_scores(scenario).items():
            yield about | _row(metric, entry)


def _part_rows(results: Mapping[str, Any], part: str, heading: str) -> Iterator[dict[str, Any]]:
    for name, scenario in results["scenarios"].items():
        for label, scores in scenario[part].items():
            for metric, entry in scores.items():
                if isinstance(entry, Mapping) and "value" in entry:
                    yield {"scenario": name, heading: label} | _row(metric, entry)


def _comparison_rows(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for base, scenarios in results["comparisons"].items():
        for name, metrics in scenarios.items():
            for metric, entry in metrics.items():
                row = {"base": base, "scenario": name} | _row(metric, entry["difference"])
                yield row | {test: entry[test] for test in (*TESTS, "survives", "seeds") if test in entry}


def _row(metric: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"metric": metric} | {key: entry[key] for key in NOTHING}
