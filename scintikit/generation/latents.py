"""Pictures encoded once: what diffusion is trained on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import CacheDataset
from torch.utils.data import Dataset, get_worker_info
from tqdm import tqdm

from scintikit.data.contract import Item
from scintikit.data.views import mirrored_prompt
from scintikit.engines.saving import save_atomic
from scintikit.errors import ConfigError
from scintikit.files import file_sha256
from scintikit.generation.diffusion import Autoencoder
from scintikit.generation.text import Tokenizer

logger = logging.getLogger(__name__)

BATCH = 32


class LatentDataset(Dataset):
    """Latents, masks and tokens of a dataset's pictures, each also in augmented copies.

    Encoding is the dear part, so it is done once and kept in a file; an epoch takes one version of
    each picture, another one in each epoch. Every other copy is mirrored left to right, and its prompt with it.

    Parameters
    ----------
    data
        Items, see `generator_items`.
    transform
        Preprocessing to `image`, `mask`, `level`, ...
    autoencoder
        Encodes.
    tokenizer
        For the prompts.
    ckpt_dir
        Where the latents are kept.
    device
        Where to encode.
    augmentation
        Called with pictures and masks as channels of one tensor; it must not mirror. None: no copies.
    copies
        Augmented versions of each picture, beside the plain one.
    seed
        Of the augmentation.
    name
        Of the file.
    settings
        What decides the preprocessing beside the items: latents of other settings are not used again.

    Raises
    ------
    ConfigError
        If a worker of a DataLoader would have to encode.
    """

    def __init__(
        self,
        data: Sequence[Item],
        transform: Callable[[Any], Any],
        autoencoder: Autoencoder,
        tokenizer: Tokenizer,
        ckpt_dir: str,
        device: torch.device,
        augmentation: Any = None,
        copies: int = 0,
        seed: int = 0,
        name: str = "latents",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.data = data
        self.transform = transform
        self.autoencoder = autoencoder
        self.tokenizer = tokenizer
        self.ckpt_dir = ckpt_dir
        self.device = device
        self.augmentation = augmentation
        self.copies = copies if augmentation is not None else 0
        self.seed = seed
        self.name = name
        self.settings = settings or {}
        self.version = 0

    def reseed(self, *numbers: int) -> None:
        """Choose the versions of the epoch, from (seed, epoch, rank) for instance."""
        self.version = numbers[1] if len(numbers) > 1 else 0

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return `image` (latents `(c, h, w)`), `mask` `(M + 1, h, w)` in [0, 1], `tokens` `(L,)`, label, level, id."""
        version = (index + self.version) % (1 + self.copies)
        encoded, item = self.encoded, self.data[index]
        return {
            "image": encoded["latents"][version][index].float(),
            "mask": encoded["masks"][version][index].float() / 255,
            "tokens": self.tokens[version % 2][index],
            "label": item["label"],
            "id": item["id"],
        }

    @cached_property
    def pictures(self) -> CacheDataset:
        """The preprocessed pictures."""
        return CacheDataset(self.data, self.transform, num_workers=2)

    @cached_property
    def tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `(N, L)` of all prompts, and of the mirrored pictures'."""
        prompts = [item.get("prompt", "") for item in self.data]
        return self.tokenizer(prompts), self.tokenizer([mirrored_prompt(prompt) for prompt in prompts])

    @cached_property
    def encoded(self) -> dict[str, Any]:
        """`latents` `(versions, N, c, h, w)` float16 and `masks` `(versions, N, M + 1, h, w)` uint8, of 255."""
        if get_worker_info() is not None:
            raise ConfigError(
                "latents are tensors in memory, which workers would encode once each; give --num_workers 0"
            )
        path = Path(self.ckpt_dir) / f"{self.name}.pt"
        key = self._key()
        if path.is_file():
            kept = torch.load(path, map_location="cpu", weights_only=True)
            if kept["key"] == key:
                return kept
        content = {**self._encode(), "key": key}
        save_atomic(path, content)
        return content

    def _key(self) -> str:
        """Return what decides the latents."""
        digest = hashlib.sha256(self.autoencoder.sha256.encode())
        for item in self.data:
            files = [file_sha256(Path(item[kind])) for kind in ("image", "mask") if kind in item]
            digest.update(f"{item['id']} {item['centre']} {' '.join(files)}\n".encode())
        digest.update(json.dumps(self.settings, sort_keys=True, default=str).encode())
        augmentation = {} if self.augmentation is None else vars(self.augmentation)
        plain = {name: value for name, value in augmentation.items() if isinstance(value, int | float | str)}
        digest.update(repr((sorted(plain.items()), self.copies, self.seed)).encode())
        return digest.hexdigest()

    @torch.no_grad()
    def _encode(self) -> dict[str, torch.Tensor]:
        autoencoder = self.autoencoder.to(self.device)
        versions = 1 + self.copies
        latents: list[list[torch.Tensor]] = [[] for _ in range(versions)]
        masks: list[list[torch.Tensor]] = [[] for _ in range(versions)]
        starts = range(0, len(self.data), BATCH)
        with tqdm(total=len(self.data) * versions, desc="encoding", unit="image", leave=False) as progress:
            for start in starts:
                items = [self.pictures[index] for index in range(start, min(start + BATCH, len(self.data)))]
                pictures, mask = (
                    torch.stack([item[key] for item in items]).to(self.device) for key in ("image", "mask")
                )
                for version in range(versions):
                    one, structures = self._version(pictures, mask, version, start)
                    z = autoencoder.encode(one)
                    latents[version].append(z.half().cpu())
                    small = F.adaptive_avg_pool2d(structures.float(), (z.shape[-2], z.shape[-1]))
                    masks[version].append((255 * small.clamp(0, 1)).round().byte().cpu())
                    progress.update(len(items))
        return {
            "latents": torch.stack([torch.cat(parts) for parts in latents]),
            "masks": torch.stack([torch.cat(parts) for parts in masks]),
        }

    def _version(
        self, pictures: torch.Tensor, mask: torch.Tensor, version: int, start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return version 0 as it is, others augmented; odd ones are mirrored."""
        if version == 0:
            return pictures, mask
        self.augmentation.reseed(self.seed, version, start)
        both = self.augmentation(torch.cat([pictures, mask], dim=1))
        both = both.flip(-1) if version % 2 else both
        return tuple(both.split([pictures.shape[1], mask.shape[1]], dim=1))
