"""From expected counts on the model's grid to a picture as its camera would have stored it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from scintikit.errors import ImageWriteError

MAX_COUNTS = 65535


def acquire(
    density: torch.Tensor,
    coverage: torch.Tensor,
    field: torch.Tensor,
    pixel_mm: Sequence[float],
    spacing_mm: float | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw the counts of a camera with Poisson statistics.

    Parameters
    ----------
    density
        `(C, H, W)` expected counts per model pixel.
    coverage
        `(H, W)` share of each model pixel that the camera sees.
    field
        `(rows, columns)` of the camera's image, 1 where it sees anything, 0 elsewhere.
    pixel_mm
        Its pixel spacing (row, column) in mm.
    spacing_mm
        Pixel spacing of the model's grid; None if that is the camera's own.
    rng
        Draws the noise.

    Returns
    -------
    ndarray
        uint16 `(C, rows, columns)`.

    Raises
    ------
    ImageWriteError
        If a pixel holds more counts than 16 bits do.
    """
    matrix = field.shape
    size = _resampled(matrix, pixel_mm, spacing_mm)
    # A model pixel on the edge of the field holds the counts of the part that is seen: what is interpolated is counts
    # per seen area, or the edge would come out as a dark rim.
    *counted, seen = to_camera(torch.cat([density, coverage[None]]), matrix, size, "bicubic")
    # Bicubic interpolation may undershoot beside an edge.
    expected = (torch.stack(counted) / seen.clamp(min=0.25)).clamp(min=0)
    area = size[0] * size[1] / (matrix[0] * matrix[1])
    counts = rng.poisson((expected * field * area).double().numpy())
    if counts.max() > MAX_COUNTS:
        raise ImageWriteError(f"a pixel holds {counts.max()} counts; a 16-bit picture holds up to {MAX_COUNTS}")
    return counts.astype(np.uint16)


def mask_on_camera(
    structures: torch.Tensor, matrix: Sequence[int], pixel_mm: Sequence[float], spacing_mm: float | None
) -> np.ndarray:
    """Return integer labels, uint8 `(rows, columns)`, from soft one-hot structures `(M, H, W)`; 0 is background."""
    soft = to_camera(structures, matrix, _resampled(matrix, pixel_mm, spacing_mm), "bilinear")
    background = 1 - soft.sum(dim=0, keepdim=True)
    # torch's argmax over the first axis takes five times as long.
    return torch.cat([background, soft]).numpy().argmax(axis=0).astype(np.uint8)


def to_camera(values: torch.Tensor, matrix: Sequence[int], size: Sequence[int], mode: str) -> torch.Tensor:
    """Undo `scintikit.data.Resampled` to `size` and MONAI's ResizeWithPadOrCrop after it.

    Where the camera's field is larger than the model's grid, `(C, H, W)`, the values at the edge go on.
    """
    rows, columns = (_uncropped(have, want) for have, want in zip(values.shape[1:], size, strict=True))
    values = values[:, rows][:, :, columns]
    return F.interpolate(values[None], size=tuple(matrix), mode=mode, antialias=True)[0]


def _resampled(matrix: Sequence[int], pixel_mm: Sequence[float], spacing_mm: float | None) -> list[int]:
    """Return the size that `scintikit.data.Resampled` gives the camera's image."""
    if spacing_mm is None:
        return list(matrix)
    return [max(1, round(n * pixel / spacing_mm)) for n, pixel in zip(matrix, pixel_mm, strict=True)]


def _uncropped(have: int, want: int) -> torch.Tensor:
    """Return for each of `want` pixels its index among `have` that were padded or cropped from them."""
    offset = (have - want) // 2 if have >= want else have // 2 - want // 2
    return (torch.arange(want) + offset).clamp(0, have - 1)
