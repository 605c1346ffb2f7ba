"""Random augmentation of a whole batch on its device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F


def mix_seed(*numbers: int) -> int:
    """Return one seed made from non-negative integers, for instance (seed, epoch, rank)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % 2**63
    return mixed


@dataclass(frozen=True)
class Movements:
    """How each of a batch of images is to be changed; tensors `(B,)`.

    Attributes
    ----------
    angle
        Rotation in radians.
    shift
        `(B, 2)`, along columns and rows as a share of the image's sides.
    size
        New size relative to the old one.
    mirrored
        Whether left and right change places, bool.
    brightness
        Factor of the intensity, which `move` leaves alone.
    """

    angle: torch.Tensor
    shift: torch.Tensor
    size: torch.Tensor
    mirrored: torch.Tensor
    brightness: torch.Tensor

    def move(self, images: torch.Tensor, *, labels: bool = False, pixel_aspect: float = 1.0) -> torch.Tensor:
        """Return the images `(B, C, H, W)` moved; what comes in from outside is 0.

        Parameters
        ----------
        images
            Floating point.
        labels
            The images hold labels: take the nearest pixel's, for there is nothing between two of them.
        pixel_aspect
            Height of a pixel divided by its width, in mm.
        """
        mirror = torch.where(self.mirrored, -1.0, 1.0)
        size = 1 / self.size
        cosine, sine = size * self.angle.cos(), size * self.angle.sin()
        # grid_sample's coordinates run from -1 to 1 on both axes, so a rotation of a non-square image needs its aspect.
        aspect = images.shape[-2] / images.shape[-1] * pixel_aspect
        theta = torch.stack(
            [
                torch.stack([mirror * cosine, -sine * aspect, 2 * self.shift[:, 0]], 1),
                torch.stack([mirror * sine / aspect, cosine, 2 * self.shift[:, 1]], 1),
            ],
            dim=1,
        ).to(images)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        mode = "nearest" if labels else "bilinear"
        return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


class BatchAugmentation:
    """Flip, rotate, shift and scale each image of a batch at random: the conventional augmentation of arXiv 2503.00366.

    One affine resampling for the whole batch, on its device. The random numbers are drawn on the CPU by a generator of
    its own, so they are the same on every device and follow from the last `reseed`.

    Parameters
    ----------
    rotate_deg
        Largest rotation in degrees, either way.
    shift
        Largest shift as a share of the image side, either way.
    scale
        Largest relative change of size, either way.
    flip
        Probability of a left-right flip.
    brightness
        Largest relative change of intensity, either way.
    """

    def __init__(
        self,
        rotate_deg: float = 15.0,
        shift: float = 0.08,
        scale: float = 0.15,
        flip: float = 0.5,
        brightness: float = 0.1,
    ) -> None:
        self.rotate_deg = rotate_deg
        self.shift = shift
        self.scale = scale
        self.flip = flip
        self.brightness = brightness
        self.generator = torch.Generator().manual_seed(0)

    def reseed(self, *numbers: int) -> None:
        """Start the random numbers anew from these non-negative integers, for instance (seed, epoch, rank)."""
        self.generator.manual_seed(mix_seed(*numbers))

    def __call__(self, images: torch.Tensor, maps: torch.Tensor | None = None) -> Any:
        """Return augmented images `(B, C, H, W)`; what comes in from outside the image is 0, as is empty background.

        With `maps` `(B, M, H, W)`, such as masks, return both: the maps move along, and keep their values.
        """
        channels = images.shape[1]
        movements = self.draw(len(images))
        moved = movements.move(images if maps is None else torch.cat([images, maps], dim=1))
        images = moved[:, :channels] * movements.brightness.to(images)[:, None, None, None]
        return images if maps is None else (images, moved[:, channels:])

    def draw(self, count: int) -> Movements:
        """Return the next random movements of `count` images."""
        # One draw, six columns: rotation, shift x, shift y, scale, flip, brightness, each uniform in [-1, 1].
        draw = torch.rand(count, 6, generator=self.generator) * 2 - 1
        return Movements(
            angle=draw[:, 0] * math.radians(self.rotate_deg),
            shift=draw[:, 1:3] * self.shift,
            size=1 + draw[:, 3] * self.scale,
            mirrored=(draw[:, 4] + 1) / 2 < self.flip,
            brightness=1 + draw[:, 5] * self.brightness,
        )
