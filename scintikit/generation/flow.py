"""Flow matching: from a batch of pictures to points on straight paths from noise, and the velocity there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.engines import PrepareBatch
from scipy.optimize import linear_sum_assignment

from scintikit.data.augmentation import mix_seed
from scintikit.errors import ConfigError

#: Centre and width of the logit-normal distributions that times can come from; None is uniform.
TIMES: dict[str, tuple[float, float] | None] = {"uniform": None, "logit_normal": (0.0, 1.0), "early": (-0.8, 1.0)}


class PrepareFlow(PrepareBatch):
    """Draw noise and a time for each picture of a batch (Lipman et al., ICLR 2023; MOTFM, arXiv 2503.00266).

    State x_t = (1 - t) x0 + t x1 with noise x0 ~ N(0, I) and picture x1; target x1 - x0. Class and mask are forgotten
    now and then, each on its own, so that one network learns the conditional and the unconditional flow.

    Parameters
    ----------
    augmentation
        Called with pictures and masks as channels of one tensor `(B, C + M, H, W)` on the device, so that both move
        alike; None for validation.
    condition_dropout
        Probability with which a sample's class, and its structures, are left out.
    time
        "uniform"; "logit_normal" (Esser et al., ICML 2024), which prefers the middle of the path; or "early", the same
        about the earlier time of Li and He (arXiv 2511.13720): where much lies at its own place, as in a whole body, it
        is settled there, and the loss, divided by (1 - t)^2, hardly looks there.
    last_time
        End of the times that are drawn. Sampling jumps to the expected picture from there, so later times, at which
        there is nothing left to learn but grain, would waste the network.
    optimal_transport
        Pair noise and pictures so that the paths of a batch are shortest (Tong et al., TMLR 2024).
    """

    def __init__(
        self,
        augmentation: Callable[[torch.Tensor], torch.Tensor] | None = None,
        condition_dropout: float = 0.1,
        time: str = "uniform",
        last_time: float = 0.9,
        optimal_transport: bool = False,
    ) -> None:
        if time not in TIMES:
            raise ConfigError(f"time is {time!r}; choose one of {', '.join(TIMES)}")
        self.augmentation = augmentation
        self.condition_dropout = condition_dropout
        self.time = time
        self.last_time = last_time
        self.optimal_transport = optimal_transport
        self.generator = torch.Generator().manual_seed(0)

    def reseed(self, *numbers: int) -> None:
        """Start the random numbers, the augmentation's too, anew from these non-negative integers."""
        self.generator.manual_seed(mix_seed(*numbers))
        if self.augmentation is not None:
            self.augmentation.reseed(*numbers)  # type: ignore[attr-defined]

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...], dict[str, Any]]:
        """Return x_t, x1 - x0 `(B, C, H, W)`, and (t `(B,)`, y, mask `(B, M, H, W)`)."""
        picture = batchdata["image"].to(device, non_blocking=non_blocking)
        mask = batchdata["mask"].to(device, non_blocking=non_blocking)
        if self.augmentation is not None:
            picture, mask = self.augmentation(torch.cat([picture, mask], dim=1)).split(
                [picture.shape[1], mask.shape[1]], dim=1
            )
        label = batch_labels(batchdata["label"])
        x1 = 2 * picture - 1
        x0 = torch.randn(x1.shape, generator=self.generator).to(x1)
        if self.optimal_transport:
            x0 = x0[_shortest(x0, x1)]
        t = self._times(len(x1)).to(x1)
        wide = t[:, None, None, None]
        condition = (t, self._forget_class(label).to(x1.device), self._forget_structures(mask))
        return (1 - wide) * x0 + wide * x1, x1 - x0, condition, {}

    def _times(self, count: int) -> torch.Tensor:
        # One time from each of `count` equal slices: the loss of a batch varies less (Kingma et al., NeurIPS 2021).
        slices = torch.randperm(count, generator=self.generator)
        u = (slices + torch.rand(count, generator=self.generator)) / count
        if logit_normal := TIMES[self.time]:
            centre, width = logit_normal
            u = torch.sigmoid(centre + width * torch.special.ndtri(u))
        return self.last_time * u

    def _forget_class(self, label: torch.Tensor) -> torch.Tensor:
        forget = torch.rand(len(label), generator=self.generator) < self.condition_dropout
        return torch.where(forget.reshape(-1, *[1] * (label.ndim - 1)), -1, label)

    def _forget_structures(self, mask: torch.Tensor) -> torch.Tensor:
        keep = torch.rand(len(mask), generator=self.generator) >= self.condition_dropout
        kept = torch.ones(len(mask), mask.shape[1])
        kept[:, :-1] = keep[:, None].float()  # the last channel is the camera's field of view, known for every picture
        return mask * kept.to(mask)[:, :, None, None]


def batch_labels(label: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Return a collated batch's labels: class numbers `(B,)`, or 0/1 `(B, classes)`.

    torch collates lists of 0/1 into one tensor `(B,)` for each class.
    """
    return label if isinstance(label, torch.Tensor) else torch.stack(list(label), dim=1)


def _shortest(x0: torch.Tensor, x1: torch.Tensor) -> torch.Tensor:
    """Return the order of x0 that makes the sum of squared distances to x1 smallest."""
    cost = torch.cdist(x1.flatten(1), x0.flatten(1)).square()
    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=x0.device)
