"""Handlers for networks that say of each disease by itself whether it is present."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.engines import SupervisedEvaluator
from monai.networks.utils import eval_mode

from scintikit.data import UNKNOWN
from scintikit.data.contract import NORMAL
from scintikit.engines.outputs import PredictionWriter, Readable, ReportHandler
from scintikit.errors import ConfigError
from scintikit.metrics import evaluate_diseases, evaluate_localisation, ood_score
from scintikit.metrics.diseases import SEPARATOR
from scintikit.metrics.localisation import TOLERANCE_MM
from scintikit.reporting import diseases_report, diseases_table, enlarge, overlay_png, side_by_side


class DiseaseReport(ReportHandler):
    """Report of a network with one probability per disease.

    The evaluator's postprocessing must leave probabilities `(D,)` in `pred` and 0 or 1 for each disease in `label`. If
    the items have a `mask` (class index + 1 where a lesion is, on the image's grid) and the network has heat maps, how
    well these find the lesions is measured as well, under `localisation` in `metrics.json`.

    Parameters
    ----------
    spacing_mm
        Of the images' pixels.
    tolerance_mm
        How far from a lesion a maximum of the heat map may lie and hit it.
    others
        As for `ReportHandler`; the calibration must have `thresholds`.
    """

    def __init__(self, *, spacing_mm: float, tolerance_mm: float = TOLERANCE_MM, **others: Any) -> None:
        super().__init__(**others)
        self.spacing_mm = spacing_mm
        self.tolerance_mm = tolerance_mm

    def draw_heat(self, engine: SupervisedEvaluator, images: torch.Tensor, pred: torch.Tensor) -> np.ndarray | None:
        """Return the network's own maps `(B, D, V, h, w)`, or None if it has none."""
        return heat_maps(engine.network, images)

    def measure(self, outputs: dict[str, np.ndarray]) -> tuple[dict[str, Any], pd.DataFrame]:
        """Return scores of every disease and of the heat maps."""
        groups = self.column("patient"), self.column("centre"), self.class_names
        options: dict[str, Any] = {"bootstrap": self.bootstrap, "seed": self.seed}
        thresholds = self.calibration["thresholds"]
        metrics = evaluate_diseases(outputs["pred"], outputs["label"], thresholds, *groups, normal=NORMAL, **options)
        heat, masks = self._maps()
        if heat is not None and masks is not None:
            metrics["localisation"] = evaluate_localisation(
                heat, masks, *groups, spacing_mm=self.spacing_mm, tolerance_mm=self.tolerance_mm, **options
            )
        table = diseases_table(
            self.column("id"),
            outputs["pred"],
            self.class_names,
            thresholds,
            normal=NORMAL,
            labels=outputs["label"],
            centres=self.column("centre"),
            ood_scores=ood_score(outputs["features"], self.calibration["ood"]),
        )
        return metrics, table

    def draw(self, metrics: dict[str, Any], table: pd.DataFrame, images: np.ndarray, **page: Any) -> Path:
        """Write the report of several diseases."""
        heat, masks = self._maps()
        return diseases_report(self.output_dir, metrics, table, images, heat, masks, **page)

    def _maps(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        masks = self.column("mask")
        return (
            np.concatenate(self.heat) if self.heat else None,
            None if any(_unknown(mask) for mask in masks) else np.stack([np.asarray(mask) for mask in masks]),
        )


class WriteDiseases(PredictionWriter):
    """Write which diseases a network with one probability per disease calls.

    An item with a text under `warning`, such as that only one view was given, carries it into its JSON and its row.

    Parameters
    ----------
    heat
        Draw the network's heat map of each disease over each image.
    others
        As for `PredictionWriter`; the calibration must have `thresholds`.

    Raises
    ------
    ConfigError
        Heat maps are asked of a network that has none.
    """

    def __init__(self, *, heat: bool = False, **others: Any) -> None:
        super().__init__(overlay=heat, **others)

    def tabulate(self, readable: Readable, probabilities: np.ndarray, ood_scores: np.ndarray) -> pd.DataFrame:
        """Return the table of calls, with warnings."""
        items = [item for item, _ in readable]
        table = diseases_table(
            [item["id"] for item in items],
            probabilities,
            self.class_names,
            self.calibration["thresholds"],
            normal=NORMAL,
            ood_scores=ood_scores,
        )
        return table.assign(warning=[item.get("warning", "") for item in items])

    def describe(self, row: Mapping[Hashable, Any]) -> dict[str, Any]:
        """Return the diseases called, probabilities and thresholds."""
        thresholds = zip(self.class_names, self.calibration["thresholds"], strict=True)
        return {
            "called": [] if row["called"] == NORMAL else row["called"].split(SEPARATOR),
            "probabilities": {name: round(row[f"p_{name}"], 6) for name in self.class_names},
            "thresholds": {name: round(threshold, 6) for name, threshold in thresholds},
        }

    def draw(self, engine: SupervisedEvaluator, images: torch.Tensor, pred: torch.Tensor) -> Iterable[bytes]:
        """Return the views that were acquired side by side, then under the heat map of each disease."""
        heat = heat_maps(engine.network, images)
        if heat is None:
            raise ConfigError(f"{type(engine.network).__name__} has no heat maps to draw; leave out --heat")
        scans, maps = images.float().cpu().numpy(), enlarge(heat, images.shape[-2:])
        for views, strengths, probabilities in zip(scans, maps, pred.float().cpu().numpy(), strict=True):
            titles = [f"{name} {p:.2f}" for name, p in zip(self.class_names, probabilities, strict=True)]
            there = views.any(axis=(1, 2))  # a view that was not acquired is 0
            picture, heat_map = side_by_side(views[there]), side_by_side(strengths[:, there])
            yield overlay_png(picture, heat_map, 2, field="inverted", titles=["scintigram", *titles])


def _unknown(mask: torch.Tensor | None) -> bool:
    return mask is None or bool((torch.as_tensor(mask) == UNKNOWN).any())


def heat_maps(network: torch.nn.Module, images: torch.Tensor) -> np.ndarray | None:
    """Return the network's heat maps `(B, D, V, h, w)` for images `(B, V, H, W)`, or None if it has none."""
    maps = getattr(getattr(network, "module", network), "heat_maps", None)
    if maps is None:
        return None
    with eval_mode(network):  # the evaluator leaves it in training mode, in which batch statistics would drift
        return maps(images).float().cpu().numpy()
