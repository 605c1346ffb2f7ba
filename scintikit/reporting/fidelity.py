"""The page of a comparison of synthetic with real scintigrams: figures first, then tables."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from scintikit.errors import ReportError
from scintikit.metrics.fidelity import ENOUGH
from scintikit.reporting import figures
from scintikit.reporting.figures import COLOURS, HALF, MUTED, WIDE
from scintikit.reporting.report import WARNING, Picture, Table, save_pictures, write_report

REAL, SYNTHETIC, FLOOR = COLOURS[0], COLOURS[1], "#c3ccd4"
EXAMPLES = 8  # pictures in a row
#: Names of the scores; those after the first two have a fixed number of decimals.
SCORES = {
    "kid": "KID x 1000",
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "auc_features": "AUC by features",
    "auc_spectrum": "AUC by spectrum",
    "spectrum_distance": "spectrum distance",
    "grain_distance": "grain distance",
    "grain_ratio": "grain ratio",
}
NEIGHBOURS = ("precision", "density", "recall", "coverage")
FOREST = ("kid", "auc_features", "auc_spectrum", "grain_ratio")


def score_text(name: str, score: Mapping[str, Any], part: str | None = None, *, span: bool = True) -> str:
    """Return a score as text, with its interval or range in brackets.

    Parameters
    ----------
    name : str
        A key of `SCORES`; KID comes times 1000.
    score : mapping
        From `scintikit.metrics.fidelity_metrics`.
    part : str, optional
        "matched" or "floor"; default the score itself.
    span : bool
        Whether to add the interval.
    """
    entry = score if part is None else score[part]
    factor, digits = _factor(name), _digits(name, score)
    # Adding 0 turns a -0.0 from rounding into 0.0.
    texts = (None if entry[key] is None else f"{round(entry[key] * factor, digits) + 0.0:.{digits}f}" for key in _ENTRY)
    value, low, high = texts
    if value is None:
        return "n/a"
    return f"{value} ({low} to {high})" if span and low is not None else value


_ENTRY = ("value", "low", "high")


def _factor(name: str) -> int:
    return 1000 if name == "kid" else 1


def _digits(name: str, score: Mapping[str, Any]) -> int:
    """Return how many decimals to show; KID and FID have no scale of their own and show digits of the floor."""
    if name not in ("kid", "fid"):
        return 3 if name.endswith("distance") else 2
    size = max(abs(score["floor"][key]) * _factor(name) for key in _ENTRY)
    return min(6, max(0, (1 if name == "kid" else 2) - math.floor(math.log10(size)))) if size else 2


def fidelity_report(
    page: str | os.PathLike[str],
    result: Mapping[str, Any],
    frequencies: ArrayLike,
    examples: Mapping[str, tuple[np.ndarray, np.ndarray]],
    provenance: Mapping[str, Any] | None = None,
    *,
    title: str = "Synthetic and real scintigrams",
    subtitle: str = "",
    warning: str = WARNING,
) -> Path:
    """Draw all figures of a comparison and write the page.

    Parameters
    ----------
    page : path
        The HTML file; the figures go beside it as PNG, into the folder `STEM_figures`.
    result : mapping
        From `scintikit.metrics.fidelity_metrics`.
    frequencies : array_like, shape (F,)
        Cycles per mm, of the spectra.
    examples : mapping
        For each class real and synthetic pictures, (n, H, W) each; the first eight are shown.
    provenance : mapping, optional
    title, subtitle, warning : str

    Returns
    -------
    Path
        `page`.

    Raises
    ------
    ReportError
        There are no examples, or of another class than those compared.
    """
    page = Path(page)
    unknown = sorted(set(examples) - set(result["per_class"]))
    if unknown or not examples:
        raise ReportError(f"Examples are of {sorted(examples)}; expected classes among {list(result['per_class'])}.")
    groups = {"all classes": result["overall"]} | result["per_class"]
    measured = {name: group for name, group in groups.items() if "scores" in group}
    return write_report(
        page,
        title=title,
        subtitle=subtitle,
        headline=_headline(result["overall"]["scores"]),
        figures=save_pictures(
            page.parent / f"{page.stem}_figures", _figures(measured, np.asarray(frequencies), examples)
        ),
        tables=_tables(groups),
        notes=[*result["warnings"], *_notes(result["overall"])],
        provenance=provenance,
        warning=" ".join(filter(None, [warning, _few(groups)])),
    )


def _few(groups: Mapping[str, Mapping[str, Any]]) -> str:
    few = [name for name, group in groups.items() if min(group["n_real"], group["n_synthetic"]) < ENOUGH]
    return f"Fewer than {ENOUGH} pictures, so uncertain: {', '.join(few)}." if few else ""


def _figures(
    groups: Mapping[str, Mapping[str, Any]],
    frequencies: np.ndarray,
    examples: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, Picture]:
    overall = groups["all classes"]
    scores, curves = overall["scores"], overall["curves"]
    grids = {
        f"examples_{number}": Picture(
            f"{name}: real (upper row, blue frames) and synthetic (lower row, orange frames), drawn at random.",
            example_rows(*pair),
            f"Two rows of scintigrams of the class {name}, real and synthetic.",
            True,
        )
        for number, (name, pair) in enumerate(examples.items())
    }
    grain = f"grain ratio {score_text('grain_ratio', scores['grain_ratio'])}"
    aucs = {key: score_text(key, scores[key]) for key in ("auc_features", "auc_spectrum")}
    return grids | {
        "spectrum": Picture(
            "Power by spatial frequency of all classes, and its ratio. Organs lie left, grain right of the dotted "
            "line. Grey: half of the real pictures against the other half.",
            spectrum(curves["spectrum"], frequencies),
            f"Radial power spectra of real and synthetic pictures; {grain}.",
        ),
        "roc": Picture(
            "Can a classifier tell real from synthetic pictures it has not seen? On the dotted line it cannot.",
            roc(curves["roc"], aucs),
            "ROC curves of real-or-synthetic classifiers; AUC by features "
            f"{aucs['auc_features']}, by spectrum {aucs['auc_spectrum']}.",
        ),
        "forest": Picture(
            "Scores by class with 95 % intervals. Grey bars: the floor, half of the real pictures against the other "
            "half. Dotted: where a perfect generator would be.",
            forest({name: group["scores"] for name, group in groups.items()}),
            "KID by class: "
            + ", ".join(f"{name} {score_text('kid', group['scores']['kid'])}" for name, group in groups.items()),
            True,
        ),
        "spectra_by_class": Picture(
            "Power of synthetic pictures relative to real ones, by class. Grey: half of the real pictures against the "
            "other half; dotted: where grain begins.",
            spectrum_ratios({name: group["curves"]["spectrum"] for name, group in groups.items()}, frequencies),
            "Ratio of the power spectra by class; grain ratio: "
            + ", ".join(
                f"{name} {score_text('grain_ratio', group['scores']['grain_ratio'])}" for name, group in groups.items()
            ),
            True,
        ),
        "intensities": Picture(
            "Intensities of all pixels, as the classifier gets them: 1 is a picture's brightest.",
            intensities(curves["intensities"]),
            "Histogram of the intensities of real and synthetic pictures.",
        ),
        "neighbours": Picture(
            "Do synthetic pictures lie where real ones do (precision, density), and everywhere where real ones do "
            f"(recall, coverage)? {overall['n_floor']} pictures on each side; lines: range over repeats; grey: floor.",
            neighbours(scores),
            "; ".join(f"{name} {score_text(name, scores[name], 'matched')}" for name in NEIGHBOURS),
        ),
    }


@figures.styled
def example_rows(real: np.ndarray, synthetic: np.ndarray) -> Figure:
    """Draw up to eight real pictures (n, H, W) and below them as many synthetic ones."""
    count = min(EXAMPLES, len(real), len(synthetic))
    titles = ["real", *[""] * (count - 1), "synthetic", *[""] * (count - 1)]
    return figures.sample_grid(
        np.concatenate([real[:count], synthetic[:count]]),
        titles,
        columns=count,
        accents=[REAL] * count + [SYNTHETIC] * count,
    )


@figures.styled
def spectrum(curve: Mapping[str, Sequence[float]], frequencies: np.ndarray) -> Figure:
    """Draw the log10 power of real and synthetic pictures, and below it their ratio with the floor's band."""
    figure = Figure(figsize=(HALF, 0.86 * HALF), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for side, colour, style in (("real", REAL, "-"), ("synthetic", SYNTHETIC, "--")):
        upper.plot(frequencies, curve[side], style, color=colour, linewidth=1.8, label=side)
    upper.set(ylabel="log10 of power")
    upper.legend(loc="upper right")
    upper.grid(True)
    _ratio(lower, curve, frequencies, _reach([curve]))
    lower.set(xlabel="cycles/mm", ylabel="ratio")
    return figure


@figures.styled
def spectrum_ratios(curves: Mapping[str, Mapping[str, Sequence[float]]], frequencies: np.ndarray) -> Figure:
    """Draw the ratio of power of synthetic to real pictures, one panel a class, up to five in a row."""
    columns = min(5, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(WIDE, 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, curve) in zip(panels.ravel(), curves.items(), strict=False):
        _ratio(axes, curve, frequencies, _reach(curves.values()))
        axes.set_title(name, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(3))
    for axes in panels.ravel()[len(curves) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("ratio of power")
    for axes in panels[-1]:
        axes.set_xlabel("cycles/mm")
    return figure


def _ratio(axes: Axes, curve: Mapping[str, Sequence[float]], frequencies: np.ndarray, reach: float) -> None:
    """Draw one ratio over the floor's band, on a log axis from 1 / reach to reach."""
    axes.fill_between(frequencies, *10 ** np.asarray([curve["floor_low"], curve["floor_high"]]), color=FLOOR)
    axes.axhline(1, color=MUTED, linewidth=0.8)
    axes.plot(frequencies, _power_ratio(curve), color=SYNTHETIC, linewidth=1.6)
    axes.axvline(frequencies[-1] * 2 / 3, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set(yscale="log", ylim=(1 / reach, reach))
    # By itself an axis that spans less than a decade would have no labels.
    ticks = [tick for tick in (0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100, 1000) if 1 / reach <= tick <= reach]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(True)


def _power_ratio(curve: Mapping[str, Sequence[float]]) -> np.ndarray:
    return 10 ** (np.asarray(curve["synthetic"]) - np.asarray(curve["real"]))


def _reach(curves: Iterable[Mapping[str, Sequence[float]]]) -> float:
    """Return how far ratios depart from 1, at least a little more than 2."""
    ratios = np.concatenate([_power_ratio(curve) for curve in curves])
    return max(2.2, 1.15 * float(np.maximum(ratios, 1 / ratios).max()))


@figures.styled
def forest(groups: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw four scores of each class, with their intervals over grey bars for the floor."""
    figure = Figure(figsize=(WIDE, 1.0 + 0.42 * len(groups)), layout="constrained")
    panels = figure.subplots(1, len(FOREST), sharey=True)
    for axes, name in zip(panels, FOREST, strict=True):
        for row, scores in enumerate(groups.values()):
            _score(axes, row, scores[name], scores[name]["floor"], _factor(name))
            axes.annotate(
                score_text(name, scores[name], span=False),
                (scores[name]["value"] * _factor(name), row),
                (0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )
        ideal = {"kid": 0, "grain_ratio": 1}.get(name, 0.5)
        axes.axvline(ideal, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.set_title(SCORES[name], loc="left")
        axes.set_yticks(range(len(groups)), list(groups))
        axes.set_ylim(len(groups) - 0.5, -0.6)
        axes.grid(True, axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.margins(x=0.1)
    return figure


@figures.styled
def neighbours(scores: Mapping[str, Any]) -> Figure:
    """Draw precision, density, recall and coverage at the floor's number of pictures over grey bars for the floor."""
    figure = Figure(figsize=(HALF, 0.86 * HALF), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(NEIGHBOURS):
        _score(axes, row, scores[name]["matched"], scores[name]["floor"])
    axes.set_yticks(range(len(NEIGHBOURS)), NEIGHBOURS)
    axes.set_ylim(len(NEIGHBOURS) - 0.5, -0.5)
    axes.set_xlim(0, max(1.05, axes.get_xlim()[1]))
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)
    return figure


def _score(axes: Axes, row: int, entry: Mapping[str, Any], floor: Mapping[str, Any], factor: int = 1) -> None:
    axes.barh(row, (floor["high"] - floor["low"]) * factor, 0.5, floor["low"] * factor, color=FLOOR)
    if entry["low"] is not None:
        ends = [entry["low"] * factor, entry["high"] * factor]
        axes.plot(ends, [row, row], color=SYNTHETIC, linewidth=1.8, solid_capstyle="butt")
    axes.plot(entry["value"] * factor, row, "o", color=SYNTHETIC, markersize=6)


@figures.styled
def roc(curves: Mapping[str, Mapping[str, Sequence[float]]], aucs: Mapping[str, str]) -> Figure:
    """Draw the ROC curves of real-or-synthetic classifiers, with their AUC as text."""
    figure = Figure(figsize=(HALF, 0.86 * HALF), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    for (name, curve), colour, style in zip(curves.items(), COLOURS[2:4], ("-", "--"), strict=True):
        label = f"{SCORES[name].removeprefix('AUC ')}  {aucs[name]}"
        axes.plot(curve["false_rate"], curve["true_rate"], style, color=colour, linewidth=1.8, label=label)
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
    axes.set(xlabel="real pictures called synthetic", ylabel="synthetic pictures called so")
    axes.grid(True)
    axes.legend(loc="lower right", fontsize=9, title="AUC", alignment="left")
    return figure


@figures.styled
def intensities(curve: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the histograms of the intensities of real and synthetic pictures over each other."""
    figure = Figure(figsize=(HALF, 0.86 * HALF), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, len(curve["real"]) + 1)
    axes.stairs(curve["real"], edges, color=REAL, fill=True, alpha=0.3)
    axes.stairs(curve["real"], edges, color=REAL, linewidth=1.6, label="real")
    axes.stairs(curve["synthetic"], edges, color=SYNTHETIC, linewidth=1.8, linestyle="--", label="synthetic")
    axes.set(yscale="log", xlim=(0, 1), xlabel="intensity", ylabel="share of pixels")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(True)
    axes.legend(loc="upper right")
    return figure


def _headline(scores: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    shown = ("kid", "fid", "coverage", "auc_features", "auc_spectrum", "grain_ratio")
    # What depends on the number of pictures is shown at the floor's number.
    parts = {"fid": "matched", "coverage": "matched"}
    return [
        (
            SCORES[key],
            score_text(key, scores[key], parts.get(key), span=False),
            f"floor {score_text(key, scores[key], 'floor', span=False)}",
        )
        for key in shown
    ]


def _tables(groups: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    overall = groups["all classes"]
    size = f"{overall['n_floor']} against {overall['n_floor']}"
    rows = [
        [label, *(score_text(key, overall["scores"][key], part) for part in (None, "matched", "floor"))]
        for key, label in SCORES.items()
    ]
    columns = ["score", f"{overall['n_real']} real, {overall['n_synthetic']} synthetic", size, f"floor, {size}"]
    by_class = []
    for name, group in groups.items():
        scores = group.get("scores")
        texts = ["n/a"] * len(_BY_CLASS) if scores is None else [_with_floor(key, scores[key]) for key in _BY_CLASS]
        by_class.append([name, f"{group['n_real']} / {group['n_synthetic']}", *texts])
    headings = [SCORES[key] for key in _BY_CLASS]
    return [
        Table("All classes", columns, rows),
        Table(
            "By class, with as many pictures as the floor (floor in brackets)",
            ["class", "real / synthetic", *headings],
            by_class,
        ),
    ]


_BY_CLASS = ("kid", "fid", "coverage", "auc_features", "auc_spectrum", "grain_ratio")


def _with_floor(key: str, score: Mapping[str, Any]) -> str:
    """Return a score at the floor's number of pictures, and the floor."""
    return f"{score_text(key, score, 'matched', span=False)} ({score_text(key, score, 'floor', span=False)})"


def _notes(overall: Mapping[str, Any]) -> list[str]:
    return [
        "In brackets: 95 % intervals of scores of all pictures; for the floor and at its size, the range over repeats.",
        f"Floor: one random half of the real pictures against the other ({overall['n_floor']} each, by patient). "
        "Compare it with the column of the same size: FID, precision, recall, density and coverage depend on the "
        "number of pictures.",
        "KID and FID depend on the extractor; values of different extractors cannot be compared.",
        "All classes: synthetic pictures are drawn so that the classes have the same shares as in the real ones.",
    ]
