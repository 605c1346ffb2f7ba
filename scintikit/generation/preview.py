"""How a generator in training is doing: samples and their distance from real scintigrams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.engines import Workflow
from torch.utils.data import default_collate

from scintikit.engines.handlers import check_interval, side_by_side
from scintikit.generation.counts import stabilise, unstabilise
from scintikit.generation.flow import batch_labels
from scintikit.generation.sampler import Sampler
from scintikit.generation.statistics import label_key
from scintikit.generation.text import Tokenizer
from scintikit.metrics.features import random_features
from scintikit.metrics.fidelity import kid

BATCH = 32


class PreviewSamples:
    """Draw scintigrams for the labels, prompts and masks of held-out patients; show them in TensorBoard, with a KID.

    The grid shows real scintigrams and, below each, the one drawn for its class, mask and count level, from the same
    noise each time. KID is measured on features of a random network, which is always at hand, and its expectation is 0
    for a perfect generator; values are to be compared with each other, not with those of `tools fidelity`.

    Parameters
    ----------
    writer
        A TensorBoard SummaryWriter, shared with the other handlers.
    network
        Flow or denoiser, usually the moving average.
    dataset
        Preprocessed items; some spread over it are used.
    sampler
        How pictures are drawn.
    interval
        Every how many epochs; the last epoch counts always.
    count
        Pictures behind the KID.
    shown
        Pictures in the grid.
    tokenizer
        For the prompts of a model that has them.
    noise_shape
        Of one picture's noise; None: that of the picture.
    """

    def __init__(
        self,
        writer: Any,
        network: torch.nn.Module,
        dataset: Dataset,
        sampler: Sampler,
        interval: int = 5,
        count: int = 128,
        shown: int = 16,
        tokenizer: Tokenizer | None = None,
        noise_shape: Sequence[int] | None = None,
    ) -> None:
        check_interval(interval)
        self.writer = writer
        self.network = network
        self.dataset = dataset
        self.sampler = sampler
        self.interval = interval
        self.count = count
        self.shown = shown
        self.tokenizer = tokenizer
        self.noise_shape = noise_shape

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Write grid and KID if it is time."""
        epoch = engine.state.epoch
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        step = max(1, len(self.dataset) // self.count)
        items = [self.dataset[index] for index in range(0, len(self.dataset), step)][: self.count]
        real = torch.stack([item["image"] for item in items])
        drawn = self._draw(items)
        pairs = torch.stack([real[: self.shown], drawn[: self.shown]], dim=1).flatten(0, 1).clamp(0, 1)
        self.writer.add_images("samples/real_then_drawn", side_by_side(pairs), epoch)
        extractor = random_features(device=next(self.network.parameters()).device)
        one, other = (extractor(pictures.clamp(0, 1).numpy()) for pictures in (real, drawn))
        classes = [label_key(item["label"]) for item in items]
        self.writer.add_scalar("samples/kid_random_features", kid(one, other, classes, classes), epoch)

    @torch.no_grad()
    def _draw(self, items: list[dict[str, Any]]) -> torch.Tensor:
        """Return pictures `(N, C, H, W)` with redrawn grain, one for each item."""
        device = next(self.network.parameters()).device
        generator = torch.Generator().manual_seed(0)
        drawn = []
        for start in range(0, len(items), BATCH):
            batch = default_collate(
                [{key: i[key] for key in ("image", "mask", "label", "level")} for i in items[start : start + BATCH]]
            )
            shape = batch["image"].shape if self.noise_shape is None else (len(batch["image"]), *self.noise_shape)
            noise = torch.randn(shape, generator=generator)
            conditions = {"y": batch_labels(batch["label"]), "mask": batch["mask"], "level": batch["level"].float()}
            if self.tokenizer is not None:
                conditions["tokens"] = self.tokenizer([item.get("prompt", "") for item in items[start : start + BATCH]])
            conditions = {name: value.to(device) for name, value in conditions.items()}
            pictures = self.sampler(noise.to(device), self.network, **conditions)
            level = batch["level"].float()[:, None, None, None]
            drawn.append(
                stabilise(torch.poisson(unstabilise(pictures.float().cpu(), level), generator=generator), level)
            )
        return torch.cat(drawn)
