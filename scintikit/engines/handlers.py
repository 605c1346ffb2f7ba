"""Small handlers for MONAI's engines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.engines import Evaluator, IterationEvents, Workflow
from monai.handlers import ValidationHandler
from tqdm import tqdm

from scintikit.data.augmentation import mix_seed
from scintikit.errors import ConfigError, ScintikitError

logger = logging.getLogger(__name__)


def check_interval(interval: int) -> None:
    """Raise `ConfigError` if something cannot be done every so many epochs."""
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
        raise ConfigError(f"an interval is {interval!r}; expected a whole number of epochs, at least 1")


class SeedEpoch:
    """Reseed torch, for dropout, and an augmentation when an epoch starts, from (seed, epoch, rank) alone.

    A training that is killed and resumed then draws the same random numbers as one that was never stopped. With an
    epoch length other than the loader's, each epoch begins a new round of the data for the same reason: Ignite would
    go on where the last one ended.

    Parameters
    ----------
    augmentation
        Anything with `reseed(*numbers)`, or None.
    seed
        The training's seed.
    fixed
        Draw the same numbers in every epoch, so that a validation loss changes with the weights alone.
    """

    def __init__(self, augmentation: Any, seed: int = 0, fixed: bool = False) -> None:
        self.augmentation = augmentation
        self.seed = seed
        self.fixed = fixed

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Reseed."""
        numbers = (self.seed, 0 if self.fixed else engine.state.epoch, engine.state.rank)
        torch.manual_seed(mix_seed(*numbers, 2))  # other numbers than the augmentation draws
        if self.augmentation is not None:
            self.augmentation.reseed(*numbers)
        if engine.state.epoch_length != len(engine.state.dataloader):
            engine.set_data(engine.state.dataloader)


class WeightAverage(EMAHandler):
    """Ignite's moving average of the weights, with a start that needs no setting: the first states soon fade.

    The average follows the weights with momentum max(momentum, 9 / (10 + iteration)), which depends on the iteration
    alone, so a resumed training goes on exactly.
    """

    def _update_ema_model(self, engine: Engine, name: str) -> None:
        setattr(engine.state, name, max(self.momentum, 9 / (10 + engine.state.iteration)))
        super()._update_ema_model(engine, name)


class StopOnNonFiniteLoss:
    """Stop a training before a loss that is not finite reaches the weights, and name the items of its batch."""

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Raise `ScintikitError` if the loss is not finite."""
        loss = engine.state.output["loss"]
        if not torch.isfinite(loss):
            raise ScintikitError(
                f"the loss is {loss.item()} in epoch {engine.state.epoch}, iteration {engine.state.iteration}; items "
                f"of the batch: {list(engine.state.batch['id'])}. Look at these images, or lower learning_rate"
            )


class ValidateEpochs(ValidationHandler):
    """MONAI's ValidationHandler, also in the last epoch, whatever the interval.

    Otherwise a training whose `max_epochs` is no multiple of the interval leaves its last epochs out of `model.pt`, and
    one of fewer epochs than the interval leaves no `model.pt` at all.

    Parameters
    ----------
    validator
        The validation engine.
    interval
        Every how many epochs.
    """

    def __init__(self, validator: Evaluator, interval: int = 1) -> None:
        check_interval(interval)
        super().__init__(interval=interval, validator=validator)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Validate if it is time."""
        epoch = engine.state.epoch
        if epoch % self.interval == 0 or epoch == engine.state.max_epochs:
            super().__call__(engine)


class ClipGradients:
    """Shorten the gradients right before a step of the optimizer: after accumulation, and after fp16's scale is undone.

    Parameters
    ----------
    optimizer
        Whose gradients.
    max_norm
        Of all gradients together.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        self.optimizer = optimizer
        self.max_norm = max_norm

    def attach(self, engine: Workflow) -> None:
        """Register with the optimizer; no event of the trainer tells which of its iterations takes a step."""
        self.optimizer.register_step_pre_hook(self)

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Clip."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, self.max_norm)


class TellMetrics:
    """Log at the end of an evaluation what it measured, and where MONAI's MetricsSaver wrote it.

    Parameters
    ----------
    output_dir
        Folder of the MetricsSaver.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = output_dir

    def attach(self, engine: Workflow) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Log file and values."""
        values = ", ".join(f"{name} {value:.5g}" for name, value in engine.state.metrics.items())
        logger.info("wrote %s: %s", Path(self.output_dir) / "metrics.csv", values)


class CaptureFeatures:
    """Add the input of one layer, such as the features `(B, D)` before the classifier, to an evaluator's output.

    Parameters
    ----------
    network
        The network the evaluator runs.
    layer
        Name of the layer whose input is wanted, for instance `fc`.
    """

    def __init__(self, network: torch.nn.Module, layer: str) -> None:
        self.features: torch.Tensor | None = None
        module = getattr(network, "module", network).get_submodule(layer)
        module.register_forward_pre_hook(self._remember)

    def _remember(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.features = inputs[0].detach().float()

    def attach(self, engine: Workflow) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Put the features into `engine.state.output["features"]`."""
        engine.state.output["features"] = self.features


def side_by_side(pictures: torch.Tensor) -> torch.Tensor:
    """Return pictures `(B, views, H, W)` as `(B, 1, H, views * W)`, which TensorBoard can show."""
    return torch.cat(pictures.split(1, dim=1), dim=-1)


class TensorBoardImages:
    """Show the first images of an epoch's first batch, as the network gets them or makes them, in TensorBoard.

    Parameters
    ----------
    writer
        A TensorBoard SummaryWriter, shared with the other handlers.
    tag
        Name of the panel.
    count
        How many images.
    interval
        Every how many epochs.
    keys
        Of the trainer's output; pictures under several keys are shown in pairs, and so are views.
    """

    def __init__(
        self,
        writer: Any,
        tag: str = "train/images",
        count: int = 16,
        interval: int = 5,
        keys: Sequence[str] = ("image",),
    ) -> None:
        check_interval(interval)
        self.writer = writer
        self.tag = tag
        self.count = count
        self.interval = interval
        self.keys = keys

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Write the images of the first batch of every `interval`-th epoch."""
        first_of_epoch = (engine.state.iteration - 1) % engine.state.epoch_length == 0
        if first_of_epoch and (engine.state.epoch - 1) % self.interval == 0:
            shown = torch.stack([engine.state.output[key][: self.count] for key in self.keys], dim=1).flatten(0, 1)
            images = shown.float().clamp(0, 1).cpu()
            self.writer.add_images(self.tag, side_by_side(images), engine.state.epoch)


class EpochProgress:
    """One progress bar over a whole training: epoch, losses, validation metric and the time left.

    Parameters
    ----------
    evaluator
        The validation engine, whose key metric is shown; None for a training without validation.
    keys
        Of the losses in the trainer's output.
    """

    def __init__(self, evaluator: Any = None, keys: Sequence[str] = ("loss",)) -> None:
        self.evaluator = evaluator
        self.keys = tuple(keys)
        self.bar: Any = None

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        for event in (Events.COMPLETED, Events.TERMINATE, Events.EXCEPTION_RAISED):
            engine.add_event_handler(event, self._close)

    def _open(self, engine: Workflow) -> None:
        state = engine.state
        self.bar = tqdm(
            total=state.max_epochs * state.epoch_length,
            initial=state.iteration,
            unit="batch",
            desc="training",
            mininterval=0.5 if sys.stderr.isatty() else 20,  # a log file need not hold every step
        )

    def _step(self, engine: Workflow) -> None:
        state = engine.state
        shown = {"epoch": f"{state.epoch}/{state.max_epochs}"}
        shown |= {key: f"{torch.as_tensor(state.output[key]).item():.3f}" for key in self.keys}
        validation = None if self.evaluator is None else self.evaluator.state
        if validation is not None and validation.best_metric_epoch > 0:
            shown[f"best {validation.key_metric_name}"] = f"{validation.best_metric:.3f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def _close(self, engine: Workflow, error: BaseException | None = None) -> None:
        if self.bar is not None:  # else another handler failed before this one began
            self.bar.close()
        if error is not None:
            raise error
