"""Handlers that turn an evaluator's output into the files a user wants."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator

from scintikit import __version__
from scintikit.data import load_dataset
from scintikit.engines.calibration import load_calibration
from scintikit.engines.gradcam import grad_cam
from scintikit.errors import DatasetError
from scintikit.files import file_sha256, write_atomic, write_json
from scintikit.metrics import conformal_sets, evaluate_classifier, ood_score
from scintikit.reporting import classification_report, overlay_png, predictions_table

logger = logging.getLogger(__name__)

NOTICE = "Research use only; not a medical device."
UNLIKE = "The image does not look like the training data: do not rely on the prediction."
KEPT = ("image", "pred", "label", "features")  # of an evaluator's output

Readable = list[tuple[dict[str, Any], dict[str, torch.Tensor]]]
"""Items that could be read, and what the evaluator made of them."""


@dataclass(frozen=True)
class Prediction:
    """What is said of one item.

    Attributes
    ----------
    id
        Of the item.
    content
        What its JSON file holds.
    picture
        PNG of the scintigram under heat maps; None if none was asked for or the item could not be read.
    """

    id: str
    content: dict[str, Any]
    picture: bytes | None = None


class ReportHandler(ABC):
    """Collect what an evaluation gives; write `predictions.csv`, figures, `report.html` and `metrics.json` at its end.

    `metrics.json` is there only when all of them are. Attach the handler after `CaptureFeatures`. What is measured and
    drawn is up to the class derived from it.

    Parameters
    ----------
    output_dir
        Where the files go.
    dataset_dir, split
        What was evaluated; their hash and name stand in the metrics.
    settings
        `class_names`, and what else must be as it was in training.
    ckpt_dir
        Folder of `model.pt` and `calibration.pt`.
    bootstrap, seed
        Number of resamples behind the 95 % intervals, and their seed.
    """

    def __init__(
        self,
        output_dir: str,
        dataset_dir: str,
        split: str,
        settings: dict[str, Any],
        ckpt_dir: str,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.dataset_dir = dataset_dir
        self.split = split
        self.settings = settings
        self.class_names: list[str] = settings["class_names"]
        self.ckpt_dir = ckpt_dir
        self.bootstrap = bootstrap
        self.seed = seed

    @abstractmethod
    def draw_heat(self, engine: SupervisedEvaluator, images: torch.Tensor, pred: torch.Tensor) -> np.ndarray | None:
        """Return heat maps for a batch of images `(B, C, H, W)` and what was predicted, or None."""

    @abstractmethod
    def measure(self, outputs: dict[str, np.ndarray]) -> tuple[dict[str, Any], pd.DataFrame]:
        """Return the metrics and the table of predictions; the outputs are stacked under the names `KEPT`."""

    @abstractmethod
    def draw(self, metrics: dict[str, Any], table: pd.DataFrame, images: np.ndarray, **page: Any) -> Path:
        """Write figures and report; `page` has `provenance`, `title` and `warning`."""

    def attach(self, engine: SupervisedEvaluator) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: SupervisedEvaluator) -> None:
        self.calibration = load_calibration(self.ckpt_dir, self.settings)  # before the work, not after it
        self.items: list[dict[str, Any]] = []
        self.outputs: list[dict[str, torch.Tensor]] = []
        self.heat: list[np.ndarray] = []

    def _collect(self, engine: SupervisedEvaluator) -> None:
        outputs = engine.state.output
        self.items += [
            {key: item[key] for key in ("id", "patient", "centre")} | {"mask": item.get("mask")}
            for item in engine.state.batch
        ]
        self.outputs += [{key: output[key].float().cpu() for key in KEPT} for output in outputs]
        images, pred = (torch.stack([output[key] for output in outputs]) for key in ("image", "pred"))
        heat = self.draw_heat(engine, images, pred)
        self.heat += [] if heat is None else [heat]

    def _finish(self, engine: SupervisedEvaluator) -> None:
        outputs = {key: torch.stack([output[key] for output in self.outputs]).numpy() for key in KEPT}
        metrics, table = self.measure(outputs)
        dataset = load_dataset(self.dataset_dir)
        provenance = {
            "dataset": dataset.name,
            "dataset_sha256": dataset.sha256,
            "split": self.split,
            "checkpoint_sha256": file_sha256(Path(self.ckpt_dir) / "model.pt"),
            "scintikit": __version__,
        }
        known = {item["centre"] for item in dataset.splits["training"]} & set(self.column("centre"))
        simulated = any(item["origin"]["kind"] == "simulated" for item in dataset.splits[self.split])
        done = self.output_dir / "metrics.json"
        done.unlink(missing_ok=True)  # of an evaluation before, whose other files are replaced now
        write_atomic(self.output_dir / "predictions.csv", _csv(table))
        report = self.draw(
            metrics,
            table,
            outputs["image"],
            provenance=provenance,
            title=f"{dataset.name}: {self.split} on {'known' if known else 'unseen'} centres",
            warning=f"{'Simulated data. ' if simulated else ''}{NOTICE}",
        )
        write_json(done, {"provenance": provenance, **metrics})
        logger.info("wrote %s", report)

    def column(self, key: str) -> list[Any]:
        """Return what all items have under `id`, `patient`, `centre` or `mask`."""
        return [item[key] for item in self.items]


class EvaluationReport(ReportHandler):
    """Report of a classifier with one class per image.

    The evaluator's postprocessing must leave probabilities in `pred` and a one-hot `label`.

    Parameters
    ----------
    cam_layer
        Layer for the Grad-CAM pictures in the report, for instance `layer3`.
    others
        As for `ReportHandler`.
    """

    def __init__(self, *, cam_layer: str, **others: Any) -> None:
        super().__init__(**others)
        self.cam_layer = cam_layer

    def draw_heat(self, engine: SupervisedEvaluator, images: torch.Tensor, pred: torch.Tensor) -> np.ndarray:
        """Return Grad-CAM of the predicted class."""
        return grad_cam(engine.network, self.cam_layer, images, pred.argmax(dim=1)).numpy()

    def measure(self, outputs: dict[str, np.ndarray]) -> tuple[dict[str, Any], pd.DataFrame]:
        """Return scores and conformal sets."""
        probabilities, truth = outputs["pred"], outputs["label"].argmax(axis=1)
        threshold = self.calibration["conformal_threshold"]
        metrics = evaluate_classifier(
            probabilities,
            truth,
            self.column("patient"),
            self.column("centre"),
            self.class_names,
            conformal_threshold=threshold,
            conformal_alpha=self.calibration["alpha"],
            bootstrap=self.bootstrap,
            seed=self.seed,
        )
        table = predictions_table(
            self.column("id"),
            probabilities,
            self.class_names,
            labels=truth,
            centres=self.column("centre"),
            sets=conformal_sets(probabilities, threshold),
            ood_scores=ood_score(outputs["features"], self.calibration["ood"]),
        )
        return metrics, table

    def draw(self, metrics: dict[str, Any], table: pd.DataFrame, images: np.ndarray, **page: Any) -> Path:
        """Write the report of a classification."""
        return classification_report(self.output_dir, metrics, table, images[:, 0], np.concatenate(self.heat), **page)


class PredictionWriter(ABC):
    """Write one JSON for each image of an inference run as batches come in, and `predictions.csv` at the end.

    Attach it after `CaptureFeatures`. The dataset must be a `TolerantDataset`: images that could not be read are
    reported in the same files, under `error`. What is told of an image is up to the class derived from it.

    Parameters
    ----------
    output_dir
        Where the files go: `predictions.csv`, `images/<id>.json` and, with `overlay`, `images/<id>.png`. An id is
        a path, so these files lie in the same subfolders as the images.
    settings
        `class_names`, and what else must be as it was in training.
    ckpt_dir
        Folder of `model.pt` and `calibration.pt`.
    overlay
        Draw heat maps over each image.

    Raises
    ------
    DatasetError
        At the end, if not one image could be read; the reasons are in `predictions.csv`.
    """

    def __init__(self, output_dir: str, settings: dict[str, Any], ckpt_dir: str, overlay: bool = False) -> None:
        self.output_dir = Path(output_dir)
        self.settings = settings
        self.class_names: list[str] = settings["class_names"]
        self.ckpt_dir = ckpt_dir
        self.overlay = overlay

    @abstractmethod
    def tabulate(self, readable: Readable, probabilities: np.ndarray, ood_scores: np.ndarray) -> pd.DataFrame:
        """Return one row per image, with `ood_score`."""

    @abstractmethod
    def describe(self, row: Mapping[Hashable, Any]) -> dict[str, Any]:
        """Return what the JSON of an image says of a row of the table."""

    @abstractmethod
    def draw(self, engine: SupervisedEvaluator, images: torch.Tensor, pred: torch.Tensor) -> Iterable[bytes]:
        """Return a PNG for each image of a batch `(B, C, H, W)`."""

    def attach(self, engine: SupervisedEvaluator) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write_batch)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def load(self) -> None:
        """Read the calibration, without which nothing can be said."""
        self.calibration = load_calibration(self.ckpt_dir, self.settings)

    def judge(self, engine: SupervisedEvaluator) -> tuple[list[Prediction], list[pd.DataFrame]]:
        """Return what is said of the batch that the evaluator has just run: of each item in its order, and as tables.

        `load` must have been called before.
        """
        pairs = list(zip(engine.state.batch, engine.state.output, strict=True))
        unreadable = [{"id": item["id"], "error": item["error"]} for item, _ in pairs if item["error"]]
        readable = [(item, output) for item, output in pairs if not item["error"]]
        tables = [pd.DataFrame(unreadable)] if unreadable else []
        said: Iterator[Prediction] = iter(())
        if readable:
            tables.append(self._tabulate(readable))
            rows = tables[-1].to_dict("records")
            pictures = self._pictures(engine, readable) if self.overlay else [None] * len(rows)
            said = (self._said(str(row["id"]), self._content(row), p) for row, p in zip(rows, pictures, strict=True))
        failed = (self._said(record["id"], {"error": record["error"]}) for record in unreadable)
        return [next(failed if item["error"] else said) for item, _ in pairs], tables

    def _said(self, identifier: str, content: dict[str, Any], picture: bytes | None = None) -> Prediction:
        model = {"model_sha256": self.calibration["model_sha256"]}
        return Prediction(identifier, {"image": identifier} | content | model | {"notice": NOTICE}, picture)

    def _tabulate(self, readable: Readable) -> pd.DataFrame:
        probabilities, features = (
            torch.stack([output[key].float().cpu() for _, output in readable]).numpy() for key in ("pred", "features")
        )
        table = self.tabulate(readable, probabilities, ood_score(features, self.calibration["ood"]))
        table["unlike_training_data"] = table["ood_score"] > self.calibration["ood"]["threshold"]
        return table

    def _content(self, row: Mapping[Hashable, Any]) -> dict[str, Any]:
        content = self.describe(row) | {
            "ood_score": round(row["ood_score"], 6),
            "unlike_training_data": row["unlike_training_data"],
        }
        warnings = [row.get("warning"), UNLIKE if row["unlike_training_data"] else ""]
        return content | ({"warning": " ".join(filter(None, warnings))} if any(warnings) else {})

    def _pictures(self, engine: SupervisedEvaluator, readable: Readable) -> Iterable[bytes]:
        images, pred = (torch.stack([output[key] for _, output in readable]) for key in ("image", "pred"))
        return self.draw(engine, images, pred)

    def _start(self, engine: SupervisedEvaluator) -> None:
        self.load()
        self.tables: list[pd.DataFrame] = []

    def _write_batch(self, engine: SupervisedEvaluator) -> None:
        predictions, tables = self.judge(engine)
        self.tables += tables
        for prediction in predictions:
            write_json(self._path(prediction.id, ".json"), prediction.content)
            if prediction.picture is not None:
                write_atomic(self._path(prediction.id, ".png"), prediction.picture)

    def _path(self, identifier: str, suffix: str) -> Path:
        return self.output_dir / "images" / (identifier + suffix)

    def _finish(self, engine: SupervisedEvaluator) -> None:
        table = pd.concat(self.tables, ignore_index=True)
        # The same columns whether the first, another or no image could not be read.
        table = table.reindex(columns=[*table.columns.drop("error", errors="ignore"), "error"])
        path = self.output_dir / "predictions.csv"
        write_atomic(path, _csv(table))
        errors = table["error"].dropna()
        logger.info("read %d of %d images; wrote %s", len(table) - len(errors), len(table), path)
        for error in errors.head(10):
            logger.warning("not read: %s", error)
        if len(errors) == len(table):
            raise DatasetError(f"none of the {len(table)} files could be read; the reasons are in {path}")


class WritePredictions(PredictionWriter):
    """Write what a classifier with one class per image says, with its conformal set.

    Parameters
    ----------
    cam_layer
        Layer for Grad-CAM.
    gradcam
        Draw Grad-CAM over each image.
    others
        As for `PredictionWriter`.
    """

    def __init__(self, *, cam_layer: str, gradcam: bool = False, **others: Any) -> None:
        super().__init__(overlay=gradcam, **others)
        self.cam_layer = cam_layer

    def _start(self, engine: SupervisedEvaluator) -> None:
        super()._start(engine)
        if self.overlay:  # a network without that layer is an error before the work, not after the first batch
            engine.network.get_submodule(self.cam_layer)

    def tabulate(self, readable: Readable, probabilities: np.ndarray, ood_scores: np.ndarray) -> pd.DataFrame:
        """Return the table with conformal sets."""
        return predictions_table(
            [item["id"] for item, _ in readable],
            probabilities,
            self.class_names,
            sets=conformal_sets(probabilities, self.calibration["conformal_threshold"]),
            ood_scores=ood_scores,
        )

    def describe(self, row: Mapping[Hashable, Any]) -> dict[str, Any]:
        """Return prediction, probabilities and conformal set."""
        return {
            "prediction": row["prediction"],
            "probabilities": {name: round(row[f"p_{name}"], 6) for name in self.class_names},
            "conformal_set": row["set"].split(" | "),
            "conformal_coverage": 1 - self.calibration["alpha"],
        }

    def draw(self, engine: SupervisedEvaluator, images: torch.Tensor, pred: torch.Tensor) -> Iterable[bytes]:
        """Return the images beside themselves under Grad-CAM of the predicted class."""
        heat = grad_cam(engine.network, self.cam_layer, images, pred.argmax(dim=1)).numpy()
        return map(overlay_png, images[:, 0].float().cpu().numpy(), heat)


def _csv(table: pd.DataFrame) -> bytes:
    # All digits: thresholds are probabilities themselves, and who reads the table compares the two.
    return table.to_csv(index=False).encode()
