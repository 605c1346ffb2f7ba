"""Pretrained Stable Diffusion, from a checkpoint in diffusers' folder layout, as parts of latent diffusion.

Needs the extra `sd`, which is imported on first use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.networks.schedulers import DDIMScheduler
from torch import nn

from scintikit.errors import ConfigError
from scintikit.generation.hub import (
    WEIGHT_ENDS,
    Frozen,
    check_weights,
    files_sha256,
    locate,
    optional,
    read_network,
    refuse_missing,
    weight_files,
)
from scintikit.generation.text import NO_TOKEN, SubwordTokenizer

#: Sub-folder to the stem of its weights' file.
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer.json")
#: diffusers' name of a noise schedule to MONAI's.
SCHEDULES = {"scaled_linear": "scaled_linear_beta", "linear": "linear_beta"}
#: The attention's matrices, which LoRA changes.
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


class PretrainedFolder:
    """A checkpoint of a Stable Diffusion pipeline: a folder, or a name on Hugging Face's hub, that is fetched then.

    Weights are read from safetensors files only; nothing else is fetched or opened.

    Parameters
    ----------
    name
        Such as `/data/stable-diffusion-v1-4` or `CompVis/stable-diffusion-v1-4`.

    Raises
    ------
    ConfigError
        If there is no such folder or name, a part is missing, weights are pickled only, or the pipeline is none that
        is conditional on one CLIP text encoder alone.
    MissingExtraError
        Without the extra `sd`.
    """

    def __init__(self, name: str | None) -> None:
        if not name:
            raise ConfigError(
                "pretrained is not given; name a folder in diffusers' layout, or a model of the hub: --pretrained "
                "CompVis/stable-diffusion-v1-4"
            )
        optional("diffusers", "__version__")
        self.path = locate("pretrained", name, _patterns())
        for part in CONFIGS:
            self._check(part)
        self._check_kind()

    def config(self, part: str) -> dict[str, Any]:
        """Return the configuration of "unet", "vae", "text_encoder", "tokenizer" or "scheduler"."""
        return json.loads((self.path / part / CONFIGS[part]).read_text(encoding="utf-8"))

    def files(self, part: str) -> list[Path]:
        """Return the files that hold the weights of a part; of a tokenizer, its words."""
        folder = self.path / part
        if part not in WEIGHTS:
            return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
        return weight_files(folder, WEIGHTS[part])

    def sha256(self, *parts: str) -> str:
        """Return the sha256 over configurations and weights of some parts."""
        files = (path for part in parts for path in (self.path / part / CONFIGS[part], *self.files(part)))
        return files_sha256(self.path, files)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of everything that is used."""
        return self.sha256(*CONFIGS)

    def load(self, library: str, cls: str, part: str) -> Any:
        """Return a network, an nn.Module, with its weights in float32.

        Raises
        ------
        ConfigError
            If the file lacks tensors, which would be left random.
        """
        network, missing = read_network(optional(library, cls), self.path / part)
        refuse_missing(missing, self.path / part, cls)
        return network

    @property
    def longest_prompt(self) -> int:
        """How many tokens the text encoder reads."""
        return int(self.config("text_encoder")["max_position_embeddings"])

    def tokenizer(self) -> Any:
        """Return transformers' tokenizer."""
        return optional("transformers", "CLIPTokenizer").from_pretrained(self.path / "tokenizer", local_files_only=True)

    def _check(self, part: str) -> None:
        """Raise `ConfigError` if a part is missing or holds pickled weights only."""
        folder = self.path / part
        if not (folder / CONFIGS[part]).is_file():
            raise ConfigError(
                f"{folder} has no {CONFIGS[part]}; expected a folder in the layout of diffusers' "
                f"StableDiffusionPipeline, with {', '.join(CONFIGS)}"
            )
        if part in WEIGHTS:
            check_weights(folder, WEIGHTS[part])

    def _check_kind(self) -> None:
        """Raise `ConfigError` for pipelines that want more than noisy latents and one text."""
        unet, vae, text = (self.config(part) for part in WEIGHTS)
        further = [name for name in ("addition_embed_type", "class_embed_type") if unet.get(name) is not None]
        if further:
            raise ConfigError(f"the unet of {self.path} has {further[0]}; expected Stable Diffusion of version 1 or 2")
        if not unet["in_channels"] == unet["out_channels"] == vae["latent_channels"]:
            raise ConfigError(
                f"the unet of {self.path} maps {unet['in_channels']} channels to {unet['out_channels']}, the vae has "
                f"{vae['latent_channels']}; expected the same number, as in a text-to-image model"
            )
        if unet["cross_attention_dim"] != text["hidden_size"]:
            raise ConfigError(
                f"the unet of {self.path} attends to a text of width {unet['cross_attention_dim']}, the text encoder "
                f"gives {text['hidden_size']}; expected a pipeline with one text encoder"
            )


def _patterns() -> list[str]:
    """Return the files of the hub's models that are fetched."""
    patterns = [f"{part}/{file}" for part, file in CONFIGS.items()]
    patterns += [f"tokenizer/{file}" for file in TOKENIZER_FILES]
    return patterns + [f"{part}/{stem}{end}" for part, stem in WEIGHTS.items() for end in WEIGHT_ENDS]


def pretrained_scheduler(folder: PretrainedFolder) -> DDIMScheduler:
    """Return the noise schedule that the checkpoint was trained with.

    Raises
    ------
    ConfigError
        If it is one that MONAI does not know.
    """
    config = folder.config("scheduler")
    schedule, prediction = config.get("beta_schedule"), config.get("prediction_type", "epsilon")
    stretched = bool(config.get("rescale_betas_zero_snr", False))
    if schedule not in SCHEDULES or config.get("trained_betas") is not None or (stretched and schedule == "linear"):
        raise ConfigError(
            f"the scheduler of {folder.path} has the noise schedule {schedule!r}, rescaled: {stretched}, or betas of "
            f"its own; known are {', '.join(SCHEDULES)}"
        )
    return DDIMScheduler(
        num_train_timesteps=config.get("num_train_timesteps", 1000),
        schedule="zero_terminal_snr" if stretched else SCHEDULES[schedule],
        beta_start=config.get("beta_start", 1e-4),
        beta_end=config.get("beta_end", 0.02),
        prediction_type=prediction,
        clip_sample=False,
    )


class PretrainedTokenizer(SubwordTokenizer):
    """CLIP's sub-words, each prompt padded as the checkpoint pads, to the length that its text encoder reads.

    Parameters
    ----------
    folder
        The checkpoint.
    strict
        Refuse prompts that are longer, instead of a warning.
    """

    def __init__(self, folder: PretrainedFolder, strict: bool = False) -> None:
        super().__init__(folder, folder.longest_prompt, strict)

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return tokens `(B, length)`, int64; raises the errors of `SubwordTokenizer`."""
        tokens = super().__call__(prompts)
        return tokens.masked_fill(tokens == NO_TOKEN, self.tokenizer.pad_token_id)


class PretrainedAutoencoder:
    """The checkpoint's autoencoder, frozen; one grey channel in [0, 1] outside, three in [-1, 1] inside.

    Parameters
    ----------
    folder
        The checkpoint.
    image_channels
        Views of a scintigram.

    Raises
    ------
    ConfigError
        If there are several views.
    """

    def __init__(self, folder: PretrainedFolder, image_channels: int = 1) -> None:
        if image_channels != 1:
            raise ConfigError(f"views are {image_channels}; a pretrained autoencoder takes one, such as ['ANT']")
        self.folder = folder
        config = folder.config("vae")
        self.latent_channels = int(config["latent_channels"])
        #: Pixels of the picture to one of the latents.
        self.factor = 2 ** (len(config["block_out_channels"]) - 1)
        self.scale = float(config.get("scaling_factor") or 0.18215)
        self.shift = float(config.get("shift_factor") or 0.0)

    def latent_shape(self, image_size: Sequence[int]) -> list[int]:
        """Return the shape (c, h, w) of the latents of pictures of that size.

        Raises
        ------
        ConfigError
            If it does not divide.
        """
        if any(side % self.factor for side in image_size):
            raise ConfigError(f"image_size is {list(image_size)}; expected multiples of {self.factor}")
        return [self.latent_channels, *(side // self.factor for side in image_size)]

    @cached_property
    def network(self) -> Any:
        """Diffusers' AutoencoderKL."""
        return self.folder.load("diffusers", "AutoencoderKL", "vae").eval().requires_grad_(False)

    @cached_property
    def sha256(self) -> str:
        """Of configuration and weights."""
        return self.folder.sha256("vae")

    def to(self, device: torch.device) -> PretrainedAutoencoder:
        """Move to a device."""
        self.network.to(device=device, memory_format=torch.channels_last)
        return self

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return latents `(B, c, h, w)` of pictures `(B, 1, H, W)`."""
        colour = (2 * pictures - 1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        return (self.network.encode(colour).latent_dist.mode() - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pictures: the mean of the three colours."""
        colour = self.network.decode(latents / self.scale + self.shift).sample
        return (colour.mean(dim=1, keepdim=True) + 1) / 2


class PretrainedDenoiser(nn.Module):
    """The checkpoint's UNet, tuned whole or by LoRA, conditional on the words as its frozen text encoder reads them.

    `parameters()` and `state_dict()` have what is tuned and nothing else: what is frozen is in the checkpoint, and
    optimizers, averages and saved weights need not carry it. A deep copy shares it.

    Parameters
    ----------
    folder
        The checkpoint.
    lora_rank
        Rank of the changes to the attention's matrices (Hu et al., ICLR 2022); 0 tunes every weight of the UNet.
    gradient_checkpointing
        Compute activations again in the backward pass instead of keeping them: less memory, more time.
    """

    def __init__(self, folder: PretrainedFolder, lora_rank: int = 0, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        if isinstance(lora_rank, bool) or not isinstance(lora_rank, int) or lora_rank < 0:
            raise ConfigError(f"lora_rank is {lora_rank!r}; expected 0 (tune everything) or a rank such as 16")
        self._text = Frozen(folder.load("transformers", "CLIPTextModel", "text_encoder"))
        self._tokenizer = PretrainedTokenizer(folder)
        self.unet = folder.load("diffusers", "UNet2DConditionModel", "unet")
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if lora_rank:
            self.unet.requires_grad_(False)
            self.unet.add_adapter(
                optional("peft", "LoraConfig")(
                    r=lora_rank, lora_alpha=lora_rank, init_lora_weights="gaussian", target_modules=list(LORA_TARGETS)
                )
            )
        self.tuned = frozenset(name for name, weight in super().named_parameters() if weight.requires_grad)
        self.register_state_dict_post_hook(_leave_out_frozen)
        self.register_load_state_dict_post_hook(_do_not_miss_frozen)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Return what is tuned."""
        start = f"{prefix}." if prefix else ""
        for name, weight in super().named_parameters(prefix, recurse, remove_duplicate):
            if name.removeprefix(start) in self.tuned:
                yield name, weight

    def __deepcopy__(self, memo: dict[int, Any]) -> PretrainedDenoiser:
        """Return a copy that shares what is frozen."""
        frozen = [weight for name, weight in super().named_parameters() if name not in self.tuned]
        memo.update({id(shared): shared for shared in frozen})
        copy = object.__new__(type(self))
        memo[id(self)] = copy
        copy.__dict__ = deepcopy(self.__dict__, memo)
        return copy

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
            Of the prompts, `(B, L)`, see `PretrainedTokenizer`; None: no prompt.
        mask
            Of no account: these networks have no channels for it.
        """
        t = torch.zeros(len(x), dtype=torch.int64, device=x.device) if t is None else t
        tokens = self._tokenizer([""]).to(x.device).expand(len(x), -1) if tokens is None else tokens
        return self.unet(x, t, encoder_hidden_states=self._text(tokens).last_hidden_state).sample


def _leave_out_frozen(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    tuned = {prefix + name for name in module.tuned}
    for name in [name for name in state if name.startswith(prefix) and name not in tuned]:
        del state[name]


def _do_not_miss_frozen(module: Any, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if name in module.tuned]
