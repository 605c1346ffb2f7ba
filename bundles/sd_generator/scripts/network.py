"""The denoiser of latent diffusion: MONAI's UNet, and a small transformer that reads the prompt, trained with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from scintikit.errors import ConfigError


class PromptEncoder(nn.Module):
    """Transformer over word tokens.

    Parameters
    ----------
    vocabulary_size
        Token numbers, those of padding (0), start and unknown words included.
    context_length
        Tokens of a prompt.
    width, layers, heads
        Of the transformer.
    """

    def __init__(
        self, vocabulary_size: int = 256, context_length: int = 64, width: int = 96, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, width)
        self.places = nn.Parameter(0.02 * torch.randn(context_length, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what each token means `(B, L, width)`, 0 for padding, from tokens `(B, L)`."""
        padding = tokens == 0
        meaning = self.layers(self.words(tokens) + self.places, src_key_padding_mask=padding)
        return meaning.masked_fill(padding[..., None], 0)

    def no_prompt(self) -> torch.Tensor:
        """Return the tokens `(L,)` of no prompt: a start, then padding."""
        tokens = torch.zeros(len(self.places), dtype=torch.int64)
        tokens[0] = 1
        return tokens


class DiffusionNetwork(nn.Module):
    """Denoiser of latents, conditional on prompt and mask.

    The prompt reaches the UNet in three ways: its words by cross-attention, and its first token, as a summary, with
    the time and as a layout, a coarse map under the latents. Attention alone learned what to draw but not on which
    side; the layout says where, and `scintikit.generation.LayoutLearning` teaches it before diffusion is trained.

    Parameters
    ----------
    latent_channels
        Of the autoencoder.
    mask_labels
        Structures in the masks; 0 for a network without masks.
    channels, attention_levels, num_res_blocks, num_head_channels, norm_num_groups
        As of `monai.networks.nets.DiffusionModelUNet`.
    vocabulary_size, context_length, text_width, text_layers
        As of `PromptEncoder`.
    layout_channels, layout_size
        Of the layout; at least a channel for each structure.
    text
        Module that reads prompts in its place, and knows the tokens of none, `scintikit.generation.FrozenTextEncoder`
        for instance: `(B, L', text_width)` from tokens `(B, L)`.
    """

    def __init__(
        self,
        latent_channels: int = 4,
        mask_labels: int = 3,
        channels: Sequence[int] = (32, 64, 128),
        attention_levels: Sequence[bool] = (False, False, True),
        num_res_blocks: int = 1,
        num_head_channels: int = 32,
        norm_num_groups: int = 16,
        vocabulary_size: int = 256,
        context_length: int = 64,
        text_width: int = 96,
        text_layers: int = 2,
        layout_channels: int = 4,
        layout_size: int = 8,
        text: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.mask_labels = mask_labels
        self.step = 2 ** (len(channels) - 1)
        self.text = PromptEncoder(vocabulary_size, context_length, text_width, text_layers) if text is None else text
        layout_channels = max(layout_channels, mask_labels)
        self.layout = nn.Sequential(
            nn.Linear(text_width, layout_channels * layout_size**2),
            nn.Unflatten(1, (layout_channels, layout_size, layout_size)),
        )
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=latent_channels + mask_labels + 1 + layout_channels,
            out_channels=latent_channels,
            channels=channels,
            attention_levels=attention_levels,
            num_res_blocks=num_res_blocks,
            num_head_channels=num_head_channels,
            norm_num_groups=norm_num_groups,
            with_conditioning=True,
            cross_attention_dim=text_width,
            num_class_embeds=1,
        )
        self.unet.class_embedding = nn.Linear(text_width, self.unet.time_embed[0].out_features, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the prediction `(B, c, h, w)`.

        Parameters
        ----------
        x
            Noisy latents `(B, c, h, w)`.
        t
            Time steps `(B,)`, 0 is hardly noisy; default 0.
        tokens
            Of the prompts, `(B, L)`, see `scintikit.generation.WordTokenizer`; None: no prompt.
        mask
            `(B, mask_labels + 1, H, W)`, of the latents' size or a multiple of it: the structures, soft one-hot, then
            the camera's field of view. None: no structures, and a field of view as large as the picture.

        Raises
        ------
        ConfigError
            If the latents' size does not divide, or the mask has other channels.
        """
        if x.shape[-1] % self.step or x.shape[-2] % self.step:
            raise ConfigError(f"latents are {tuple(x.shape[-2:])}; expected sides that are multiples of {self.step}")
        # x.shape[0] throughout, not len(x): an export would take that for a constant.
        t = x.new_zeros(x.shape[0]) if t is None else t
        mask = self.no_mask(x) if mask is None else F.adaptive_avg_pool2d(mask.to(x), x.shape[-2:])
        if mask.shape[1] != self.mask_labels + 1:
            raise ConfigError(f"masks have {mask.shape[1]} channels; expected {self.mask_labels + 1}, see mask_labels")
        meaning = self.text(self.no_prompt(x) if tokens is None else tokens)
        layout = F.interpolate(self.layout(meaning[:, 0]), x.shape[-2:], mode="bilinear", align_corners=False)
        inputs = torch.cat([x, 2 * mask - 1, layout], dim=1).contiguous(memory_format=torch.channels_last)
        return self.unet(inputs, t, context=meaning, class_labels=meaning[:, 0])

    def structures(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return where prompts `(B, L)` put the structures, `(B, mask_labels, layout_size, layout_size)`."""
        return self.layout(self.text(tokens)[:, 0])[:, : self.mask_labels]

    def no_mask(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mask `(B, mask_labels + 1, h, w)` that says nothing about the structures."""
        mask = x.new_zeros(x.shape[0], self.mask_labels + 1, *x.shape[-2:])
        mask[:, -1] = 1
        return mask

    def no_prompt(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens `(B, L)` of no prompt."""
        return self.text.no_prompt().to(x.device).expand(x.shape[0], -1)
