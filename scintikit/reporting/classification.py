"""The report of a classifier's test: which figures, tables and notes it has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from scintikit.errors import ReportError
from scintikit.reporting import curves, figures
from scintikit.reporting.predictions import PREFIX
from scintikit.reporting.report import WARNING, Picture, Table, save_pictures, write_report
from scintikit.reporting.scores import counted, headline, how_measured, interval_text, spread


def classification_report(
    output_dir: str | os.PathLike[str],
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    images: ArrayLike | None = None,
    overlays: ArrayLike | None = None,
    provenance: Mapping[str, Any] | None = None,
    *,
    title: str = "Classification of scintigrams",
    subtitle: str | None = None,
    field: str = "dark",
    warning: str = WARNING,
) -> Path:
    """Draw all figures of a classifier's test as `figures/*.png` and write `report.html` beside them.

    Parameters
    ----------
    output_dir : path
        Made if it does not exist.
    metrics : mapping
        From `scintikit.metrics.evaluate_classifier`.
    predictions : DataFrame
        N rows with `id`, `label`, `prediction` and `p_<class>`, as `predictions_table` makes them. The ids are shown:
        they must be pseudonyms.
    images : array_like, shape (N, H, W), optional
        The pictures in the order of the rows, as the classifier saw them.
    overlays : array_like, shape (N, h, w), optional
        Maps such as Grad-CAM for all pictures.
    provenance : mapping, optional
    title, subtitle : str, optional
    field : str
        "dark" or "inverted", see `scintikit.reporting.figures.sample_grid`.
    warning : str

    Returns
    -------
    Path
        `report.html`.

    Raises
    ------
    ReportError
        A column is missing, a label unknown, or predictions, metrics and pictures are not of the same images.
    """
    names, output = list(metrics["classes"]), Path(output_dir)
    _check_predictions(metrics, predictions, images, overlays)
    shown = {} if images is None else _image_figures(predictions, names, images, overlays, field)
    first = {"examples": shown.pop("examples")} if shown else {}
    return write_report(
        output / "report.html",
        title=title,
        subtitle=" · ".join(filter(None, [subtitle, counted(metrics)])),
        headline=_headline(metrics),
        figures=save_pictures(output / "figures", first | _score_figures(metrics, predictions) | shown),
        tables=_tables(metrics),
        notes=_notes(metrics),
        provenance=provenance,
        warning=warning,
    )


def _check_predictions(
    metrics: Mapping[str, Any], predictions: pd.DataFrame, images: ArrayLike | None, overlays: ArrayLike | None
) -> None:
    names = list(metrics["classes"])
    needed = ["id", "label", "prediction", *(PREFIX + name for name in names)]
    missing = [column for column in needed if column not in predictions]
    if missing:
        raise ReportError(f"The predictions lack the columns {missing}; make the table with predictions_table.")
    if metrics["n"] != len(predictions):
        raise ReportError(f"The metrics are of {metrics['n']} images; there are {len(predictions)} predictions.")
    unknown = sorted(set(predictions["label"]) - set(names), key=str)
    if unknown:
        raise ReportError(f"The predictions have the labels {unknown}; expected class names among {names}.")
    for what, given in (("pictures", images), ("overlays", overlays)):
        if given is not None and len(np.asarray(given)) != len(predictions):
            raise ReportError(
                f"Got {len(np.asarray(given))} {what} for {len(predictions)} predictions; expected one each."
            )


def _image_figures(
    predictions: pd.DataFrame, names: Sequence[str], images: ArrayLike, overlays: ArrayLike | None, field: str
) -> dict[str, Picture]:
    pictures, probabilities = np.asarray(images), predictions[[PREFIX + name for name in names]].to_numpy()
    truth, called = predictions["label"].to_numpy(), predictions["prediction"].to_numpy()
    of_truth = probabilities[np.arange(len(truth)), _codes(predictions, names)]
    highest = probabilities.max(axis=1)
    chosen = np.concatenate([spread(np.flatnonzero(truth == name), of_truth) for name in names])
    right = truth[chosen] == called[chosen]
    answers = np.where(right, "✓", "→ " + called[chosen].astype(str).astype(object))
    titles = [f"{truth[i]}\n{answer} {highest[i]:.2f}" for i, answer in zip(chosen, answers, strict=True)]
    accents = np.where(right, figures.RIGHT, figures.WRONG).tolist()
    drawn = {
        "examples": Picture(
            "Test images of every class, from the one whose true class got the highest probability to the lowest. "
            "On top: the true class, then ✓ or the class predicted instead (→), and the probability of the prediction.",
            figures.sample_grid(pictures[chosen], titles, field=field, accents=accents),
            f"Grid of {len(chosen)} scintigrams by class, with the classifier's answers.",
            True,
        )
    }
    gallery = figures.error_gallery(pictures, predictions["id"].tolist(), truth, called, highest, field=field)
    if gallery is not None:
        drawn["errors"] = Picture(
            "The mistakes it was surest of: true class → predicted class and its probability.",
            gallery,
            "Grid of wrongly classified scintigrams, the most confident mistakes first.",
            True,
        )
    if overlays is not None:
        maps = np.asarray(overlays)[chosen]
        drawn["attention"] = Picture(
            "The test images at the top again, with what drew the classifier's attention (bright: more).",
            figures.sample_grid(pictures[chosen], titles, field=field, accents=accents, heat=maps),
            "The same grid of scintigrams under heat maps of the classifier's attention.",
            True,
        )
    return drawn


def _codes(predictions: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    return predictions["label"].map({name: c for c, name in enumerate(names)}).to_numpy()


def _score_figures(metrics: Mapping[str, Any], predictions: pd.DataFrame) -> dict[str, Picture]:
    names, overall = list(metrics["classes"]), metrics["overall"]
    probabilities = predictions[[PREFIX + name for name in names]].to_numpy()
    aucs = {name: interval_text(metrics["per_class"][name]["auc"]) for name in names}
    calibration = metrics["calibration"]
    ece = f"ECE {interval_text(calibration['ece'], 3)}\nBrier {interval_text(calibration['brier'], 3)}"
    drawn = {
        "confusion": Picture(
            "Confusion matrix: images, and their share of the true class.",
            figures.confusion_matrix(metrics["confusion"], names),
            "Confusion matrix; recall by class: "
            + ", ".join(f"{name} {interval_text(metrics['per_class'][name]['recall'])}" for name in names),
        ),
        "roc": Picture(
            "ROC curve of each class against the rest.",
            curves.roc_curves(probabilities, _codes(predictions, names), names, aucs),
            "ROC curves; AUC by class: " + ", ".join(f"{name} {text}" for name, text in aucs.items()),
        ),
        "centres": Picture(
            "Scores in each centre. Dashed line and band: all centres together.",
            figures.score_forest(metrics["per_centre"], ("macro_f1", "macro_auc", "balanced_accuracy"), overall),
            "Macro F1 by centre: "
            + ", ".join(f"{name} {interval_text(row['macro_f1'])}" for name, row in metrics["per_centre"].items()),
            True,
        ),
        "reliability": Picture(
            "Reliability: on the dotted line a probability means what it says; below it the classifier is too sure.",
            figures.reliability_diagram(calibration["reliability"], ece),
            "Reliability diagram; " + ece.replace("\n", ", "),
        ),
    }
    if "conformal" in metrics:
        coverage = f"coverage {interval_text(metrics['conformal']['coverage'])}"
        promised = metrics["conformal"]["promised"]
        drawn["sets"] = Picture(
            "Conformal prediction sets: how many classes are left for an image.",
            figures.set_sizes(
                metrics["conformal"]["sizes"], coverage + ("" if promised is None else f"\npromised {promised:.2f}")
            ),
            f"Histogram of the size of the conformal sets; {coverage}.",
        )
    return drawn


def _headline(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    keys = ("macro_f1", "macro_auc", "balanced_accuracy")
    entries = {figures.metric_name(key): metrics["overall"][key] for key in keys}
    entries["calibration error"] = metrics["calibration"]["ece"]
    if "conformal" in metrics:
        entries["coverage of sets"] = metrics["conformal"]["coverage"]
    return headline(entries)


def _tables(metrics: Mapping[str, Any]) -> list[Table]:
    scores = ("precision", "recall", "specificity", "f1", "auc")
    columns = [figures.metric_name(score) for score in scores]
    overall, conformal = metrics["overall"], metrics.get("conformal")
    classes = [
        [name, str(row["support"]), *(interval_text(row[score]) for score in scores)]
        for name, row in metrics["per_class"].items()
    ]
    averages = [
        [f"{kind} average", str(metrics["n"]), *(interval_text(overall[f"{kind}_{score}"]) for score in scores)]
        for kind in ("micro", "macro", "weighted")
    ]
    per_centre = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")
    centres = [
        [name, str(row["n"]), *(interval_text(row[score]) for score in per_centre)]
        + ([interval_text(conformal["per_centre"][name]["coverage"])] if conformal else [])
        for name, row in metrics["per_centre"].items()
    ]
    headings = [figures.metric_name(score) for score in per_centre]
    return [
        Table("By class", ["class", "images", *columns], classes + averages),
        Table("By centre", ["centre", "images", *headings, *(["coverage"] if conformal else [])], centres),
    ]


def _notes(metrics: Mapping[str, Any]) -> list[str]:
    notes = [
        how_measured(metrics["intervals"]),
        f"Macro and weighted averages run over the {metrics['macro_classes']} classes with test images; "
        "specificity is TN / (TN + FP); n/a marks what these images cannot measure.",
    ]
    if "conformal" in metrics:
        notes.append(
            "A conformal set holds the classes that cannot be ruled out. Its promise is for images like those it was "
            "calibrated on; at other cameras only the measured coverage counts."
        )
    return notes
