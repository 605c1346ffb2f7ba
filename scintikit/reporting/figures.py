"""Figures of a report. Each function returns a matplotlib `Figure`; nothing touches pyplot or its global state."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from scintikit.errors import ReportError
from scintikit.files import write_atomic

# Okabe and Ito's colours: they stay apart for colour-blind readers. Line styles take over after the last colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, MUTED, GRID = "#1c2733", "#5c6b7a", "#dfe5ea"
RIGHT, WRONG = "#009E73", "#D55E00"
HEAT = {"dark": "inferno", "inverted": "autumn_r"}  # colours of a heat map that show on either field
MARKERS = "osD^v"
WIDE, HALF = 9.0, 5.4  # inches; shown about 100 pixels to the inch
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a class name is a dollar
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.12,
    "savefig.facecolor": "auto",
}
WORDS = {"f1": "F1", "auc": "AUC", "auprc": "AUPRC", "mcc": "MCC", "ece": "ECE", "brier": "Brier score"}

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the house style and leave matplotlib's own settings as they are."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def figure_png(figure: Figure, dpi: int = 150) -> bytes:
    """Return the figure as PNG; the same figure gives the same bytes (no date, no software version)."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def figure_svg(figure: Figure) -> bytes:
    """Return the figure as SVG; the same figure gives the same bytes (no date, ids that do not depend on chance)."""
    buffer = io.BytesIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": "scintikit"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def metric_name(metric: str) -> str:
    """Return a metric's key as a reader wants it, such as "macro F1"."""
    return " ".join(WORDS.get(word, word) for word in metric.split("_"))


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 150) -> None:
    """Write the figure as PNG, whole or not at all."""
    write_atomic(path, figure_png(figure, dpi))


@styled
def confusion_matrix(counts: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix: counts as text, each row's shares as text and shade.

    Parameters
    ----------
    counts : array_like of int, shape (C, C)
        True classes in rows.
    class_names : sequence of str
    """
    counts = np.asarray(counts)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    side = max(HALF, 1.1 * len(class_names) + 1.6)
    figure = Figure(figsize=(side, 0.86 * side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else INK
        axes.text(column, row - 0.1, f"{count}", ha="center", va="center", color=colour, fontsize=15)
        axes.text(column, row + 0.24, f"{shares[row, column]:.0%}", ha="center", va="center", color=colour, fontsize=9)
    ticks, names = range(len(class_names)), [name.replace(" ", "\n") for name in class_names]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(0.5, len(class_names) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(class_names) - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    return figure


@styled
def reliability_diagram(
    curve: Mapping[str, Sequence[Any]],
    note: str = "",
    axis_names: tuple[str, str] = ("confidence (highest probability)", "accuracy"),
) -> Figure:
    """Draw accuracy against confidence, and below it how many items have that confidence.

    Parameters
    ----------
    curve : mapping
        From `scintikit.metrics.reliability_curve`.
    note : str
        Text for the upper left corner, such as the ECE.
    axis_names : (str, str)
        What was promised, and what came true.
    """
    edges, count = np.asarray(curve["edges"]), np.asarray(curve["count"])
    figure = Figure(figsize=(HALF, 0.86 * HALF), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    draw_reliability(upper, curve)
    upper.text(0.03, 0.95, note, transform=upper.transAxes, va="top", fontsize=10)
    upper.set(ylim=(0, 1.02), ylabel=axis_names[1])
    lower.bar(edges[:-1], count, width=np.diff(edges), align="edge", color=COLOURS[5], edgecolor="white")
    lower.set(xlim=(0, 1), xlabel=axis_names[0], ylabel="images")
    for axes in (upper, lower):
        axes.grid(True)
    return figure


def draw_reliability(axes: Axes, curve: Mapping[str, Sequence[Any]]) -> None:
    """Draw accuracy against confidence, each point with its distance to the line of those that are equal."""
    count = np.asarray(curve["count"])
    confidence = np.array(curve["confidence"], dtype=float)[count > 0]
    accuracy = np.array(curve["accuracy"], dtype=float)[count > 0]
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.vlines(confidence, confidence, accuracy, color=WRONG, linewidth=1.6, alpha=0.55)
    axes.plot(confidence, accuracy, color=COLOURS[0], linewidth=1.6, marker="o", markersize=5)


@styled
def score_forest(
    groups: Mapping[str, Mapping[str, Any]], metrics: Sequence[str], overall: Mapping[str, Any] | None = None
) -> Figure:
    """Draw scores with their intervals, one row per group (centre or class), side by side for each metric.

    Parameters
    ----------
    groups : mapping
        Name of the row to {metric: {"value", "low", "high"}}; what is None is left out.
    metrics : sequence of str
        One panel each.
    overall : mapping, optional
        The same for all together: drawn as a line with a band.
    """
    figure = Figure(figsize=(WIDE, 0.9 + 0.42 * len(groups)), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    rows = range(len(groups))
    for number, (axes, metric) in enumerate(zip(panels, metrics, strict=True)):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        if overall and overall[metric]["value"] is not None:
            _overall(axes, overall[metric])
        for row, group in zip(rows, groups.values(), strict=True):
            _score(axes, row, group[metric], colour, marker)
        axes.set_title(metric_name(metric), loc="left")
        axes.set_yticks(rows, list(groups))
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.grid(True, axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter("{x:.4g}")
        axes.margins(x=0.08)
    return figure


def _overall(axes: Axes, entry: Mapping[str, Any]) -> None:
    if entry["low"] is not None:
        axes.axvspan(entry["low"], entry["high"], color=GRID, alpha=0.6, linewidth=0)
    axes.axvline(entry["value"], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))


def _score(axes: Axes, row: int, entry: Mapping[str, Any], colour: str, marker: str) -> None:
    if entry["value"] is None:
        return
    if entry["low"] is not None:
        axes.plot([entry["low"], entry["high"]], [row, row], color=colour, linewidth=1.8, solid_capstyle="butt")
    axes.plot(entry["value"], row, marker, color=colour, markersize=7)
    text = axes.annotate(f"{entry['value']:.2f}", (entry["value"], row), (0, 7), textcoords="offset points")
    text.set(ha="center", fontsize=8.5, path_effects=[withStroke(linewidth=2.5, foreground="white")])


@styled
def set_sizes(sizes: Sequence[int], note: str = "") -> Figure:
    """Draw how many images have a conformal set of 0, 1, 2, ... classes.

    Parameters
    ----------
    sizes : sequence of int
        Number of images by size of the set.
    note : str
        Text for the upper right corner, such as the coverage.
    """
    total = max(1, sum(sizes))
    figure = Figure(figsize=(HALF, 0.86 * HALF), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(range(len(sizes)), sizes, width=0.72, color=COLOURS[0])
    axes.bar_label(bars, [f"{size}\n{size / total:.0%}" if size else "" for size in sizes], padding=3, fontsize=9.5)
    axes.text(0.98, 0.97, note, transform=axes.transAxes, ha="right", va="top", fontsize=10)
    axes.set(xlabel="classes that cannot be ruled out", ylabel="images", ylim=(0, 1.22 * max(1, *sizes)))
    axes.set_xticks(range(len(sizes)))
    axes.grid(True, axis="y")
    return figure


@styled
def sample_grid(
    images: ArrayLike,
    titles: Sequence[str],
    *,
    columns: int = 6,
    field: str = "dark",
    heat: ArrayLike | None = None,
    heat_max: float | None = None,
    accents: Sequence[str | None] | None = None,
) -> Figure:
    """Draw scintigrams side by side.

    Parameters
    ----------
    images : array_like, shape (N, H, W)
        Each is shown from its minimum to its 99.8th percentile, so that one hot pixel does not darken the rest.
    titles : sequence of str
        N texts, a few words in one or two lines each.
    columns : int
        Pictures in a row.
    field : str
        "dark": counts shine on black; "inverted": counts are dark on white, as on film.
    heat : array_like, shape (N, H, W), optional
        Maps (any range from 0 up) laid over the pictures, such as Grad-CAM.
    heat_max : float, optional
        What has full colour; default the maximum of each map by itself.
    accents : sequence of str or None, optional
        N colours of frames.

    Raises
    ------
    ReportError
        Numbers of pictures, titles, accents or maps differ, there is none, or the field is unknown.
    """
    pictures, maps = _check_pictures(images, titles, heat, accents, field)
    dark = field == "dark"
    rows = -(-len(pictures) // columns)
    height, width = pictures.shape[1:]
    tile, lines = WIDE / columns, max(title.count("\n") + 1 for title in titles)
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.06)
    figure = Figure(figsize=(WIDE, rows * (tile * height / width + 0.18 * lines + 0.06)), layout=layout)
    figure.set_facecolor("#0b0e12" if dark else "white")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(pictures) :]:
        axes.remove()
    for number, (axes, picture) in enumerate(zip(grid, pictures, strict=False)):
        low, high = picture.min(), np.percentile(picture, 99.8)
        axes.imshow(picture, cmap="gray" if dark else "gray_r", vmin=low, vmax=max(high, low + 1e-6))
        if maps is not None:
            strength = (maps[number] / (heat_max or max(maps[number].max(), 1e-6))).clip(0, 1)
            over = (-0.5, width - 0.5, height - 0.5, -0.5)  # the whole picture, however coarse the map is
            axes.imshow(
                strength, HEAT[field], vmin=0, vmax=1, alpha=0.6 * strength, extent=over, interpolation="bilinear"
            )
        axes.set_title(titles[number], fontsize=8.5, color="#e8edf2" if dark else INK, pad=4, linespacing=1.15)
        axes.set(xticks=[], yticks=[])
        accent = accents[number] if accents else None
        axes.spines[:].set(visible=True, color=accent or ("#39424c" if dark else GRID), linewidth=2 if accent else 0.8)
    return figure


def error_gallery(
    images: ArrayLike,
    ids: Sequence[str],
    truth: ArrayLike,
    predicted: ArrayLike,
    probabilities: ArrayLike,
    *,
    limit: int = 12,
    field: str = "dark",
    heat: ArrayLike | None = None,
) -> Figure | None:
    """Draw the mistakes that the classifier was surest of, surest first; None if it made none.

    Parameters
    ----------
    images : array_like, shape (N, H, W)
        All images, right or wrong.
    ids : sequence of str
        Pseudonyms.
    truth, predicted : array_like of str, shape (N,)
        Names of the true and the predicted class.
    probabilities : array_like, shape (N,)
        Probability of the predicted class.
    limit : int
        Pictures at most.
    field, heat
        As in `sample_grid`.
    """
    truth, predicted, probabilities = np.asarray(truth), np.asarray(predicted), np.asarray(probabilities)
    wrong = np.flatnonzero(truth != predicted)
    if not wrong.size:
        return None
    chosen = wrong[np.argsort(-probabilities[wrong], kind="stable")][:limit]
    titles = [f"{ids[i]}\n{truth[i]}\n→ {predicted[i]} {probabilities[i]:.2f}" for i in chosen]
    maps = None if heat is None else np.asarray(heat)[chosen]
    return sample_grid(np.asarray(images)[chosen], titles, field=field, heat=maps)


def _check_pictures(
    images: ArrayLike, titles: Sequence[str], heat: ArrayLike | None, accents: Sequence[Any] | None, field: str
) -> tuple[np.ndarray, np.ndarray | None]:
    pictures = np.asarray(images, dtype=float)
    maps = None if heat is None else np.asarray(heat, dtype=float)
    if pictures.ndim != 3 or not len(pictures):
        raise ReportError(f"Pictures have shape {pictures.shape}; expected (items, rows, columns), at least one item.")
    if len(titles) != len(pictures) or (accents is not None and len(accents) != len(pictures)):
        raise ReportError(f"{len(pictures)} pictures need as many titles and accents; got {len(titles)} titles.")
    if maps is not None and (maps.ndim != 3 or len(maps) != len(pictures)):
        raise ReportError(f"Heat maps have shape {maps.shape}; expected one map for each of {len(pictures)} pictures.")
    if field not in ("dark", "inverted"):
        raise ReportError(f"The field is {field!r}; expected 'dark' or 'inverted'.")
    return pictures, maps
