"""The report of an augmentation study: which training set is best, and how sure one can be of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scintikit.errors import ReportError
from scintikit.files import write_atomic
from scintikit.reporting import study_figures, study_tables
from scintikit.reporting.figures import metric_name
from scintikit.reporting.report import Picture, Table, save_pictures, write_report
from scintikit.reporting.scores import interval_range, interval_text
from scintikit.reporting.study_figures import group_of
from scintikit.reporting.study_methods import centres_of, counted, listed, methods_text

NOTICE = "Research use only; not a medical device."
DOSE = re.compile(r"(?P<name>.+)\((?P<dose>\d+)\)")
#: Pictures that were made elsewhere, and their captions.
PICTURES = {
    "samples": "Samples of the training images of each source.",
    "gradcam": "Where the classifier looked on images of the test (Grad-CAM).",
}


def write_study_report(
    results: Mapping[str, Any],
    folder: str | os.PathLike[str],
    pictures: Mapping[str, str | os.PathLike[str]] | None = None,
) -> Path:
    """Write the page of a study, its numbers as CSV and its figures as PNG and SVG.

    Parameters
    ----------
    results : mapping
        What `tools study` keeps as `results.json`: `study`, `metrics` (`averaged`, `per_class`, `primary`), `scenarios`
        (by name `training`, `scores`, `per_seed`, `per_class`, `per_centre`, `calibration`), `comparisons` (by base and
        scenario and metric), `sentences`, `generators`, `failed` and `environment`. Undefined values are None.
    folder : path
        Gets `report.html` (it needs no other file), `scenarios.csv`, `per_class.csv`, `per_centre.csv`,
        `comparisons.csv` and `figures/*.png` and `*.svg`. The same results give the same bytes.
    pictures : mapping, optional
        PNG files to show: "samples" (a page of samples) and "gradcam" (a few external images).

    Returns
    -------
    Path
        `report.html`.

    Raises
    ------
    ReportError
        There is no scenario with the primary metric, or a picture has an unknown name or is not a PNG.
    """
    folder, pictures, primary = Path(folder), pictures or {}, results["metrics"]["primary"]
    order = _order(results)
    unknown = sorted(set(pictures) - set(PICTURES))
    if unknown:
        raise ReportError(f"The pictures {unknown} are unknown; expected some of {list(PICTURES)}.")
    drawn = _figures(results, order) | {
        name: Picture(PICTURES[name], pictures[name], wide=True) for name in PICTURES if name in pictures
    }
    first, *rest = save_pictures(folder / "figures", drawn, svg=True)
    for name, frame in study_tables.frames(results).items():
        write_atomic(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n").encode())
    study = results["study"]
    return write_report(
        folder / "report.html",
        title=f"{study['name']}: {metric_name(primary)} of {counted(len(order), 'scenario')}",
        subtitle=_subtitle(study),
        lead=results["sentences"],
        headline=_headline(results, order),
        figures=[first, study_tables.overview_table(results, order), *rest],
        tables=_tables(results, order),
        notes=_notes(results),
        texts={"Methods": methods_text(results)},
        provenance=_provenance(results),
        warning=_warning(results),
    )


def _order(results: Mapping[str, Any]) -> list[str]:
    """Return the scenarios from the best to the worst; those without a score come last."""
    scenarios, primary = results["scenarios"], results["metrics"]["primary"]
    values = {name: entry["scores"].get(primary, study_tables.NOTHING)["value"] for name, entry in scenarios.items()}
    if all(value is None for value in values.values()):
        raise ReportError(f"No scenario has the score {primary!r}; there is nothing to report. Look at what failed.")
    return sorted(values, key=lambda name: (values[name] is None, -(values[name] or 0)))


def _figures(results: Mapping[str, Any], order: Sequence[str]) -> dict[str, Picture]:
    scenarios = {name: results["scenarios"][name] for name in order}
    primary, comparisons = results["metrics"]["primary"], results["comparisons"]
    drawn = {"forest": _forest(scenarios, primary, comparisons, centres_of(results["study"]))}
    for number, (base, comparison) in enumerate(comparisons.items()):
        averaged = results["metrics"]["averaged"]
        drawn[f"significance_{number}"] = Picture(
            f"Differences from {base}. Blue: better, red: worse. Framed and bold: what survives Holm's correction.",
            study_figures.significance_map(comparison, averaged, order),
            f"Heat map of the differences from {base}. " + _surviving(comparison, averaged),
            len(averaged) > study_figures.NARROW,
        )
    base = next(iter(comparisons), None)
    used = {
        source: entry
        for source, entry in results["generators"].items()
        if (source in scenarios or f"{base}+{source}" in scenarios) and entry["fid"] is not None
    }
    if base is not None and used:
        drawn["fidelity"] = Picture(
            f"Nearness to real images (left is nearer) against use. Filled: {base} with the source, open: the source "
            f"alone; dashed: {base}; dotted: half of the real images against the other half.",
            study_figures.fidelity_and_use(used, scenarios, primary, base),
            f"Scatter plots of FID and KID against {metric_name(primary)}, one point for each source.",
            True,
        )
    curves, starts = _doses(scenarios)
    if curves:
        drawn["dose"] = Picture(
            "More synthetic images, other things equal. The axis is logarithmic from the first dose on; small dots: "
            "seeds; dashed and band: without synthetic images.",
            study_figures.dose_curves(curves, primary, starts),
            f"Curves of {metric_name(primary)} against the number of synthetic training images.",
            True,
        )
    drawn["reliability"] = _reliability(scenarios, comparisons, results["study"]["several_diseases"])
    return drawn | _centres(results, scenarios)


def _forest(
    scenarios: Mapping[str, Mapping[str, Any]], metric: str, comparisons: Mapping[str, Any], centres: str
) -> Picture:
    best, score = next((name, scenario["scores"][metric]) for name, scenario in scenarios.items())
    return Picture(
        f"The {metric_name(metric)} on patients of {centres}s, best first: mean over the seeds with its 95 % interval. "
        + (f"Lines: {listed(list(comparisons))}; band: interval of {next(iter(comparisons))}. " if comparisons else "")
        + "*: a difference that survives Holm's correction.",
        study_figures.scenario_forest(scenarios, metric, comparisons),
        f"Forest plot of {metric_name(metric)} of {counted(len(scenarios), 'scenario')}. The highest is {best}, "
        f"{interval_text(score, 3)}.",
        True,
    )


def _surviving(comparison: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """Return which differences survive, in words for those who cannot see the colours."""
    found = {
        metric_name(metric): [name for name, entries in comparison.items() if entries.get(metric, {}).get("survives")]
        for metric in metrics
    }
    texts = [f"{metric}: {listed(names)}" for metric, names in found.items() if names]
    return f"Surviving differences, {'; '.join(texts)}." if texts else "No difference survives."


def _doses(
    scenarios: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, dict[int, Mapping[str, Any]]], dict[str, Mapping[str, Any]]]:
    """Return by curve ("O+FM") scenarios by number of synthetic images, and the scenarios without any ("O").

    A curve needs two scenarios named with a dose, such as "O+FM(250)".
    """
    curves: dict[str, dict[int, Mapping[str, Any]]] = {}
    for name, scenario in scenarios.items():
        match = DOSE.fullmatch(name)
        if match:
            training = scenario["training"]
            count = sum(training[kind] for kind in study_figures.generated_kinds(training))
            curves.setdefault(match["name"], {})[count] = scenario
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    starts = {name: name.rpartition("+")[0] for name in curves}
    for name, start in starts.items():
        if start in scenarios:
            curves[name][0] = scenarios[start]
    return curves, {start: scenarios[start] for start in sorted(set(starts.values())) if start in scenarios}


def _reliability(
    scenarios: Mapping[str, Mapping[str, Any]], comparisons: Mapping[str, Any], several_diseases: bool
) -> Picture:
    """Draw the best scenario, the bases, and the best of each kind."""
    kinds = {group_of(scenario): name for name, scenario in reversed(list(scenarios.items()))}
    shown = dict.fromkeys([next(iter(scenarios)), *comparisons, *kinds.values()])
    panels = {name: scenarios[name]["calibration"] for name in shown}
    names = ("probability", "share with the disease") if several_diseases else ("highest probability", "accuracy")
    return Picture(
        "Reliability of the best scenario, of the bases and of the best of each kind, of all seeds together: on the "
        "dotted line a probability means what it says; below it the classifier is too sure.",
        study_figures.reliability_panels(panels, names),
        "Reliability diagrams. ECE: " + ", ".join(f"{name} {panel['ece']:.3f}" for name, panel in panels.items()),
        True,
    )


def _centres(results: Mapping[str, Any], scenarios: Mapping[str, Mapping[str, Any]]) -> dict[str, Picture]:
    centres, primary = results["study"]["test"]["centres"], results["metrics"]["primary"]
    if not any(primary in scores for scenario in scenarios.values() for scores in scenario["per_centre"].values()):
        return {}
    where = centres_of(results["study"])
    caption = f"The {metric_name(primary)} in each {where}, in the order of all centres together."
    figure = study_figures.centre_forest(scenarios, primary, centres, results["comparisons"])
    return {"centres": Picture(caption, figure, f"Forest plots. {caption}", True)}


def _headline(results: Mapping[str, Any], order: Sequence[str]) -> list[tuple[str, str, str]]:
    primary = results["metrics"]["primary"]
    shown = {f"best: {order[0]}": order[0]} | {base: base for base in results["comparisons"] if base != order[0]}
    entries = [
        (
            title,
            interval_text({**(score := results["scenarios"][name]["scores"][primary]), "low": None}, 3),
            interval_range(score, 3),
        )
        for title, name in shown.items()
    ]
    for base, comparison in results["comparisons"].items():
        entries.append(
            (
                f"differ from {base}",
                str(sum(entry.get(primary, {}).get("survives", False) for entry in comparison.values())),
                f"of {_tested(comparison, primary)} tested, after Holm's correction",
            )
        )
    return entries


def _tested(comparison: Mapping[str, Any], metric: str) -> int:
    return sum(entry.get(metric, {}).get("p_holm") is not None for entry in comparison.values())


def _tables(results: Mapping[str, Any], order: Sequence[str]) -> list[Table]:
    tables = study_tables.class_tables(results, order)
    tables += [study_tables.comparison_table(results, base, order) for base in results["comparisons"]]
    if results["generators"]:
        tables.append(study_tables.generator_table(results["generators"]))
    if results["failed"]:
        tables.append(study_tables.failure_table(results["failed"]))
    return tables


def _subtitle(study: Mapping[str, Any]) -> str:
    test = study["test"]
    parts = [
        f"{study['classifier']} trained on {study['dataset']['name']}, profile {study['profile']}",
        counted(len(study["seeds"]), "seed"),
        f"tested on {counted(test['items'], 'image')} of {counted(test['patients'], 'patient')} from "
        f"{counted(len(test['centres']), centres_of(study))}",
    ]
    return " · ".join(parts)


def _notes(results: Mapping[str, Any]) -> list[str]:
    notes = [
        "Small print: 95 % intervals. Those of a scenario's score say how it would vary with other patients; those of "
        "a difference also how it would vary with other training seeds. Overlapping intervals of two scenarios do not "
        "say that they are equal: they were tested on the same patients. Look at the differences.",
        "Bold: the best of a column, the highest or of ECE and Brier score the lowest; that alone is no finding.",
        "Augmented copies of original images do not count as synthetic images.",
        "The same numbers are in scenarios.csv, per_class.csv, per_centre.csv and comparisons.csv beside this page.",
    ]
    if len(results["environment"]["machines"]) > 1:
        notes.insert(0, "Trainings ran on several kinds of machines, whose number formats may differ; see Methods.")
    if len(results["study"]["seeds"]) == 1:
        notes.insert(0, "One seed: differences between scenarios cannot be told from differences between trainings.")
    return notes


def _provenance(results: Mapping[str, Any]) -> dict[str, Any]:
    study = results["study"]
    return {
        "dataset": f"{study['dataset']['name']} {study['dataset']['sha256']}",
        "study file": study["file_sha256"],
        "command": study["command"],
        "seeds": study["seeds"],
        **results["environment"],
    }


def _warning(results: Mapping[str, Any]) -> str:
    failed = f" {counted(len(results['failed']), 'piece')} of work failed, see below." if results["failed"] else ""
    return f"{'Simulated data. ' if results['study']['simulated'] else ''}{NOTICE}{failed}"
