"""Between counts and the variance-stabilised pictures in which the generators work.

Poisson noise grows with the signal; in this space it is nearly the same everywhere, so that faint background and hot
nodules weigh alike in a squared error.
"""

from __future__ import annotations

import math

import torch

LEVEL_QUANTILE = 0.998
_OFFSET = 3 / 8  # Anscombe, Biometrika 1948


def count_level(density: torch.Tensor) -> float:
    """Return the count level of a scintigram `(C, H, W)`: the 99.8th percentile of its counts per model pixel."""
    flat = density.flatten().float()
    return float(flat.kthvalue(max(1, math.ceil(LEVEL_QUANTILE * len(flat)))).values)


def stabilise(density: torch.Tensor, level: torch.Tensor | float) -> torch.Tensor:
    """Return the Anscombe transform of counts per model pixel, scaled so that 0 stays 0 and `level` becomes 1.

    Parameters
    ----------
    density
        `(..., C, H, W)` counts per model pixel, not negative.
    level
        Positive; a number or a tensor that broadcasts.
    """
    level = torch.as_tensor(level, dtype=density.dtype, device=density.device)
    zero = math.sqrt(_OFFSET)
    return ((density + _OFFSET).sqrt() - zero) / ((level + _OFFSET).sqrt() - zero)


def unstabilise(picture: torch.Tensor, level: torch.Tensor | float) -> torch.Tensor:
    """Return the expected counts per model pixel whose stabilised Poisson counts have the mean `picture`.

    The mean of a square root is not the root of the mean, so undoing `stabilise` algebraically would darken faint
    regions; this is the closed form of the exact unbiased inverse (Makitalo and Foi, IEEE TIP 2011).
    """
    level = torch.as_tensor(level, dtype=picture.dtype, device=picture.device)
    zero = math.sqrt(_OFFSET)
    d = 2 * (picture.clamp(min=0) * ((level + _OFFSET).sqrt() - zero) + zero)
    root = math.sqrt(1.5)
    return (d**2 / 4 + root / 4 / d - 11 / 8 / d**2 + 5 / 8 * root / d**3 - 1 / 8).clamp(min=0)


def grain_deviation(level: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation of Poisson grain in pictures stabilised at these levels, where counts are many.

    The Anscombe transform 2 root(counts + 3/8) has variance 1.
    """
    return 0.5 / ((level + _OFFSET).sqrt() - math.sqrt(_OFFSET))
