"""A classifier bundle held in memory: weights are read once, then studies are classified as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from ignite.handlers import ProgressBar
from monai.bundle import ConfigParser
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointLoader

from scintikit.bundles import enter
from scintikit.engines.onnx import can_draw
from scintikit.engines.outputs import Prediction, PredictionWriter
from scintikit.errors import ConfigError, did_you_mean, find_cause

#: What `inference.json` makes once, and what is made anew over the items of each call.
ANEW: dict[str, Any] = {f"{part}#_mode_": "callable" for part in ("dataset", "dataloader", "evaluator")} | {
    "dataset#data": []
}


class Classifier:
    """What a bundle's inference run says of studies, without starting anew for each and without writing files.

    All parts come from the bundle's own `inference.json`. Not for several threads at once.

    Parameters
    ----------
    bundle
        Folder of a bundle whose `inference.json` has a `PredictionWriter` among its handlers.
    device
        Such as "cpu" or "cuda:0"; default the best one at hand.
    runtime
        What runs the network, as the bundle's option `--runtime`.
    pictures
        Draw heat maps; of a network that ONNX runs, only those that need no gradients.
    overrides
        Items of `inference.json` to replace, such as `ckpt_dir` or `batch_size`.

    Attributes
    ----------
    name, version, authors
        From the bundle's `metadata.json`.
    metadata
        All of it.
    model_sha256
        Of the weights.
    class_names
        In the order of the network's outputs.

    Raises
    ------
    ConfigError
        If the folder holds no classifier, an override is unknown, or the model is missing or does not fit.
    """

    def __init__(
        self,
        bundle: str | Path,
        device: str | torch.device | None = None,
        runtime: str = "torch",
        pictures: bool = True,
        **overrides: Any,
    ) -> None:
        root = Path(bundle).expanduser().resolve()
        overrides["bundle_root"] = str(root)
        if device is not None:
            overrides["device#name"] = str(device)
        if runtime != "torch":
            overrides["runtime"] = runtime
        parser = _read(root, overrides)
        enter(root)
        handlers = list(_parse(parser, "handlers", root))
        self._writer = _find_writer(handlers, root)
        self._make_dataset = _parse(parser, "dataset", root)
        self._make_loader = _parse(parser, "dataloader", root)
        self._make_evaluator = _parse(parser, "evaluator", root)
        self._writer.load()
        evaluator = self._make_evaluator(val_data_loader=[], val_handlers=[])
        self._writer.overlay = pictures and can_draw(evaluator.network)
        for handler in (handler for handler in handlers if isinstance(handler, CheckpointLoader)):
            handler(evaluator)
        left_out = (CheckpointLoader, PredictionWriter, ProgressBar)
        self._handlers = [handler for handler in handlers if not isinstance(handler, left_out)]
        self.metadata: dict[str, Any] = parser.get("_meta_")
        self.name, self.version, self.authors = (self.metadata[key] for key in ("name", "version", "authors"))
        self.model_sha256: str = self._writer.calibration["model_sha256"]
        self.class_names = tuple(self._writer.class_names)

    def classify(self, items: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Return what the bundle says of each item, in their order.

        Parameters
        ----------
        items
            As `find_images` or `find_studies` return them: `id`, and under `image` a path or a study's paths. What
            cannot be read has `error` in its content.
        """
        if not items:
            return []
        predictions: list[Prediction] = []

        def judge(engine: SupervisedEvaluator) -> None:
            predictions.extend(self._writer.judge(engine)[0])

        loader = self._make_loader(dataset=self._make_dataset(data=list(items)))
        evaluator = self._make_evaluator(val_data_loader=loader, val_handlers=self._handlers)
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, judge)
        evaluator.run()
        return predictions


def _read(root: Path, overrides: dict[str, Any]) -> ConfigParser:
    """Return the bundle's `inference.json` with the overrides."""
    config, metadata = root / "configs" / "inference.json", root / "configs" / "metadata.json"
    for file in (config, metadata):
        if not file.is_file():
            raise ConfigError(f"{root} is no classifier bundle: there is no {file.relative_to(root)}; give its folder")
    parser = ConfigParser()
    parser.read_config(str(config))
    parser.read_meta(str(metadata))
    for key in overrides:
        if key.partition("#")[0] not in parser:
            raise ConfigError(f"{config} has no item {key!r} to override{did_you_mean(key, parser.get())}")
    if not all(part.partition("#")[0] in parser for part in ANEW):
        raise ConfigError(f"{config} has no dataset, dataloader and evaluator; a classifier's has")
    parser.update(pairs=overrides | ANEW)
    return parser


def _parse(parser: ConfigParser, name: str, root: Path) -> Any:
    try:
        return parser.get_parsed_content(name)
    except Exception as error:  # MONAI wraps what a component raises in a RuntimeError
        cause = find_cause(error)
        raise (cause or ConfigError(f"{root}/configs/inference.json: {name} cannot be made: {error}")) from error


def _find_writer(handlers: Sequence[Any], root: Path) -> PredictionWriter:
    for handler in handlers:
        if isinstance(handler, PredictionWriter):
            return handler
    raise ConfigError(f"{root} is no classifier bundle: none of its handlers writes predictions")
