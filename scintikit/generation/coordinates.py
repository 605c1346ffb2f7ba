"""Where each place of a picture is, told to a network."""

from __future__ import annotations

import torch


def coordinates(x: torch.Tensor) -> torch.Tensor:
    """Return row and column `(B, 2, h, w)` of each place in `x` `(B, c, h, w)`, from -1 to 1."""
    sides = (torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype) for side in x.shape[-2:])
    return torch.stack(torch.meshgrid(*sides, indexing="ij")).expand(len(x), -1, -1, -1)
