"""The report of a study: pages, tables and figures from results that were made up."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scintikit.errors import ReportError
from scintikit.files import file_sha256
from scintikit.reporting import figure_png, figures, save_figure, study_figures, write_study_report

CLASSES = ("diffuse goiter", "nodular goiter", "normal", "thyroiditis")
SOURCES = {"SD1": (21.0, 9.1), "SD2": (34.0, 17.5), "SD3": (26.0, 12.2), "SD4": (29.5, 13.0), "FM": (8.5, 2.4)}
PAPER = ("O", "CA", *SOURCES, "O+CA", *(f"O+{s}" for s in SOURCES), *(f"O+CA+{s}" for s in SOURCES))
BEYOND = ("FM>O", "O+FM(audited)", "O+FM(250)", "O+FM(500)", "O+FM(1000)", "O+FM(2000)")
AVERAGED = ["macro_f1", "macro_auc", "macro_precision", "macro_recall", "accuracy", "mcc"]


def study_results(
    names: Sequence[str] = (*PAPER, *BEYOND), seeds: int = 3, classes: Sequence[str] = CLASSES
) -> dict[str, Any]:
    """Return results as a study writes them, with scores that are plausible and drawn from a fixed seed."""
    rng = np.random.default_rng(0)
    averaged, per_class = [*AVERAGED, "balanced_accuracy"], ["precision", "recall", "f1", "auc"]
    everything = [*averaged, *(f"{kind}_{metric}" for kind in ("micro", "weighted") for metric in per_class)]
    scenarios = {name: _scenario(rng, name, seeds, classes, everything, per_class) for name in names}
    bases = [base for base in ("O", "O+CA") if base in names]
    return {
        "study": {
            "name": "thyroid augmentation", "profile": "paper", "classifier": "thyroid_cls",
            "class_names": list(classes), "several_diseases": False, "simulated": True, "seeds": list(range(seeds)),
            "optimiser_steps": 819, "given_generators": [],
            "command": "python -m tools study bundles/thyroid_cls/study.yaml --profile paper",
            "test": {
                "items": 399, "patients": 399, "centres": {"F": 170, "H": 102, "I": 127}, "external": True,
            },
            "dataset": {"name": "paper", "sha256": "cd" * 32}, "minutes": 754.2, "file_sha256": "ef" * 32,
        },
        "metrics": {"averaged": averaged, "per_class": per_class, "primary": "macro_f1"},
        "scenarios": scenarios,
        "comparisons": {base: _comparisons(scenarios, base, averaged) for base in bases},
        "sentences": [
            "O+CA+FM has the highest macro F1, 0.77 (0.73 to 0.81).",
            "Against O, 3 of 23 differences survive Holm's correction; against O+CA none does.",
        ],
        "generators": {
            name: {
                "fid": _estimate(fid, 0.06 * fid), "kid": _estimate(kid / 1000, 0.1 * kid / 1000), "fid_floor": 4.1,
                "kid_floor": 0.0003, "flagged": 2, "pictures": 4000,
            }
            for name, (fid, kid) in SOURCES.items()
        },
        "statistics": {"level": 0.95, "resamples": 2000, "seed": 0, "seeds": list(range(seeds))},
        "failed": [],
        "environment": {
            "machines": [{"processor": "A processor, 16 cores", "gpu": "A GPU", "system": "Linux x86_64"}],
            "versions": {"scintikit": "0.1.0", "monai": "1.5.0", "torch": "2.7.0"},
        },
    }  # fmt: skip


def _scenario(
    rng: np.random.Generator,
    name: str,
    seeds: int,
    classes: Sequence[str],
    averaged: Sequence[str],
    per_class: Sequence[str],
) -> dict[str, Any]:
    training = _training(name)
    level = 0.55 + 0.16 * ("original" in training) + 0.012 * ("CA" in name) + 0.03 * ("FM" in name)
    level += 0.015 * np.log10(1 + sum(training.values()) / 2555) + rng.normal(0, 0.008)
    each = {metric: _shift(metric, level) + rng.normal(0, 0.012, seeds) for metric in averaged}
    shift = rng.normal(0, 0.08, len(classes))
    confidence = np.linspace(1 / 30, 29 / 30, 15)
    return {
        "training": training,
        "scores": {metric: _estimate(float(values.mean())) for metric, values in each.items()},
        "per_seed": {metric: values.tolist() for metric, values in each.items()},
        "per_class": {
            label: {metric: _estimate(min(0.98, _shift(metric, level + off)), 0.06) for metric in per_class}
            for label, off in zip(classes, shift, strict=True)
        },
        "per_centre": {
            centre: {metric: _estimate(_shift(metric, level + off), 0.07) for metric in ("macro_f1", "macro_auc")}
            for centre, off in (("F", 0.03), ("H", -0.02), ("I", rng.normal(0, 0.03)))
        },
        "calibration": {
            "ece": float(0.16 - 0.1 * level),
            "brier": _estimate(1 - 0.8 * level),
            "reliability": {
                "edges": np.linspace(0, 1, 16).tolist(),
                "count": [0, 0, 0, 0, 12, 31, 40, 61, 77, 82, 100, 121, 160, 210, 303],
                "confidence": [None] * 4 + confidence[4:].tolist(),
                "accuracy": [None] * 4 + (confidence[4:] ** 1.3 + rng.normal(0, 0.03, 11)).clip(0, 1).tolist(),
            },
        },
    }


def _training(name: str) -> dict[str, int]:
    """Return how many images of each kind a scenario trains on."""
    counts = {"O": ("original", 2555), "CA": ("augmented", 2555)} | {s: (s.lower(), 4000) for s in SOURCES}
    dose = {"250": 1000, "500": 2000, "1000": 4000, "2000": 8000, "audited": 3961}
    training = {}
    for term in name.replace(">", "+").split("+"):
        source, _, detail = term.rstrip(")").partition("(")
        kind, count = counts[source]
        training[kind] = dose.get(detail, count)
    return training


def _shift(metric: str, level: float) -> float:
    return 1 - 0.25 * (1 - level) if metric.endswith("auc") else level


def _estimate(value: float, half: float = 0.035) -> dict[str, float | None]:
    return {"value": value, "low": value - half, "high": min(1.0, value + 0.9 * half) if value < 1 else value + half}


def _comparisons(scenarios: Mapping[str, Any], base: str, metrics: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {name: {} for name in scenarios if name != base}
    for name, metric in product(result, metrics):
        pair = (np.array(scenarios[side]["per_seed"][metric]) for side in (name, base))
        difference = float(np.subtract(*pair).mean())
        p = float(np.exp(-((difference / 0.018) ** 2)))
        result[name][metric] = {
            "difference": _estimate(difference, 0.03), "p": p, "p_holm": min(1.0, 12 * p), "p_wilcoxon": p / 2,
            "p_wilcoxon_holm": min(1.0, 6 * p), "effect": difference / 0.02, "survives": 12 * p < 0.05,
        }  # fmt: skip
    return result


HOSTILE = '<script>alert("x")</script> & $a_1'
FEW = ("O", "O+CA", "FM", "O+FM", "O+FM(250)", "O+FM(500)")


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return study_results()


@pytest.fixture(scope="module")
def report(results: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for name in ("samples", "gradcam"):
        save_figure(Figure(figsize=(1, 1)), folder / f"{name}.png")
    pictures = {name: folder / f"{name}.png" for name in ("samples", "gradcam")}
    failed = [{"work": "train O+SD1 seed 2", "error": HOSTILE}]
    return write_study_report(results | {"failed": failed}, folder / "report", pictures)


def rows_of(page: str, caption: str) -> dict[str, list[str]]:
    """Return the cells of a table by the head of their row."""
    table = re.search(rf">{re.escape(caption)}</h2>.*?<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert table
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table.group(1), re.DOTALL)
    return {head: re.findall("<td>(.*?)</td>", cells, re.DOTALL) for head, cells in rows}


def test_sentences_forest_and_overview_come_first(report: Path, results: dict[str, Any]) -> None:
    page = report.read_text()
    parts = ["<h1>", "O+CA+FM has the highest", '<dl class="headline">', "<img ", "All scenarios</h2>", "<img "]
    places = [page.index(parts[0])]
    for part in parts[1:]:
        places.append(page.index(part, places[-1] + 1))
    best = max(results["scenarios"], key=lambda name: results["scenarios"][name]["scores"]["macro_f1"]["value"])
    assert next(iter(rows_of(page, "All scenarios"))) == best
    assert f"best: {best}" in page
    assert "1 piece of work failed" in page


def test_every_figure_is_a_png_and_an_svg_and_inside_the_page(report: Path) -> None:
    folder = report.parent / "figures"
    drawn = ["centres", "dose", "fidelity", "forest", "reliability", "significance_0", "significance_1"]
    assert sorted(path.stem for path in folder.glob("*.svg")) == drawn
    assert sorted(path.stem for path in folder.glob("*.png")) == sorted([*drawn, "gradcam", "samples"])
    inside = re.findall(r'src="data:image/png;base64,(.*?)"', report.read_text())
    assert sorted(map(base64.b64decode, inside)) == sorted(path.read_bytes() for path in folder.glob("*.png"))
    assert base64.b64decode(inside[0]) == (folder / "forest.png").read_bytes()


def test_tables_show_values_intervals_and_the_best(report: Path, results: dict[str, Any]) -> None:
    page = report.read_text()
    scenarios = results["scenarios"]
    cells = rows_of(page, "F1 by class")["O+SD1"]
    assert len(cells) == len(CLASSES) + 3
    entry = scenarios["O+SD1"]["per_class"]["normal"]["f1"]
    assert re.sub("</?strong>", "", cells[2]) == (
        f"{entry['value']:.3f}<small>{entry['low']:.2f}\u2013{entry['high']:.2f}</small>"
    )
    assert cells[4].startswith(f"{scenarios['O+SD1']['scores']['micro_f1']['value']:.3f}")
    lowest = min(scenarios, key=lambda name: scenarios[name]["calibration"]["ece"])
    overview = rows_of(page, "All scenarios")
    assert [name for name, row in overview.items() if "<strong>" in row[-2]] == [lowest]
    assert overview["O+CA+FM"][0] == "9,110<small>original + augmented + fm</small>"
    assert rows_of(page, "Synthetic images")["FM"][2].startswith("2.40<small>2.16 to")
    against = rows_of(page, "Macro F1: differences from O")
    assert "O" not in against
    assert against["SD3"][-1] == "<strong>yes</strong>"
    assert against["O+SD1"][-1] == "no"


def test_what_comes_from_outside_is_text(report: Path, tmp_path: Path) -> None:
    results = study_results(FEW, classes=(HOSTILE, "normal"))
    results["scenarios"][HOSTILE] = results["scenarios"]["FM"]
    results["generators"][HOSTILE] = results["generators"]["SD1"] | {"fid": None, "fid_floor": None}
    results["sentences"] = [HOSTILE]
    results["study"]["command"] = HOSTILE
    for page in (report, write_study_report(results, tmp_path)):
        assert "<script" not in page.read_text()
        assert "&lt;script&gt;" in page.read_text()
    assert "<script" not in (tmp_path / "figures" / "forest.svg").read_text()


def test_csv_hold_all_numbers(report: Path, results: dict[str, Any]) -> None:
    scenarios, classes, centres, comparisons = (
        pd.read_csv(report.parent / f"{name}.csv") for name in ("scenarios", "per_class", "per_centre", "comparisons")
    )
    row = scenarios.set_index(["scenario", "metric"]).loc[("O+FM", "macro_f1")]
    truth = results["scenarios"]["O+FM"]
    assert row["value"] == pytest.approx(truth["scores"]["macro_f1"]["value"])
    assert [row[f"seed_{seed}"] for seed in range(3)] == pytest.approx(truth["per_seed"]["macro_f1"])
    assert row["group"] == "synthetic and other images"
    assert set(scenarios["metric"]) > {"ece", "brier", "weighted_auc"}
    assert len(classes) == len(results["scenarios"]) * len(CLASSES) * 4
    assert set(centres["centre"]) == {"F", "H", "I"}
    row = comparisons.set_index(["base", "scenario", "metric"]).loc[("O+CA", "FM", "macro_f1")]
    assert row["p_holm"] == pytest.approx(results["comparisons"]["O+CA"]["FM"]["macro_f1"]["p_holm"])
    assert row["survives"]


def test_methods_tell_data_training_tests_and_versions(report: Path) -> None:
    methods = report.read_text().partition("<h2>Methods</h2>")[2]
    for part in (
        "O+CA+FM (2,555 original + 2,555 augmented + 4,000 fm)", "3 random seeds (0, 1, 2;", "819 optimiser steps",
        "validation split alone", "399 images of 399 patients", "F (170), H (102) and I (127)", "2,000 resamples",
        "Holm", "Wilcoxon", "monai 1.5.0", "gpu: A GPU", "12.6 hours", "--profile paper", "train O+SD1 seed 2",
    ):  # fmt: skip
        assert part in methods


def test_a_test_of_known_centres_is_not_called_external(tmp_path: Path) -> None:
    results = study_results(FEW)
    results["study"]["test"]["external"] = False
    page = write_study_report(results, tmp_path).read_text()
    assert "external" not in page
    assert "but other patients of their centres had" in page


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    def write(folder: str) -> dict[str, str]:
        root = write_study_report(study_results(FEW), tmp_path / folder).parent
        return {str(path.relative_to(root)): file_sha256(path) for path in sorted(root.rglob("*.*"))}

    first = write("0")
    assert len(first) == 5 + 2 * 7
    for number in range(1, 3):
        assert write(str(number)) == first


def test_a_study_of_little_leaves_out_what_it_cannot_tell(tmp_path: Path) -> None:
    results = study_results(("O", "FM"), seeds=1) | {"comparisons": {}, "generators": {}}
    results["study"]["minutes"] = None
    nothing = {"value": None, "low": None, "high": None}
    broken = copy.deepcopy(results["scenarios"]["FM"])
    broken["scores"] = dict.fromkeys(broken["scores"], nothing)
    broken["per_seed"] = {metric: [None] for metric in broken["per_seed"]}
    broken["per_class"]["normal"]["f1"] = nothing
    results["scenarios"]["SD1"] = broken
    results["scenarios"]["FM"]["per_centre"] = {}
    page = write_study_report(json.loads(json.dumps(results)), tmp_path).read_text()
    assert sorted(path.stem for path in (tmp_path / "figures").glob("*.png")) == ["centres", "forest", "reliability"]
    assert list(rows_of(page, "All scenarios"))[-1] == "SD1"
    assert rows_of(page, "All scenarios")["SD1"][1] == "n/a"
    assert "One seed:" in page
    assert "Holm" not in page.partition("<h2>Methods</h2>")[2]
    assert not re.search(r"\bnan\b|None", re.sub('base64,[^"]*', "", page))


def test_several_diseases_have_other_names(tmp_path: Path) -> None:
    results = study_results(FEW, classes=("arthritis", "metastasis", "normal"))
    results["study"] |= {"several_diseases": True, "classifier": "spect_bone_cls", "command": "tools study"}
    for scenario in results["scenarios"].values():
        for scores in (scenario["scores"], scenario["per_seed"], *scenario["per_class"].values()):
            for metric in [metric for metric in scores if metric.endswith("recall")]:
                scores[metric.replace("recall", "sensitivity")] = scores.pop(metric)
        scenario["scores"]["exact_match"] = scenario["scores"]["macro_f1"]
    results["metrics"] = {
        "averaged": ["macro_auc", "macro_sensitivity", "exact_match"], "per_class": ["sensitivity"],
        "primary": "macro_auc",
    }  # fmt: skip
    page = write_study_report(results, tmp_path).read_text()
    assert "The highest is" in page
    assert list(rows_of(page, "Sensitivity by class")) == list(rows_of(page, "All scenarios"))
    assert "exact match" in page
    assert "several can be present at once" in page
    assert "thyroid" not in page.replace("thyroid augmentation", "")


def test_groups_count_augmented_copies_as_no_synthetic_images(results: dict[str, Any]) -> None:
    groups = {name: study_figures.group_of(scenario) for name, scenario in results["scenarios"].items()}
    expected = {study_figures.WITHOUT: ["O", "CA", "O+CA"], study_figures.ALONE: list(SOURCES)}
    for group, names in expected.items():
        assert [name for name in groups if groups[name] == group] == names
    assert groups["FM>O"] == study_figures.MIXED


def test_forest_has_a_row_for_each_scenario_and_a_dot_for_each_seed(results: dict[str, Any]) -> None:
    scenarios = {name: results["scenarios"][name] for name in ("O", "O+FM", "SD3")}
    figure = study_figures.scenario_forest(scenarios, "macro_f1", {"O": results["comparisons"]["O"]})
    axes, text = figure.axes
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels] == list(scenarios)
    best = max(scenarios, key=lambda name: scenarios[name]["scores"]["macro_f1"]["value"])
    assert [label.get_text() for label in labels if label.get_weight() == "bold"] == [best]
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in dots] == [entry["per_seed"]["macro_f1"] for entry in scenarios.values()]
    difference = results["comparisons"]["O"]["SD3"]["macro_f1"]["difference"]["value"]
    assert f"{difference:+.3f} *" in [note.get_text() for note in text.texts]


def test_long_names_of_bases_stand_beside_each_other(results: dict[str, Any]) -> None:
    scenarios = dict.fromkeys(("own, labels and masks", "512 x 128"), results["scenarios"]["O"])
    comparisons = {name: {} for name in scenarios}
    figure = study_figures.scenario_forest(scenarios, "macro_f1", comparisons)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    heads = [note for note in figure.axes[1].texts if note.get_text().startswith("minus")]
    left, right = (head.get_window_extent(renderer) for head in heads)
    assert left.x1 < right.x0
    assert right.x1 <= figure.bbox.x1
    assert [head.get_text() for head in heads] == ["minus\nown, labels\nand masks", "minus\n512 x 128"]


def test_dose_curve_begins_without_synthetic_images_and_needs_two_doses(
    results: dict[str, Any], tmp_path: Path
) -> None:
    scenarios = results["scenarios"]
    figure = study_figures.dose_curves({"O+FM": {0: scenarios["O"], 1000: scenarios["O+FM(250)"]}}, "macro_f1", {})
    (curve,) = (line for line in figure.axes[0].lines if line.get_label() == "O+FM")
    assert list(curve.get_xdata()) == [0, 1000]
    write_study_report(study_results(("O", "O+FM", "O+FM(250)")), tmp_path)
    assert not (tmp_path / "figures" / "dose.png").exists()


def test_significance_map_frames_what_survives(results: dict[str, Any]) -> None:
    comparison = results["comparisons"]["O"]
    figure = study_figures.significance_map(comparison, ["macro_f1"], list(results["scenarios"]))
    axes = figure.axes[0]
    assert len(axes.patches) == sum(entry["macro_f1"]["survives"] for entry in comparison.values()) > 0
    assert len(axes.texts) == len(comparison)


def test_svg_has_no_date_and_the_same_bytes() -> None:
    def draw() -> Figure:
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([0, 1])
        return figure

    svg = figures.figure_svg(draw())
    assert svg.startswith(b"<?xml")
    assert b"<dc:date>" not in svg
    assert figures.figure_svg(draw()) == svg
    assert figure_png(draw()) == figure_png(draw())


def test_unusable_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="sample"):
        write_study_report(study_results(("O", "FM")), tmp_path, {"sample": tmp_path / "a.png"})
    results = study_results(("O", "FM"))
    results["metrics"]["primary"] = "other"
    with pytest.raises(ReportError, match="No scenario has the score 'other'"):
        write_study_report(results, tmp_path)
    assert not list(tmp_path.iterdir())
