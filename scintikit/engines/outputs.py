"""Handlers that turn an evaluator's output into the files a user wants."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator

from scintikit import __version__
from scintikit.data import load_dataset
from scintikit.engines.calibration import file_sha256, load_calibration
from scintikit.engines.gradcam import grad_cam
from scintikit.errors import DatasetError
from scintikit.files import write_atomic, write_json
from scintikit.metrics import conformal_sets, evaluate_classifier, ood_score
from scintikit.reporting import classification_report, overlay_png, predictions_table

logger = logging.getLogger(__name__)

NOTICE = "Research use only; not a medical device."


class EvaluationReport:
    """Write `metrics.json`, `predictions.csv`, figures and `report.html` when an evaluation is complete.

    Attach it after `CaptureFeatures`; the evaluator's postprocessing must leave probabilities in `pred` and a one-hot
    `label`.

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
    cam_layer
        Layer for the Grad-CAM pictures in the report, for instance `layer3`.
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
        cam_layer: str,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.dataset_dir = dataset_dir
        self.split = split
        self.settings = settings
        self.class_names: list[str] = settings["class_names"]
        self.ckpt_dir = ckpt_dir
        self.cam_layer = cam_layer
        self.bootstrap = bootstrap
        self.seed = seed

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
        self.items += [{key: item[key] for key in ("id", "patient", "centre")} for item in engine.state.batch]
        self.outputs += [{key: output[key].float().cpu() for key in output} for output in outputs]
        images = torch.stack([output["image"] for output in outputs])
        predicted = torch.stack([output["pred"] for output in outputs]).argmax(dim=1)
        self.heat.append(grad_cam(engine.network, self.cam_layer, images, predicted).numpy())

    def _finish(self, engine: SupervisedEvaluator) -> None:
        images, probabilities, labels, features = (
            torch.stack([output[key] for output in self.outputs]).numpy()
            for key in ("image", "pred", "label", "features")
        )
        truth, patients, centres = labels.argmax(axis=1), self._column("patient"), self._column("centre")
        threshold = self.calibration["conformal_threshold"]
        metrics = evaluate_classifier(
            probabilities,
            truth,
            patients,
            centres,
            self.class_names,
            conformal_threshold=threshold,
            conformal_alpha=self.calibration["alpha"],
            bootstrap=self.bootstrap,
            seed=self.seed,
        )
        table = predictions_table(
            self._column("id"),
            probabilities,
            self.class_names,
            labels=truth,
            centres=centres,
            sets=conformal_sets(probabilities, threshold),
            ood_scores=ood_score(features, self.calibration["ood"]),
        )
        dataset = load_dataset(self.dataset_dir)
        provenance = {
            "dataset": dataset.name,
            "dataset_sha256": dataset.sha256,
            "split": self.split,
            "checkpoint_sha256": file_sha256(Path(self.ckpt_dir) / "model.pt"),
            "scintikit": __version__,
        }
        known = {item["centre"] for item in dataset.splits["training"]}
        simulated = any(item["origin"]["kind"] == "simulated" for item in dataset.splits[self.split])
        write_json(self.output_dir / "metrics.json", {"provenance": provenance, **metrics})
        write_atomic(self.output_dir / "predictions.csv", _csv(table))
        report = classification_report(
            self.output_dir,
            metrics,
            table,
            images[:, 0],
            np.concatenate(self.heat),
            provenance,
            title=f"{dataset.name}: {self.split} on {'known' if known & set(centres) else 'unseen'} centres",
            warning=f"{'Simulated data. ' if simulated else ''}{NOTICE}",
        )
        logger.info("wrote %s", report)

    def _column(self, key: str) -> list[str]:
        return [item[key] for item in self.items]


class WritePredictions:
    """Write one JSON for each image of an inference run as batches come in, and `predictions.csv` at the end.

    Attach it after `CaptureFeatures`. The dataset must be a `TolerantDataset`: images that could not be read are
    reported in the same files, under `error`.

    Parameters
    ----------
    output_dir
        Where the files go: `predictions.csv`, `images/<id>.json` and, with `gradcam`, `images/<id>.png`. An id is
        a path, so these files lie in the same subfolders as the images.
    settings
        `class_names`, and what else must be as it was in training.
    ckpt_dir
        Folder of `model.pt` and `calibration.pt`.
    cam_layer
        Layer for Grad-CAM.
    gradcam
        Draw an overlay for each image.

    Raises
    ------
    DatasetError
        At the end, if not one image could be read; the reasons are in `predictions.csv`.
    """

    def __init__(
        self, output_dir: str, settings: dict[str, Any], ckpt_dir: str, cam_layer: str, gradcam: bool = False
    ) -> None:
        self.output_dir = Path(output_dir)
        self.settings = settings
        self.class_names: list[str] = settings["class_names"]
        self.ckpt_dir = ckpt_dir
        self.cam_layer = cam_layer
        self.gradcam = gradcam

    def attach(self, engine: SupervisedEvaluator) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write_batch)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: SupervisedEvaluator) -> None:
        self.calibration = load_calibration(self.ckpt_dir, self.settings)
        self.tables: list[pd.DataFrame] = []

    def _write_batch(self, engine: SupervisedEvaluator) -> None:
        pairs = list(zip(engine.state.batch, engine.state.output, strict=True))
        unreadable = [{"id": item["id"], "error": item["error"]} for item, _ in pairs if item["error"]]
        readable = [(item["id"], output) for item, output in pairs if not item["error"]]
        for record in unreadable:
            self._write_json(record["id"], {"error": record["error"]})
        if unreadable:
            self.tables.append(pd.DataFrame(unreadable))
        if readable:
            self.tables.append(self._predict(readable))
            for row in self.tables[-1].to_dict("records"):
                self._write_json(str(row["id"]), self._content(row))
            if self.gradcam:
                self._draw(engine, readable)

    def _predict(self, readable: list[tuple[str, dict[str, torch.Tensor]]]) -> pd.DataFrame:
        probabilities, features = (
            torch.stack([output[key].float().cpu() for _, output in readable]).numpy() for key in ("pred", "features")
        )
        table = predictions_table(
            [identifier for identifier, _ in readable],
            probabilities,
            self.class_names,
            sets=conformal_sets(probabilities, self.calibration["conformal_threshold"]),
            ood_scores=ood_score(features, self.calibration["ood"]),
        )
        table["unlike_training_data"] = table["ood_score"] > self.calibration["ood"]["threshold"]
        return table

    def _content(self, record: Mapping[Hashable, Any]) -> dict[str, Any]:
        content = {
            "prediction": record["prediction"],
            "probabilities": {name: round(record[f"p_{name}"], 6) for name in self.class_names},
            "conformal_set": record["set"].split(" | "),
            "conformal_coverage": 1 - self.calibration["alpha"],
            "ood_score": round(record["ood_score"], 6),
            "unlike_training_data": record["unlike_training_data"],
        }
        if record["unlike_training_data"]:
            content["warning"] = "The image does not look like the training data: do not rely on the prediction."
        return content

    def _write_json(self, identifier: str, content: dict[str, Any]) -> None:
        model = {"model_sha256": self.calibration["model_sha256"]}
        write_json(self._path(identifier, ".json"), {"image": identifier} | content | model | {"notice": NOTICE})

    def _draw(self, engine: SupervisedEvaluator, readable: list[tuple[str, dict[str, torch.Tensor]]]) -> None:
        images = torch.stack([output["image"] for _, output in readable])
        predicted = torch.stack([output["pred"] for _, output in readable]).argmax(dim=1)
        heat = grad_cam(engine.network, self.cam_layer, images, predicted).numpy()
        for (identifier, _), image, shown in zip(readable, images.float().cpu().numpy(), heat, strict=True):
            write_atomic(self._path(identifier, ".png"), overlay_png(image[0], shown))

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


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, float_format="%.6f").encode()
