"""The page of a memorisation audit: the nearest pairs first, then how near is usual."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from scintikit.errors import ReportError
from scintikit.reporting import figures
from scintikit.reporting.figures import COLOURS, HALF, INK, WIDE, WRONG
from scintikit.reporting.report import WARNING, Picture, Table, save_pictures, write_report

HELD_OUT, SYNTHETIC = COLOURS[0], COLOURS[1]
PAIRS = 12  # shown at most
PAIRS_IN_ROW = 3
THRESHOLD: dict[str, Any] = {"color": INK, "linewidth": 1.2, "linestyle": (0, (2, 2))}
ROWS = 20  # of the table, at most
DIFFERENCE = 0.5  # where the colours of a difference end
#: What flags a picture where it is small: columns of the table, and their names.
MEASURES = {
    "distance": "1 - structural similarity",
    "ratio": "distance / that of the next five",
    "feature_distance": "1 - cosine of the features",
}


def audit_report(
    page: str | os.PathLike[str],
    result: Mapping[str, Any],
    table: pd.DataFrame,
    held_out: Mapping[str, np.ndarray],
    pairs: tuple[np.ndarray, np.ndarray],
    provenance: Mapping[str, Any] | None = None,
    *,
    title: str = "Memorisation audit",
    subtitle: str = "",
    warning: str = WARNING,
) -> Path:
    """Draw all figures of an audit and write the page.

    Parameters
    ----------
    page : path
        The HTML file; the figures go beside it as PNG, into the folder `STEM_figures`.
    result : mapping
        `synthetic`, `held_out`, `flagged`, `expected_false_alarms`, `nearest_is_source`, `with_source` (counts),
        `quantile`, `thresholds` by measure, and `warnings`.
    table : DataFrame
        One row for each synthetic picture, flagged and nearest first: `id`, `nearest`, `distance`, `ratio`, `flip`,
        `shift_down_mm`, `shift_right_mm`, `nearest_by_features`, `feature_distance`, `nearest_is_source`, and
        `flagged`, by which measures.
    held_out : mapping
        The measures of the held-out pictures, (M,) each.
    pairs : pair of ndarray, shape (n, H, W)
        The pictures of the first rows of the table, moved onto their nearest training pictures, and those.
    provenance : mapping, optional
    title, subtitle, warning : str

    Raises
    ------
    ReportError
        There is no pair, or there are more than rows.
    """
    count = len(pairs[0])
    if not 0 < count <= len(table) or len(pairs[1]) != count:
        raise ReportError(f"Got {count} and {len(pairs[1])} pictures of pairs for {len(table)} rows; expected pairs.")
    page = Path(page)
    return write_report(
        page,
        title=title,
        subtitle=subtitle,
        headline=_headline(result, table, held_out),
        figures=save_pictures(page.parent / f"{page.stem}_figures", _figures(result, table, held_out, pairs)),
        tables=[_table(table)],
        notes=[*result["warnings"], *_notes(result)],
        provenance=provenance,
        warning=warning,
    )


def _figures(
    result: Mapping[str, Any],
    table: pd.DataFrame,
    held_out: Mapping[str, np.ndarray],
    pairs: tuple[np.ndarray, np.ndarray],
) -> dict[str, Picture]:
    shown = table.head(len(pairs[0]))
    titles = [
        f"{row['id']} → {row['nearest']}\nsimilarity {1 - row['distance']:.3f} · ratio {row['ratio']:.2f}"
        for row in shown.to_dict("records")
    ]
    drawn = {
        "pairs": Picture(
            "The nearest pairs: a synthetic picture, mirrored and moved where needed; its nearest training picture; "
            f"their difference (red: more in the synthetic one; the colours end at {DIFFERENCE:g} of the brightest). "
            "Orange frames: flagged.",
            nearest_pairs(*pairs, titles, [bool(flagged) for flagged in shown["flagged"]]),
            f"The {len(shown)} synthetic pictures nearest to a training picture, with that and the difference.",
            True,
        )
    }
    drawn["nearness"] = Picture(
        "How near the nearest training picture is, and whether it is much nearer than the next five. A copy lies at "
        "the lower left, a picture of a common kind further up. Dotted: thresholds.",
        nearness(table, held_out, result["thresholds"]),
        "Scatter plot of the distance to the nearest training picture and its ratio to the next ones.",
    )
    for measure, label in MEASURES.items():
        threshold = result["thresholds"][measure]
        drawn[measure] = Picture(
            f"{label[0].upper()}{label[1:]}, for the nearest training picture. Flagged: left of the threshold "
            f"{threshold:.3g}; the first bar holds all that is nearer still.",
            distances(table[measure].to_numpy(), held_out[measure], threshold, label),
            f"Histograms of {label}, synthetic and held-out; threshold {threshold:.3g}.",
        )
    return drawn


@figures.styled
def nearest_pairs(
    synthetic: np.ndarray, training: np.ndarray, titles: Sequence[str], flagged: Sequence[bool]
) -> Figure:
    """Draw synthetic pictures, their nearest training pictures and the differences side by side.

    Parameters
    ----------
    synthetic, training : ndarray, shape (n, H, W)
        In [0, 1].
    titles : sequence of str
        Two lines for each pair.
    flagged : sequence of bool
    """
    # Placed by hand, in inches: matplotlib's constrained layout of nested figures is not the same in every run.
    rows = -(-len(titles) // PAIRS_IN_ROW)
    block, margin, head = WIDE / PAIRS_IN_ROW, 0.06, 0.42
    wide = (block - 4 * margin) / 3
    high = wide * synthetic.shape[1] / synthetic.shape[2]
    total = rows * (high + head) + margin
    figure = Figure(figsize=(WIDE, total))
    figure.set_facecolor("#0b0e12")
    for number, (made, real, title, mark) in enumerate(zip(synthetic, training, titles, flagged, strict=True)):
        row, column = divmod(number, PAIRS_IN_ROW)
        left, bottom = column * block + margin, total - (row + 1) * (high + head)
        for place, picture in enumerate((made, real, None)):
            corner = left + place * (wide + margin)
            axes = figure.add_axes((corner / WIDE, bottom / total, wide / WIDE, high / total))
            if picture is None:
                axes.imshow(made - real, cmap="RdBu_r", vmin=-DIFFERENCE, vmax=DIFFERENCE)
            else:
                axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=WRONG if mark else "#39424c", linewidth=2 if mark else 0.8)
        middle, above = (column + 0.5) / PAIRS_IN_ROW, (bottom + high + 0.05) / total
        figure.text(middle, above, title, ha="center", fontsize=7.5, color="#e8edf2", linespacing=1.2)
    return figure


@figures.styled
def distances(synthetic: np.ndarray, held_out: np.ndarray, threshold: float, label: str) -> Figure:
    """Draw the distributions of the distance to the nearest training picture, on a log axis, and the threshold."""
    figure = Figure(figsize=(HALF, 0.86 * HALF), layout="constrained")
    axes = figure.subplots()
    floor = 0.5 * min(threshold, float(held_out.min()))  # what is nearer stands in the first bin
    values = {"held-out": held_out.astype(float).clip(floor), "synthetic": synthetic.astype(float).clip(floor)}
    edges = np.geomspace(floor, 1.02 * max(map(np.max, values.values())), 41)
    for (name, value), colour, fill in zip(values.items(), (HELD_OUT, SYNTHETIC), (True, False), strict=True):
        shares = np.histogram(value, edges)[0] / len(value)
        axes.stairs(shares, edges, color=colour, fill=fill, alpha=0.3 if fill else 1, linewidth=1.8, label=name)
    axes.axvline(threshold, **THRESHOLD)
    axes.set(xlabel=label, ylabel="share of pictures")
    _log_scale(axes, (1, 2, 5))
    axes.legend(loc="upper left", frameon=True, facecolor="white", edgecolor="none", framealpha=0.85)
    axes.grid(True)
    return figure


@figures.styled
def nearness(table: pd.DataFrame, held_out: Mapping[str, np.ndarray], thresholds: Mapping[str, float]) -> Figure:
    """Draw the distance against its ratio to the next distances, for each picture a point, and the thresholds."""
    figure = Figure(figsize=(HALF, 0.86 * HALF), layout="constrained")
    axes = figure.subplots()
    for name, group, colour, marker in (("held-out", held_out, HELD_OUT, "o"), ("synthetic", table, SYNTHETIC, "^")):
        distance = np.asarray(group["distance"]).clip(1e-3)
        axes.scatter(distance, group["ratio"], s=9, c=colour, marker=marker, alpha=0.5, linewidths=0, label=name)
    axes.axvline(thresholds["distance"], **THRESHOLD)
    axes.axhline(thresholds["ratio"], **THRESHOLD)
    axes.set(ylim=(0, 1.02), xlabel=MEASURES["distance"], ylabel=MEASURES["ratio"])
    _log_scale(axes, (1,))
    axes.legend(loc="upper left", markerscale=2)
    axes.grid(True)
    return figure


def _log_scale(axes: Axes, digits: tuple[int, ...]) -> None:
    axes.set_xscale("log", subs=[])
    axes.xaxis.set_major_locator(LogLocator(subs=digits))
    axes.xaxis.set_major_formatter("{x:g}")


def _headline(
    result: Mapping[str, Any], table: pd.DataFrame, held_out: Mapping[str, np.ndarray]
) -> list[tuple[str, str, str]]:
    nearest = [1 - float(np.min(values["distance"])) for values in (table, held_out)]
    usual = [1 - float(np.median(values["distance"])) for values in (table, held_out)]
    sources = (result["nearest_is_source"], result["with_source"])
    return [
        ("flagged", f"{result['flagged']:,}", f"of {result['synthetic']:,} synthetic pictures"),
        ("expected false alarms", f"{result['expected_false_alarms']:.1f}", f"quantile {result['quantile']:g}"),
        ("highest similarity", f"{nearest[0]:.3f}", f"held-out {nearest[1]:.3f}"),
        ("median similarity", f"{usual[0]:.3f}", f"held-out {usual[1]:.3f}"),
        (
            "nearest is its source",
            f"{sources[0] / sources[1]:.0%}" if sources[1] else "n/a",
            f"{sources[0]:,} of {sources[1]:,} with a source",
        ),
    ]


def _table(table: pd.DataFrame) -> Table:
    rows = [
        [
            row["id"],
            row["nearest"],
            f"{1 - row['distance']:.3f}",
            f"{row['ratio']:.2f}",
            "yes" if row["flip"] else "no",
            f"{row['shift_down_mm']:+.1f}, {row['shift_right_mm']:+.1f}",
            f"{row['nearest_by_features']}, {row['feature_distance']:.1e}",
            "yes" if row["nearest_is_source"] else "no",
            row["flagged"].replace("feature_distance", "features") or "no",
        ]
        for row in table.head(ROWS).to_dict("records")
    ]
    columns = [
        "synthetic",
        "nearest",
        "similarity",
        "ratio to next",
        "mirrored",
        "shift (mm)",
        "by features",
        "source",
        "flagged by",
    ]
    return Table(f"The {len(rows)} nearest of {len(table):,}; all are in the CSV file beside this page", columns, rows)


def _notes(result: Mapping[str, Any]) -> list[str]:
    return [
        f"Flagged: nearer to a training picture than a share of {1 - result['quantile']:.2g} of pictures of patients "
        f"who were not trained on would be, extrapolated from {result['held_out']} held-out pictures of the validation "
        f"split; a third of that share for each of: {'; '.join(MEASURES.values())}.",
        "Similarity: structural similarity at 64 pixels after mirroring, shifting and smoothing; 1 if equal.",
        "A picture drawn from the mask of a training picture (its source) shares its outline; what is flagged is more "
        "alike than two patients are.",
        "Not seen: parts of a picture, rotated or stretched copies, and what is told about patients other than by "
        "repeating their pictures.",
    ]
