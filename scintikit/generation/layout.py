"""Learn from masks where the words of a prompt put things, before a diffusion network learns what they look like."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from scintikit.generation.latents import LatentDataset

logger = logging.getLogger(__name__)

#: Added to the spread of every cell: those that no mask ever reaches would be divided by nothing.
LEAST_SPREAD = 0.02


class LayoutLearning:
    """Train a network's reader of prompts, and the layout it makes of them, on coarse masks.

    A diffusion network finds out what a prompt's words look like long before it finds out on which side they belong:
    without this, a mirrored prompt changed its loss by less than a thousandth. As a question about the mask alone the
    side is learned in a few hundred steps. Without a mask nothing is done.

    Parameters
    ----------
    network
        With `text`, `layout` and `structures(tokens) -> (B, M, h, w)`, as `DiffusionNetwork`.
    dataset
        Masks and tokens.
    steps, batch_size, learning_rate
        Of the training, by AdamW.
    seed
        Of its batches.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        dataset: LatentDataset,
        steps: int = 800,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        self.network: Any = getattr(network, "module", network)
        self.dataset = dataset
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.generator = torch.Generator().manual_seed(seed)

    def run(self) -> float | None:
        """Train; return the share of the masks' variance that the last tenth of the steps explained."""
        known = torch.tensor([number for number, item in enumerate(self.dataset.data) if "mask" in item])
        if not len(known) or not self.network.mask_labels:
            return None
        tokens = torch.stack(self.dataset.tokens)
        targets = self._targets(known)
        trained = [*self.network.text.parameters(), *self.network.layout.parameters()]
        optimizer = torch.optim.AdamW([weight for weight in trained if weight.requires_grad], self.learning_rate)
        device = next(self.network.layout.parameters()).device
        errors = []
        for _ in tqdm(range(self.steps), desc="reading prompts", unit="batch", leave=False):
            item = torch.randint(len(known), (self.batch_size,), generator=self.generator)
            version = torch.randint(len(targets), (self.batch_size,), generator=self.generator)
            said = tokens[version % 2, known[item]].to(device)
            loss = F.mse_loss(self.network.structures(said), targets[version, item].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            errors.append(loss.item())
        last = errors[-max(1, self.steps // 10) :]
        explained = 1 - sum(last) / len(last) / float(targets.var())
        logger.info("prompts explain %.0f %% of what coarse masks show", 100 * explained)
        return explained

    def _targets(self, known: torch.Tensor) -> torch.Tensor:
        """Return the coarse masks `(versions, N, M, h, w)` of these items, each cell with mean 0."""
        masks = self.dataset.encoded["masks"][:, known, : self.network.mask_labels].float() / 255
        size = self.network.layout[-1].unflattened_size[-2:]
        coarse = F.adaptive_avg_pool2d(masks.flatten(0, 1), size)
        coarse = (coarse - coarse.mean(0)) / (coarse.std(0) + LEAST_SPREAD)
        return coarse.unflatten(0, masks.shape[:2])
