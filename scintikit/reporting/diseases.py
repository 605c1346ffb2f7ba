"""The report of a test in which several diseases can be present at once: its figures, tables and notes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy import ndimage

from scintikit.errors import ReportError
from scintikit.metrics.diseases import SEPARATOR
from scintikit.reporting import curves, figures
from scintikit.reporting.overlay import enlarge, side_by_side
from scintikit.reporting.predictions import PREFIX
from scintikit.reporting.report import WARNING, Picture, Table, save_pictures, write_report
from scintikit.reporting.scores import counted, headline, how_measured, interval_text, spread

SCORES = ("accuracy", "precision", "sensitivity", "specificity", "f1", "auc", "auprc")
HEADINGS = {
    "f1": "F1",
    "auc": "AUC",
    "auprc": "AUPRC",
    "macro_auc": "macro AUC",
    "macro_f1": "macro F1",
    "exact_match": "exact match",
}
COUNTS = {"tp": "true positive", "fn": "missed", "fp": "false alarm", "tn": "true negative"}
PER_SET = 2  # examples of each true set of diseases
LESION = "#0072B2"  # circles


def diseases_report(
    output_dir: str | os.PathLike[str],
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    images: ArrayLike | None = None,
    heat: ArrayLike | None = None,
    masks: ArrayLike | None = None,
    provenance: Mapping[str, Any] | None = None,
    *,
    title: str = "Diseases in scintigrams",
    subtitle: str | None = None,
    warning: str = WARNING,
) -> Path:
    """Draw all figures of the test as `figures/*.png` and write `report.html` beside them.

    Parameters
    ----------
    output_dir : path
        Made if it does not exist.
    metrics : mapping
        From `evaluate_diseases`; with what `evaluate_localisation` gives under `localisation` if that was measured.
    predictions : DataFrame
        N rows from `diseases_table`. The ids are not shown.
    images : array_like, shape (N, V, H, W), optional
        The views side by side as the network saw them, in the order of the rows.
    heat : array_like, shape (N, D, V, h, w), optional
        Maps from 0 up for each disease.
    masks : array_like, shape (N, V, H, W), optional
        Lesions, class index + 1, circled in the examples.
    provenance : mapping, optional
    title, subtitle, warning : str

    Returns
    -------
    Path
        `report.html`.

    Raises
    ------
    ReportError
        A column is missing, or predictions, metrics and pictures are not of the same images.
    """
    output = Path(output_dir)
    _check(metrics, predictions, images=images, heat=heat, masks=masks)
    drawn = {} if images is None else {"examples": _examples(predictions, metrics, images, heat, masks)}
    drawn |= _score_figures(metrics, predictions)
    return write_report(
        output / "report.html",
        title=title,
        subtitle=" · ".join(filter(None, [subtitle, counted(metrics)])),
        headline=_headline(metrics),
        figures=save_pictures(output / "figures", drawn),
        tables=_tables(metrics),
        notes=_notes(metrics),
        provenance=provenance,
        warning=warning,
    )


def _check(metrics: Mapping[str, Any], predictions: pd.DataFrame, **pictures: ArrayLike | None) -> None:
    needed = ["label", "called", *(PREFIX + name for name in metrics["diseases"])]
    missing = [column for column in needed if column not in predictions]
    if missing:
        raise ReportError(f"The predictions lack the columns {missing}; make the table with diseases_table.")
    if metrics["n"] != len(predictions):
        raise ReportError(f"The metrics are of {metrics['n']} images; there are {len(predictions)} predictions.")
    for what, given in pictures.items():
        if given is not None and len(np.asarray(given)) != len(predictions):
            raise ReportError(
                f"Got {len(np.asarray(given))} {what} for {len(predictions)} predictions; expected one each."
            )


def _examples(
    predictions: pd.DataFrame,
    metrics: Mapping[str, Any],
    images: ArrayLike,
    heat: ArrayLike | None,
    masks: ArrayLike | None,
) -> Picture:
    """Draw each example as its views beside each other, then the same under each disease's map."""
    diseases = list(metrics["diseases"])
    probabilities, truth = predictions[[PREFIX + name for name in diseases]].to_numpy(), _truth(predictions, diseases)
    chosen = _chosen(probabilities, truth, predictions["label"], metrics["label_sets"]["names"])
    views = np.asarray(images, dtype=float)[chosen]
    body = _rows(views)
    maps = None if heat is None else _strengths(np.asarray(heat, dtype=float), chosen, views.shape[2:])[:, :, body]
    panels = 1 if maps is None else 1 + len(diseases)
    titles, accents = [], []
    for i in chosen:
        label, called = (predictions[column].iloc[i] for column in ("label", "called"))
        titles.append(f"{_plus(label)}\n{'✓' if called == label else '→ ' + _plus(called)}")
        titles += [f"{name}\n{p:.2f}" for name, p in zip(diseases, probabilities[i], strict=True)][: panels - 1]
        accents += [figures.RIGHT if called == label else figures.WRONG] + [None] * (panels - 1)
    grid = figures.sample_grid(
        np.repeat(side_by_side(views[:, :, body]), panels, axis=0),
        titles,
        columns=panels * max(1, 6 // panels),
        field="inverted",
        heat=None if maps is None else side_by_side(maps),
        heat_max=1.0,
        accents=accents,
    )
    if maps is not None and masks is not None:
        _mark_lesions(grid, side_by_side(np.asarray(masks)[chosen][:, :, body]), panels)
    explained = (
        "Each patient's views side by side, for every set of diseases once the surest right and once the worst answer. "
        "On top: the true diseases, then ✓ or what was called instead (→)."
    )
    if maps is not None:
        explained += " Beside them: what speaks for each disease (red: most), its probability on top"
        explained += "; its true lesions are circled." if masks is not None else "."
    return Picture(explained, grid, f"Grid of {len(chosen)} scintigrams with the classifier's answers.", True)


def _chosen(probabilities: np.ndarray, truth: np.ndarray, labels: pd.Series, sets: Sequence[str]) -> np.ndarray:
    right = np.where(truth, probabilities, 1 - probabilities).min(axis=1)
    members = (np.flatnonzero(labels == name) for name in sets)
    return np.concatenate([spread(found, right, PER_SET) for found in members if len(found)])


def _strengths(heat: np.ndarray, chosen: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return maps `(K * (1 + D), V, H, W)` in 0..1 of the test's highest value; the first of each example is blank."""
    highest = heat.max(axis=(0, 2, 3, 4), keepdims=True)
    maps = enlarge(heat[chosen] / np.maximum(highest, 1e-6)[0], size)
    return np.concatenate([np.zeros_like(maps[:, :1]), maps], axis=1).reshape(-1, *maps.shape[2:])


def _rows(views: np.ndarray) -> slice:
    """Return the rows of pictures `(K, V, H, W)` that the bodies take, with a margin."""
    profile = views.mean(axis=(1, 3))
    taken = np.flatnonzero((profile > 0.15 * profile.max(axis=1, keepdims=True)).any(axis=0))
    margin = views.shape[2] // 32
    return slice(max(0, taken[0] - margin), taken[-1] + margin + 1) if len(taken) else slice(None)


def _mark_lesions(grid: Figure, masks: np.ndarray, panels: int) -> None:
    for number, axes in enumerate(grid.axes):
        example, disease = divmod(number, panels)
        lesions, count = ndimage.label(masks[example] == disease)
        if disease and count:
            rows, columns = np.transpose(ndimage.center_of_mass(lesions > 0, lesions, range(1, count + 1)))
            axes.scatter(columns, rows, s=45, facecolors="none", edgecolors=LESION, linewidths=0.7)


def _plus(name: str) -> str:
    return name.replace(SEPARATOR, " + ")


def _truth(predictions: pd.DataFrame, diseases: Sequence[str]) -> np.ndarray:
    return np.array([[name in label.split(SEPARATOR) for name in diseases] for label in predictions["label"]])


def _score_figures(metrics: Mapping[str, Any], predictions: pd.DataFrame) -> dict[str, Picture]:
    diseases, per_class = list(metrics["diseases"]), metrics["per_class"]
    probabilities, truth = predictions[[PREFIX + name for name in diseases]].to_numpy(), _truth(predictions, diseases)
    aucs, areas = ({name: interval_text(per_class[name][key]) for name in diseases} for key in ("auc", "auprc"))
    sets = metrics["label_sets"]
    drawn = {
        "roc": Picture(
            "ROC curve of each disease.",
            curves.roc_curves(probabilities, truth, diseases, aucs),
            f"ROC curves; AUC: {_listed(aucs)}",
        ),
        "precision_recall": Picture(
            "Precision against sensitivity. Dotted: guessing.",
            curves.precision_recall_curves(probabilities, truth, diseases, areas),
            f"Precision-recall curves; average precision: {_listed(areas)}",
        ),
        "label_sets": Picture(
            "Which diseases images have and which were called, and the share of the true set.",
            figures.confusion_matrix(sets["counts"], [name.replace(SEPARATOR, "\n+\u00a0") for name in sets["names"]]),
            f"True and called sets of diseases; exact match {interval_text(metrics['overall']['exact_match'])}",
        ),
    }
    if "localisation" in metrics:
        drawn["froc"] = _froc(metrics["localisation"])
    drawn["centres"] = _centres(metrics)
    for number, name in enumerate(diseases):
        calibration = metrics["calibration"][name]
        note = f"{name}\nECE {interval_text(calibration['ece'], 3)}\nBrier {interval_text(calibration['brier'], 3)}"
        drawn[f"reliability_{number}"] = Picture(
            f"Reliability of {name}: on the dotted line a probability means what it says.",
            figures.reliability_diagram(calibration["reliability"], note, ("probability", "share with the disease")),
            "Reliability diagram; " + note.replace("\n", ", "),
        )
    return drawn


def _froc(localisation: Mapping[str, Any]) -> Picture:
    found = localisation["per_disease"]
    shares = {name: interval_text(entry["sensitivity"]) for name, entry in found.items()}
    return Picture(
        "Lesions that maxima of the heat map hit, against maxima elsewhere (free-response curve). "
        f"A maximum within {localisation['tolerance_mm']:g} mm of a lesion hits it.",
        curves.froc_curves({name: entry["froc"] for name, entry in found.items()}, localisation["false_hits"], shares),
        f"Free-response curves; lesions hit at {localisation['false_hits']:g} false hits per image: {_listed(shares)}",
    )


def _centres(metrics: Mapping[str, Any]) -> Picture:
    diseases = list(metrics["diseases"])

    def scores(macro: Mapping[str, Any], auc: Mapping[str, Any]) -> dict[str, Any]:
        return {f"AUC, {name}": auc[name] for name in diseases} | {"exact match": macro["exact_match"]}

    overall = scores(metrics["overall"], {name: metrics["per_class"][name]["auc"] for name in diseases})
    rows = {name: scores(row, row["auc"]) for name, row in metrics["per_centre"].items()}
    return Picture(
        "Scores in each centre. Dashed line and band: all centres together.",
        figures.score_forest(rows, list(overall), overall),
        "Macro AUC by centre: "
        + _listed({name: interval_text(row["macro_auc"]) for name, row in metrics["per_centre"].items()}),
        True,
    )


def _listed(texts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def _headline(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    entries = {HEADINGS[key]: metrics["overall"][key] for key in ("macro_auc", "macro_f1", "exact_match")}
    if "localisation" in metrics:
        entries |= {
            f"{name}: lesions hit": entry["sensitivity"]
            for name, entry in metrics["localisation"]["per_disease"].items()
        }
    return headline(entries)


def _tables(metrics: Mapping[str, Any]) -> list[Table]:
    overall, thresholds, diseases = metrics["overall"], metrics["thresholds"], list(metrics["diseases"])
    scores = [HEADINGS.get(score, score) for score in SCORES]
    classes = [
        [name, str(row["support"]), *(interval_text(row[score]) for score in SCORES)]
        for name, row in metrics["per_class"].items()
    ]
    macro = ["macro average", str(metrics["n"]), *(interval_text(overall[f"macro_{score}"]) for score in SCORES)]
    counts = [
        [name, f"{thresholds[name]:.3f}" if name in thresholds else "", *(str(row["counts"][c]) for c in COUNTS)]
        for name, row in metrics["per_class"].items()
    ]
    centres = [
        [name, str(row["n"]), *(str(row["support"][disease]) for disease in metrics["classes"])]
        + [interval_text(row["auc"][disease]) for disease in diseases]
        + [interval_text(row[key]) for key in ("macro_auc", "macro_f1", "exact_match")]
        for name, row in metrics["per_centre"].items()
    ]
    macros = [HEADINGS[key] for key in ("macro_auc", "macro_f1", "exact_match")]
    tables = [
        Table("By class", ["class", "images", *scores], [*classes, macro]),
        Table("Calls", ["class", "threshold", *COUNTS.values()], counts),
        Table(
            "By centre",
            ["centre", "images", *metrics["classes"], *(f"AUC, {name}" for name in diseases), *macros],
            centres,
        ),
    ]
    if "localisation" in metrics:
        found = metrics["localisation"]["per_disease"].items()
        rows = [[name, str(entry["lesions"]), interval_text(entry["sensitivity"])] for name, entry in found]
        limit = f"hit at {metrics['localisation']['false_hits']:g} false per image"
        tables.append(Table("Lesions", ["disease", "lesions", limit], rows))
    return tables


def _notes(metrics: Mapping[str, Any]) -> list[str]:
    normal = metrics["classes"][-1]
    notes = [
        how_measured(metrics["intervals"]),
        f"A disease is called from its threshold on, {normal} where none is. Averages of accuracy, precision, "
        f"sensitivity, specificity and F1 run over the diseases and {normal}, those of AUC and AUPRC over the "
        "diseases; exact match: all diseases of an image right. n/a marks what these images cannot measure.",
    ]
    if "localisation" in metrics:
        notes.append(
            "A lesion seen in two views counts as two. The threshold of the heat is swept over the test's own maps: "
            "the curve tells what they can do, not what a threshold chosen beforehand would give."
        )
    return notes
