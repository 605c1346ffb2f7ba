"""Figures of a study, in which a classifier was trained on several training sets (scenarios).

Each function takes parts of the results of a study (see `scintikit.reporting.study`) and returns a matplotlib `Figure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from scintikit.reporting.figures import (
    COLOURS,
    GRID,
    HALF,
    INK,
    MARKERS,
    MUTED,
    WIDE,
    draw_reliability,
    metric_name,
    styled,
)
from scintikit.reporting.scores import interval_text

ROW = 0.235  # inches for a scenario
COLUMN = 0.95  # inches for a column of differences
HEAD_LINE = 0.14  # inches for each further line of a column's head
HEAD_WIDTH = 11  # letters in such a line
PANELS_IN_ROW = 3
NOT_GENERATED = {"original", "acquired", "simulated", "augmented"}  # kinds of training images
NARROW = 7  # metrics that fit half of the page
MISSING = {"value": None, "low": None, "high": None}
BASE_LINES: tuple[Any, ...] = ((0, (5, 3)), (0, (1, 2)), (0, (5, 2, 1, 2)))
REACH = 0.1  # differences from here on have full colour
FLOOR: dict[str, Any] = {"color": MUTED, "linewidth": 1.2, "linestyle": (0, (2, 2))}


class Group(NamedTuple):
    """How scenarios of one kind are drawn: colour and marker say the same."""

    name: str
    colour: str
    marker: str


WITHOUT = Group("no synthetic images", COLOURS[0], "o")
ALONE = Group("synthetic images alone", COLOURS[1], "s")
MIXED = Group("synthetic and other images", COLOURS[2], "D")


def group_of(scenario: Mapping[str, Any]) -> Group:
    """Return which kind a scenario is of; augmented copies of original images do not count as synthetic."""
    kinds = {kind for kind, count in scenario["training"].items() if count}
    generated = generated_kinds(kinds)
    if not generated:
        return WITHOUT
    return ALONE if generated == kinds else MIXED


def generated_kinds(kinds: Iterable[str]) -> set[str]:
    """Return which kinds of training images a generator drew."""
    return set(kinds) - NOT_GENERATED


@styled
def scenario_forest(
    scenarios: Mapping[str, Mapping[str, Any]], metric: str, comparisons: Mapping[str, Mapping[str, Any]]
) -> Figure:
    """Draw one score of all scenarios with intervals, each seed as a dot, and the differences to the bases as text.

    Parameters
    ----------
    scenarios : mapping
        In the order of the rows; the name of the best is bold.
    metric : str
        A key of `scores` and `per_seed`.
    comparisons : mapping
        By base; a base's own score is drawn as a line, that of the first with its interval as a band.
    """
    further = max((_head(base).count("\n") for base in comparisons), default=0)
    figure = Figure(figsize=(WIDE, 1.35 + HEAD_LINE * further + ROW * len(scenarios)), layout="constrained")
    wide = 1.8 + COLUMN * len(comparisons)  # inches for the text
    axes, text = figure.subplots(1, 2, width_ratios=(WIDE - wide, wide))
    _rows(axes, list(scenarios))
    lines = _references(axes, {base: scenarios[base]["scores"][metric] for base in comparisons})
    for row, scenario in enumerate(scenarios.values()):
        group = group_of(scenario)
        values = np.array(scenario["per_seed"][metric], dtype=float)
        axes.plot(values, np.full(len(values), row + 0.27), ".", color=group.colour, markersize=3.5, alpha=0.8)
        _estimate(axes, row, scenario["scores"][metric], group)
    means = [scenario["scores"][metric]["value"] for scenario in scenarios.values()]
    best = max(range(len(means)), key=lambda row: -np.inf if means[row] is None else means[row])
    axes.get_yticklabels()[best].set_weight("bold")
    axes.set_xlabel(f"{metric_name(metric)}; small dots: seeds")
    _forest_text(text, scenarios, metric, comparisons)
    handles = [*_handles(scenarios.values()), *lines]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9, columnspacing=1.4)
    return figure


def _forest_text(
    axes: Axes, scenarios: Mapping[str, Mapping[str, Any]], metric: str, comparisons: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the numbers beside the rows: the score, and the difference to each base."""
    columns = {"mean (95 % interval)": [interval_text(entry["scores"][metric], 3) for entry in scenarios.values()]}
    for base, comparison in comparisons.items():
        columns[_head(base)] = [_difference_text(comparison.get(name), metric) for name in scenarios]
    axes.axis("off")
    axes.set(xlim=(0, 1.8 + COLUMN * len(comparisons)), ylim=(len(scenarios) - 0.4, -0.6))
    for number, (title, texts) in enumerate(columns.items()):
        place = 0 if not number else 1.8 + COLUMN * (number - 1)
        axes.annotate(
            title,
            (place, -0.6),
            (0, 2),
            textcoords="offset points",
            va="bottom",
            fontsize=8,
            color=MUTED,
            annotation_clip=False,
        )
        for row, text in enumerate(texts):
            axes.text(place, row, text, va="center", fontsize=8.5, weight="bold" if text.endswith("*") else "normal")


def _head(base: str) -> str:
    """Return the head of a column of differences, in lines that fit it."""
    head = f"minus {base}"
    return head if len(head) <= HEAD_WIDTH else "minus\n" + fill(base, HEAD_WIDTH)


def _difference_text(comparison: Mapping[str, Any] | None, metric: str) -> str:
    entry = (comparison or {}).get(metric)
    if entry is None or entry["difference"]["value"] is None:
        return ""
    return signed(entry["difference"]["value"]) + (" *" if entry["survives"] else "")


def _references(axes: Axes, bases: Mapping[str, Mapping[str, Any]], *, upright: bool = True) -> list[Line2D]:
    """Draw a line for the score of each base, for the first its interval as a band; return the legend."""
    line, band = (axes.axvline, axes.axvspan) if upright else (axes.axhline, axes.axhspan)
    handles = []
    for number, (base, entry) in enumerate(bases.items()):
        look: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": BASE_LINES[number % len(BASE_LINES)]}
        if entry["value"] is not None:
            if not number and entry["low"] is not None:
                band(entry["low"], entry["high"], color=GRID, alpha=0.45, linewidth=0)
            line(entry["value"], zorder=1, **look)
            handles.append(Line2D([], [], label=base, **look))
    return handles


def signed(value: float) -> str:
    """Return a difference as text; adding 0 turns a -0.0 from rounding into 0.0."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:.4g}")


def _estimate(axes: Axes, row: float, entry: Mapping[str, Any], group: Group) -> None:
    if entry["value"] is None:
        return
    if entry["low"] is not None:
        axes.plot([entry["low"], entry["high"]], [row, row], color=group.colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(entry["value"], row, group.marker, color=group.colour, markersize=6, markeredgecolor="white")


def _handles(scenarios: Iterable[Mapping[str, Any]]) -> list[Line2D]:
    """Return the legend of the kinds of scenarios that occur."""
    used = {group_of(scenario) for scenario in scenarios}
    return [
        Line2D([], [], color=group.colour, marker=group.marker, markersize=6, linewidth=1.6, label=group.name)
        for group in (WITHOUT, ALONE, MIXED)
        if group in used
    ]


@styled
def significance_map(
    comparison: Mapping[str, Mapping[str, Any]], metrics: Sequence[str], order: Sequence[str]
) -> Figure:
    """Draw the differences to one base as colours; frames and bold numbers mark those that survive the correction.

    Parameters
    ----------
    comparison : mapping
        By scenario and metric: `difference`, `survives`.
    metrics : sequence of str
        The columns.
    order : sequence of str
        The scenarios in the order of the rows; those that were not compared are left out.
    """
    names = [name for name in order if name in comparison]
    wide = len(metrics) > NARROW
    figure = Figure(figsize=(WIDE if wide else HALF, 1.7 + ROW * len(names)), layout="constrained")
    axes = figure.subplots()
    entries = [[comparison[name].get(metric) for metric in metrics] for name in names]
    values = np.array([[_difference(entry) for entry in row] for row in entries])
    image = axes.imshow(values, "RdBu", vmin=-REACH, vmax=REACH, aspect="auto")
    axes.set_facecolor(GRID)
    for (row, column), value in np.ndenumerate(values):
        entry = entries[row][column]
        if entry is None or np.isnan(value):
            continue
        colour, weight = "white" if abs(value) > 0.6 * REACH else INK, "bold" if entry["survives"] else "normal"
        axes.text(column, row, signed(value), ha="center", va="center", fontsize=8, color=colour, weight=weight)
        if entry["survives"]:
            axes.add_patch(Rectangle((column - 0.45, row - 0.4), 0.9, 0.8, fill=False, edgecolor=colour, linewidth=1.3))
    titles = [metric_name(metric).replace(" ", "\n") for metric in metrics]
    axes.set_xticks(range(len(metrics)), titles, fontsize=9 if len(metrics) <= 5 else 7.5)
    axes.set_yticks(range(len(names)), names, fontsize=9.5)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        image, orientation="horizontal", shrink=0.6, aspect=36, pad=0.01, extend="both", ticks=MaxNLocator(4)
    )
    bar.set_label("difference")
    bar.outline.set_visible(False)
    return figure


def _difference(entry: Mapping[str, Any] | None) -> float:
    value = None if entry is None else entry["difference"]["value"]
    return np.nan if value is None else value


@styled
def fidelity_and_use(
    generators: Mapping[str, Mapping[str, Any]], scenarios: Mapping[str, Mapping[str, Any]], metric: str, base: str
) -> Figure:
    """Draw FID and KID of each source of synthetic images against the score of what was trained with them.

    Parameters
    ----------
    generators : mapping
        By source: `fid`, `kid`, `fid_floor`, `kid_floor`.
    scenarios : mapping
        Those named as the source (open markers) and as the base, plus, the source (filled).
    metric : str
        A key of `scores`.
    base : str
        Its score is the horizontal line.
    """
    figure = Figure(figsize=(WIDE, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (measure, factor) in zip(panels, (("fid", 1), ("kid", 1000)), strict=True):
        lines = _references(axes, {base: scenarios[base]["scores"][metric]}, upright=False)
        floors = [entry[f"{measure}_floor"] for entry in generators.values() if entry[f"{measure}_floor"] is not None]
        if floors:
            axes.axvline(factor * float(np.mean(floors)), **FLOOR)
        for number, (source, entry) in enumerate(generators.items()):
            look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            for name, face in ((f"{base}+{source}", look["color"]), (source, "white")):
                if name in scenarios:
                    _point(
                        axes, entry[measure] or MISSING, factor, scenarios[name]["scores"][metric], look | {"mfc": face}
                    )
        axes.set_xlabel({"fid": "FID", "kid": "KID x 1000"}[measure])
        axes.grid(True)
        axes.margins(x=0.08, y=0.08)
    panels[0].set_ylabel(metric_name(metric))
    handles = [
        Line2D([], [], linestyle="none", color=COLOURS[n % len(COLOURS)], marker=MARKERS[n % len(MARKERS)], label=name)
        for n, name in enumerate(generators)
    ]
    handles += [*lines, Line2D([], [], label="floor", **FLOOR)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(8, len(handles)), fontsize=9)
    return figure


def _point(axes: Axes, x: Mapping[str, Any], factor: float, y: Mapping[str, Any], look: Mapping[str, Any]) -> None:
    if x["value"] is None or y["value"] is None:
        return
    for entry, scale, along in ((x, factor, 0), (y, 1, 1)):
        if entry["low"] is not None:
            ends = np.array([entry["low"], entry["high"]]) * scale
            middle = np.full(2, (y["value"], factor * x["value"])[along])
            axes.plot(*((ends, middle) if not along else (middle, ends)), color=look["color"], linewidth=1, alpha=0.55)
    axes.plot(factor * x["value"], y["value"], linestyle="none", markersize=8, markeredgewidth=1.6, **look)


@styled
def dose_curves(
    curves: Mapping[str, Mapping[int, Mapping[str, Any]]], metric: str, bases: Mapping[str, Mapping[str, Any]]
) -> Figure:
    """Draw a score against the number of synthetic training images.

    Parameters
    ----------
    curves : mapping
        By name of the curve and number of images: the scenario.
    metric : str
        A key of `scores` and `per_seed`.
    bases : mapping
        Scenarios whose scores are drawn as lines.
    """
    figure = Figure(figsize=(WIDE, 0.42 * WIDE), layout="constrained")
    axes = figure.subplots()
    lines = _references(axes, {name: base["scores"][metric] for name, base in bases.items()}, upright=False)
    doses = sorted({dose for curve in curves.values() for dose in curve})
    for number, (name, curve) in enumerate(curves.items()):
        colour, marker = COLOURS[(2 + number) % len(COLOURS)], MARKERS[number % len(MARKERS)]
        measured = {dose: curve[dose] for dose in sorted(curve) if curve[dose]["scores"][metric]["value"] is not None}
        scores = [scenario["scores"][metric] for scenario in measured.values()]
        lines += axes.plot(
            list(measured), [score["value"] for score in scores], color=colour, marker=marker, label=name
        )
        for (dose, scenario), score in zip(measured.items(), scores, strict=True):
            if score["low"] is not None:
                axes.plot([dose, dose], [score["low"], score["high"]], color=colour, linewidth=1.2)
            seeds = np.array(scenario["per_seed"][metric], dtype=float)
            axes.plot(np.full(len(seeds), dose), seeds, ".", color=colour, markersize=4, alpha=0.7)
    axes.set_xscale("symlog", linthresh=min(dose for dose in doses if dose), linscale=0.5)
    axes.set_xticks(doses, [f"{dose:,}" for dose in doses], rotation=30 if len(doses) > 5 else 0)
    axes.minorticks_off()
    axes.set(xlabel="synthetic training images", ylabel=metric_name(metric))
    axes.grid(True)
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), fontsize=9)
    return figure


@styled
def centre_forest(
    scenarios: Mapping[str, Mapping[str, Any]], metric: str, centres: Mapping[str, int], bases: Iterable[str]
) -> Figure:
    """Draw one score of all scenarios in each centre, a panel a centre.

    Parameters
    ----------
    scenarios : mapping
        In the order of the rows, with `per_centre`.
    metric : str
    centres : mapping
        Number of test images by centre.
    bases : iterable of str
        Scenarios whose scores are drawn as lines.
    """
    columns = min(PANELS_IN_ROW, len(centres))
    rows = -(-len(centres) // columns)
    figure = Figure(figsize=(WIDE, rows * (0.85 + 0.22 * max(4, len(scenarios))) + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    bases = list(bases)
    for axes, (centre, count) in zip(panels.ravel(), centres.items(), strict=False):
        entries = {
            name: scenario["per_centre"].get(centre, {}).get(metric, MISSING) for name, scenario in scenarios.items()
        }
        _rows(axes, list(scenarios))
        axes.tick_params(axis="y", labelsize=9)
        lines = _references(axes, {base: entries[base] for base in bases})
        for row, (name, entry) in enumerate(entries.items()):
            _estimate(axes, row, entry, group_of(scenarios[name]))
        axes.set_title(f"{centre} ({count:,} images)", loc="left")
        axes.tick_params(axis="x", labelbottom=True)  # the panel below may be empty
    for axes in panels.ravel()[len(centres) :]:
        axes.set_visible(False)
    figure.supxlabel(metric_name(metric), fontsize=10.5)
    handles = [*_handles(scenarios.values()), *lines]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9, columnspacing=1.4)
    return figure


@styled
def reliability_panels(curves: Mapping[str, Mapping[str, Any]], axis_names: tuple[str, str]) -> Figure:
    """Draw reliability diagrams side by side.

    Parameters
    ----------
    curves : mapping
        By title: `ece` and `reliability`, from `scintikit.metrics.reliability_curve`.
    axis_names : (str, str)
        What was promised, and what came true.
    """
    columns = len(curves) if len(curves) <= PANELS_IN_ROW + 1 else PANELS_IN_ROW
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(WIDE, 0.5 + 0.95 * rows * WIDE / (columns + 0.3)), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (title, curve) in zip(panels.ravel(), curves.items(), strict=False):
        draw_reliability(axes, curve["reliability"])
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.set_title(title, loc="left")
        axes.text(0.04, 0.93, f"ECE {curve['ece']:.3f}", transform=axes.transAxes, va="top", fontsize=9.5)
        axes.grid(True)
        axes.tick_params(axis="x", labelbottom=True)  # the panel below may be empty
    for axes in panels.ravel()[len(curves) :]:
        axes.set_visible(False)
    figure.supxlabel(axis_names[0], fontsize=10.5)
    figure.supylabel(axis_names[1], fontsize=10.5)
    return figure
