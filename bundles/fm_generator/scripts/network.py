"""The velocity network of flow matching: MONAI's UNet behind a pixel-unshuffle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from scintikit.engines import coordinates
from scintikit.errors import ConfigError

#: Smallest 1 - t to divide by: at the end of the path the velocity would be a difference of equals divided by nothing.
NEAREST = 0.02


class FlowNetwork(nn.Module):
    """Velocity of a straight path from noise to scintigrams, conditional on class and mask.

    Pixels are folded into channels first (`unshuffle` x `unshuffle` to one), which makes a UNet on a CPU several times
    faster than one at full size. Its trunk is then too narrow to carry the noise of every pixel through, so the UNet
    predicts the picture x1, which is smooth, and the velocity (x1 - x) / (1 - t) follows (Li and He, Back to Basics:
    Let Denoising Generative Models Denoise, arXiv 2511.13720).

    Parameters
    ----------
    image_channels
        Views of a scintigram.
    classes
        Number of classes, or length of the label vector.
    mask_labels
        Structures in the masks; 0 for a network without masks.
    unshuffle
        Pixels of a block's side that become channels; divides the image size, which divided by it must be divisible by
        2 for each level after the first.
    channels, attention_levels, num_res_blocks, num_head_channels, norm_num_groups
        As of `monai.networks.nets.DiffusionModelUNet`.
    places
        Tell each place its row and column in two more channels (CoordConv, arXiv 1807.03247). A picture of a whole body
        has everything at its place, and a convolution is blind to where it is.
    """

    def __init__(
        self,
        image_channels: int = 1,
        classes: int = 4,
        mask_labels: int = 3,
        unshuffle: int = 4,
        channels: Sequence[int] = (32, 64, 128),
        attention_levels: Sequence[bool] = (False, False, True),
        num_res_blocks: int = 1,
        num_head_channels: int = 32,
        norm_num_groups: int = 16,
        places: bool = False,
    ) -> None:
        super().__init__()
        self.image_channels = image_channels
        self.classes = classes
        self.mask_labels = mask_labels
        self.unshuffle = unshuffle
        self.places = places
        self.step = unshuffle * 2 ** (len(channels) - 1)
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=unshuffle**2 * (image_channels + mask_labels + 1) + 2 * places,
            out_channels=unshuffle**2 * image_channels,
            channels=channels,
            attention_levels=attention_levels,
            num_res_blocks=num_res_blocks,
            num_head_channels=num_head_channels,
            norm_num_groups=norm_num_groups,
            num_class_embeds=classes + 1,
        )
        # A linear map of a 0/1 vector is the embedding of a class, and of several diseases at once as well.
        self.unet.class_embedding = nn.Linear(classes + 1, self.unet.time_embed[0].out_features, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the velocity dx/dt.

        Parameters
        ----------
        x
            State `(B, C, H, W)`: noise at t = 0, a picture (2 * stabilised - 1) at t = 1.
        t
            Time `(B,)` from 0 to 1; default 0.
        y
            Class numbers `(B,)` or 0/1 vectors `(B, classes)`; -1, or a row of -1, is no class, as is None.
        mask
            `(B, mask_labels + 1, H, W)`: the structures, soft one-hot, then the camera's field of view. None: no
            structures, and a field of view as large as the picture.

        Raises
        ------
        ConfigError
            If the picture's size does not divide, a class is unknown, or the mask has other channels.
        """
        if x.shape[-1] % self.step or x.shape[-2] % self.step:
            raise ConfigError(f"pictures are {tuple(x.shape[-2:])}; expected sides that are multiples of {self.step}")
        # x.shape[0] throughout, not len(x): an export would take that for a constant.
        t = x.new_zeros(x.shape[0]) if t is None else t.to(x)
        mask = self.no_mask(x) if mask is None else mask.to(x)
        if mask.shape[1] != self.mask_labels + 1:
            raise ConfigError(f"masks have {mask.shape[1]} channels; expected {self.mask_labels + 1}, see mask_labels")
        inputs = F.pixel_unshuffle(torch.cat([x, 2 * mask - 1], dim=1), self.unshuffle)
        if self.places:
            inputs = torch.cat([inputs, coordinates(inputs)], dim=1)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        picture = F.pixel_shuffle(self.unet(inputs, t * 1000, class_labels=self.one_hot(x, y)), self.unshuffle)
        return (picture - x) / (1 - t).clamp(min=NEAREST)[:, None, None, None]

    def example(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return arguments for states `(B, C, H, W)`, by which the network is exported."""
        steps = torch.arange(x.shape[0])
        classes = F.one_hot(steps % self.classes, self.classes).to(x)
        return {"x": x, "t": (steps / x.shape[0]).to(x), "y": classes, "mask": self.no_mask(x)}

    def no_mask(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mask `(B, mask_labels + 1, H, W)` that says nothing about the structures."""
        mask = x.new_zeros(x.shape[0], self.mask_labels + 1, *x.shape[-2:])
        mask[:, -1] = 1
        return mask

    def one_hot(self, x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        """Return `(B, classes + 1)`: 0/1 for each class, and a last column for no class."""
        result = x.new_zeros(x.shape[0], self.classes + 1)
        if y is None:
            result[:, -1] = 1
        elif y.ndim == 1:
            if int(y.max()) >= self.classes:
                raise ConfigError(f"class number {int(y.max())} is asked for; known are 0 to {self.classes - 1}, or -1")
            result.scatter_(1, y.long().remainder(self.classes + 1)[:, None], 1)  # -1 becomes the last column
        else:
            unknown = y[:, :1] < 0
            result = torch.cat([y.to(x).clamp(min=0), unknown.to(x)], dim=1)
        return result
