"""Curves over all thresholds, one line per class: ROC, precision and recall, free-response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.metrics import precision_recall_curve, roc_curve

from scintikit.reporting.figures import COLOURS, HALF, MUTED, styled


@styled
def roc_curves(
    probabilities: ArrayLike, labels: ArrayLike, class_names: Sequence[str], aucs: Mapping[str, str] | None = None
) -> Figure:
    """Draw each class against the rest; a class without positives or negatives is left out.

    Parameters
    ----------
    probabilities : array_like, shape (N, C)
    labels : array_like of int, shape (N,) or (N, C)
        Class numbers, or 0 and 1 where several classes can be true at once.
    class_names : sequence of str
    aucs : mapping, optional
        Text for the legend by class, such as "0.93" and its interval.
    """
    curves = {}
    for name, positive, score in _against_the_rest(probabilities, labels, class_names):
        false_rate, true_rate, _ = roc_curve(positive, score)
        curves[name] = (false_rate, true_rate)
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    _draw_curves(axes, curves, class_names, aucs, "AUC", "lower right")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    return figure


@styled
def precision_recall_curves(
    probabilities: ArrayLike, labels: ArrayLike, class_names: Sequence[str], areas: Mapping[str, str] | None = None
) -> Figure:
    """Draw precision against sensitivity; dotted lines are what guessing reaches, the share of the class.

    Parameters
    ----------
    probabilities, labels, class_names
        As in `roc_curves`.
    areas : mapping, optional
        Text for the legend by class, such as the average precision.
    """
    curves, shares = {}, []
    for name, positive, score in _against_the_rest(probabilities, labels, class_names):
        precision, sensitivity, _ = precision_recall_curve(positive, score)
        curves[name] = (sensitivity, precision)
        shares.append(positive.mean())
    figure, axes = _square()
    for share, (colour, _) in zip(shares, (_line(class_names.index(name)) for name in curves), strict=True):
        axes.axhline(share, color=colour, linewidth=0.8, linestyle=(0, (2, 3)))
    _draw_curves(axes, curves, class_names, areas, "average precision", "lower left", drawstyle="steps-pre")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="sensitivity", ylabel="precision", aspect="equal")
    return figure


@styled
def froc_curves(
    curves: Mapping[str, Mapping[str, Any]], at: float, shares: Mapping[str, str] | None = None, limit: float = 8.0
) -> Figure:
    """Draw the share of lesions hit against the false hits per image.

    Parameters
    ----------
    curves : mapping
        By class what `evaluate_localisation` gives under `froc`; without sensitivity it is left out.
    at : float
        False hits per image that is marked.
    shares : mapping, optional
        Text for the legend by class, such as the share of lesions hit there.
    limit : float
        Where the axis ends.
    """
    drawn = {
        name: (np.asarray(curve["false_hits"]), np.asarray(curve["sensitivity"]))
        for name, curve in curves.items()
        if curve["sensitivity"] is not None
    }
    figure, axes = _square()
    axes.axvline(at, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    _draw_curves(axes, drawn, list(curves), shares, f"hit at {at:g} false", "lower right")
    axes.set(xlim=(0, limit), ylim=(0, 1.01), xlabel="false hits per image", ylabel="share of lesions hit")
    return figure


def _against_the_rest(
    probabilities: ArrayLike, labels: ArrayLike, class_names: Sequence[str]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Give name, membership and score of every class that some images have and others not."""
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    members = labels == 1 if labels.ndim == 2 else labels[:, None] == np.arange(len(class_names))
    for c, name in enumerate(class_names):
        if members[:, c].any() and not members[:, c].all():
            yield name, members[:, c], probabilities[:, c]


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(HALF, 0.86 * HALF), layout="constrained")
    axes = figure.subplots()
    axes.grid(True)
    return figure, axes


def _line(number: int) -> tuple[str, str]:
    """Return colour and line style of a class."""
    return COLOURS[number % len(COLOURS)], ("-", "--", ":")[number // len(COLOURS) % 3]


def _draw_curves(
    axes: Axes,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    texts: Mapping[str, str] | None,
    title: str,
    corner: Any,
    **style: Any,
) -> None:
    for name, (x, y) in curves.items():
        colour, line = _line(list(class_names).index(name))
        label = f"{name}  {texts[name]}" if texts else name
        axes.plot(x, y, line, color=colour, linewidth=1.8, label=label, **style)
    if curves:
        axes.legend(loc=corner, fontsize=9, title=title if texts else None, alignment="left")
