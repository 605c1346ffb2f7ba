"""Keep the best and the last state of a training, stop it early, resume it exactly."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.engines import Workflow

from scintikit.engines.saving import save_atomic
from scintikit.errors import ConfigError, ScintikitError

logger = logging.getLogger(__name__)


class Checkpoints:
    """Handler of a MONAI trainer that keeps `model.pt` (best) and `last.pt` (to resume from) in a folder.

    MONAI's CheckpointSaver writes in place and forgets on resume which metric was the best so far; this one writes
    atomically and keeps all that decides how the training goes on. `model.pt` is a plain state dict on the CPU.
    Attach it after ValidateEpochs, so that an epoch's metric is there when it looks.

    Parameters
    ----------
    folder
        Where the files go.
    network, optimizer, lr_scheduler
        What is saved.
    evaluator
        The validation engine; its key metric decides what is best, by its `metric_cmp_fn` (MONAI's default: larger).
    patience
        Epochs without a better metric after which the training stops; 0 never stops it.
    resume
        Continue from `last.pt`. Without it, training starts anew and replaces both files.
    average
        A moving average of the weights, if the training keeps one: then `model.pt` holds the average.
    further
        What else learns, by name: an adversary and its optimizer, for instance. Saved in `last.pt` alone.

    Raises
    ------
    ConfigError
        On start, if `resume` is asked for and there is no `last.pt`, or if it belongs to another network, lacks
        something of `further`, or had another number of batches an epoch.
    ScintikitError
        If the key metric is not a number, for instance because validation lacks a class.
    """

    def __init__(
        self,
        folder: str,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        evaluator: Any,
        patience: int = 0,
        resume: bool = False,
        average: EMAHandler | None = None,
        further: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.network = getattr(network, "module", network)  # a DistributedDataParallel wraps the network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.evaluator = evaluator
        self.patience = patience
        self.resume = resume
        self.average = None if average is None else average.ema_model
        self.further = further or {}
        self.best_metric: float | None = None
        self.best_epoch = 0

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._keep)

    def _start(self, engine: Workflow) -> None:
        if not self.resume:
            if (self.folder / "model.pt").exists():
                logger.warning("%s will be replaced", self.folder / "model.pt")
            return
        path = self.folder / "last.pt"
        if not path.is_file():
            raise ConfigError(f"resume: there is no {path}; train without --resume first")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if absent := sorted(self.further.keys() - state.get("further", {}).keys()):
            raise ConfigError(
                f"resume: {path} lacks {', '.join(absent)}, without which the training would not go on as it began: "
                "an older version or another configuration wrote it; train without --resume"
            )
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["lr_scheduler"] | self._schedule())
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            for name, part in self.further.items():
                part.load_state_dict(state["further"][name])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"resume: {path} does not belong to this configuration: {error}") from error
        if state["iteration"] != state["epoch"] * engine.state.epoch_length:
            raise ConfigError(
                f"resume: {path} had {state['iteration'] // state['epoch']} batches an epoch, here there are "
                f"{engine.state.epoch_length}; resume with the dataset and batch_size it was trained with"
            )
        self.best_metric, self.best_epoch = state["best_metric"], state["best_epoch"]
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        logger.info("resumed after epoch %d from %s", state["epoch"], path)
        self._stop_if_stale(engine)

    def _schedule(self) -> dict[str, Any]:
        """Return this run's shape of the schedule: with more epochs, the old one would raise the learning rate anew."""
        own = self.lr_scheduler.state_dict()
        return {name: own[name] for name in ("warmup_steps", "t_total", "end_lr", "cycles") if name in own}

    def _keep(self, engine: Workflow) -> None:
        metric = self._new_metric(engine)
        main_process = engine.state.rank == 0
        if metric is not None and self._is_best(metric):
            self.best_metric, self.best_epoch = metric, engine.state.epoch
            if main_process:
                best = self.network if self.average is None else self.average
                weights = {k: v.cpu().contiguous() for k, v in best.state_dict().items()}
                save_atomic(self.folder / "model.pt", weights)
        if main_process:
            save_atomic(self.folder / "last.pt", self._state(engine))
        self._stop_if_stale(engine)

    def _is_best(self, metric: float) -> bool:
        return self.best_metric is None or self.evaluator.metric_cmp_fn(metric, self.best_metric)

    def _new_metric(self, engine: Workflow) -> float | None:
        name = self.evaluator.state.key_metric_name
        if name is None or self.evaluator.state.epoch != engine.state.epoch:  # no validation in this epoch
            return None
        metric = float(self.evaluator.state.metrics[name])
        if not math.isfinite(metric):
            raise ScintikitError(
                f"validation metric {name} is {metric} in epoch {engine.state.epoch}; each class must occur in the "
                "validation split of the dataset"
            )
        return metric

    def _state(self, engine: Workflow) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "further": {name: part.state_dict() for name, part in self.further.items()},
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best_metric": self.best_metric,
            "best_epoch": self.best_epoch,
        }

    def _stop_if_stale(self, engine: Workflow) -> None:
        if self.patience and self.best_epoch and engine.state.epoch - self.best_epoch >= self.patience:
            logger.info("no better validation metric since epoch %d: training stops", self.best_epoch)
            engine.terminate()
