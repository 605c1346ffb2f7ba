"""The autoencoder between scintigrams and the latents in which diffusion works."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import AutoencoderKL
from torch import nn

from scintikit.errors import ConfigError


class ScintigramAutoencoder(nn.Module):
    """MONAI's AutoencoderKL behind a pixel-unshuffle, with latents scaled to mean 0 and variance 1.

    Folding pixels into channels first saves the layers at full size, which would take most of the time.

    Parameters
    ----------
    image_channels
        Views of a scintigram.
    latent_channels
        Of the latents.
    unshuffle
        Pixels of a block's side that become channels.
    channels, num_res_blocks, norm_num_groups
        As of `monai.networks.nets.AutoencoderKL`; each level after the first halves the size.
    """

    def __init__(
        self,
        image_channels: int = 1,
        latent_channels: int = 4,
        unshuffle: int = 2,
        channels: Sequence[int] = (32, 64),
        num_res_blocks: int = 1,
        norm_num_groups: int = 16,
    ) -> None:
        super().__init__()
        self.image_channels = image_channels
        self.latent_channels = latent_channels
        self.unshuffle = unshuffle
        #: Pixels of the picture to one of the latents.
        self.factor = unshuffle * 2 ** (len(channels) - 1)
        folded = image_channels * unshuffle**2
        self.autoencoder = AutoencoderKL(
            spatial_dims=2,
            in_channels=folded,
            out_channels=folded,
            channels=channels,
            attention_levels=[False] * len(channels),
            latent_channels=latent_channels,
            num_res_blocks=num_res_blocks,
            norm_num_groups=norm_num_groups,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        # Measured when the training has ended; the scale is 0 until then.
        self.register_buffer("shift", torch.zeros(latent_channels))
        self.register_buffer("scale", torch.zeros(latent_channels))

    def posterior(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of the unscaled latents `(B, c, h, w)` of pictures `(B, C, H, W)`.

        Raises
        ------
        ConfigError
            If the pictures' size does not divide.
        """
        if pictures.shape[-1] % self.factor or pictures.shape[-2] % self.factor:
            raise ConfigError(
                f"pictures are {tuple(pictures.shape[-2:])}; expected sides that are multiples of {self.factor}"
            )
        folded = F.pixel_unshuffle(2 * pictures - 1, self.unshuffle)
        return self.autoencoder.encode(folded.contiguous(memory_format=torch.channels_last))

    def restore(self, unscaled: torch.Tensor) -> torch.Tensor:
        """Return pictures from unscaled latents."""
        return (F.pixel_shuffle(self.autoencoder.decode(unscaled), self.unshuffle) + 1) / 2

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return latents `(B, c, h, w)`, mean 0 and variance 1 over the training pictures."""
        mean, _ = self.posterior(pictures)
        return (mean - self.shift[:, None, None]) / self.scale[:, None, None]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pictures `(B, C, H, W)`."""
        unscaled = latents * self.scale[:, None, None] + self.shift[:, None, None]
        return self.restore(unscaled.contiguous(memory_format=torch.channels_last))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pictures `(B, C, H, W)` as the latents keep them."""
        return self.restore(self.posterior(x)[0])
