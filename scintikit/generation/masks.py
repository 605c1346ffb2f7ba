"""Smooth random deformations, so that no mask of the training data is used as it stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# Standard deviations at strength 1; no draw goes beyond 2.5 of them.
ROTATION_DEG = 4.0
LOG_SCALE = 0.05
SHIFT_MM = 3.0
#: Local stretch by the bend, which wavelengths of 50 to 150 mm turn into about 2 mm of displacement.
STRETCH = 0.2
WAVELENGTHS_MM = (50.0, 150.0)
WAVES = 4


@dataclass(frozen=True)
class Deformation:
    """A turn and scaling about the structures' centre, a shift, and a smooth bend.

    Attributes
    ----------
    rotation_deg, scale
        Of the structures; positive turns are counter-clockwise as displayed.
    shift_mm
        Of the structures along (row, column).
    waves
        Terms of the bend, each (frequency along rows, along columns in 1/mm, phase, amplitude along rows, along columns
        in mm); the bend is the sum of amplitude * sin(2 pi frequency . position + phase).
    """

    rotation_deg: float
    scale: float
    shift_mm: Sequence[float]
    waves: Sequence[Sequence[float]]


def draw_deformation(strength: float, rng: np.random.Generator) -> Deformation | None:
    """Draw a deformation; with `strength` 1 it moves outlines by several mm, with 0 there is none.

    The numbers are rounded, so that the same deformation comes back from a JSON file.
    """
    if strength == 0:
        return None

    def normal(width: float, count: int) -> np.ndarray:
        return strength * width * rng.standard_normal(count).clip(-2.5, 2.5)

    wavelength = rng.uniform(*WAVELENGTHS_MM, WAVES)
    direction, phase = rng.uniform(0, 2 * math.pi, (2, WAVES))
    amplitude = normal(STRETCH / math.sqrt(WAVES), 2 * WAVES).reshape(2, WAVES) * wavelength / (2 * math.pi)
    waves = np.stack([np.cos(direction) / wavelength, np.sin(direction) / wavelength, phase, *amplitude], axis=1)
    return Deformation(
        rotation_deg=round(float(normal(ROTATION_DEG, 1)[0]), 3),
        scale=round(math.exp(normal(LOG_SCALE, 1)[0]), 4),
        shift_mm=normal(SHIFT_MM, 2).round(3).tolist(),
        waves=waves.round(5).tolist(),
    )


def vary_mask(mask: torch.Tensor, deformation: Deformation | None, pixel_mm: Sequence[float]) -> torch.Tensor:
    """Return a mask with its structures deformed and the camera's field of view as it was.

    Parameters
    ----------
    mask
        `(M + 1, H, W)`: the structures, soft one-hot, then the field of view, outside which nothing is left.
    deformation
        None leaves the mask exactly as it is.
    pixel_mm
        Pixel spacing (row, column) of the mask.
    """
    structures, field = mask[:-1], mask[-1:]
    if deformation is None or not structures.any():
        return mask
    moved = F.grid_sample(structures[None], _sources(structures, deformation, pixel_mm)[None], align_corners=False)[0]
    return torch.cat([moved * field, field])


def _sources(structures: torch.Tensor, deformation: Deformation, pixel_mm: Sequence[float]) -> torch.Tensor:
    """Return where each pixel's value comes from, `(H, W, 2)` as `grid_sample` wants it."""
    height, width = structures.shape[1:]
    row, column = torch.meshgrid(torch.arange(height) * pixel_mm[0], torch.arange(width) * pixel_mm[1], indexing="ij")
    weight = structures.sum(dim=0)
    centre = [float((axis * weight).sum() / weight.sum()) for axis in (row, column)]
    angle = math.radians(deformation.rotation_deg)
    cosine, sine = math.cos(angle) / deformation.scale, math.sin(angle) / deformation.scale
    down, right = (
        axis - middle - shift for axis, middle, shift in zip((row, column), centre, deformation.shift_mm, strict=True)
    )
    source_row, source_column = centre[0] + cosine * down + sine * right, centre[1] - sine * down + cosine * right
    for frequency_row, frequency_column, phase, bend_row, bend_column in deformation.waves:
        wave = torch.sin(2 * math.pi * (frequency_row * down + frequency_column * right) + phase)
        source_row, source_column = source_row - bend_row * wave, source_column - bend_column * wave
    # grid_sample counts from -1 to 1 between the outer edges of the outer pixels, columns first.
    x = (2 * source_column / pixel_mm[1] + 1) / width - 1
    y = (2 * source_row / pixel_mm[0] + 1) / height - 1
    return torch.stack([x, y], dim=-1)
