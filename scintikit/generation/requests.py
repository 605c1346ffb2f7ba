"""What is to be generated: each item from (seed, index) alone, in batches that never change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset
from monai.engines import PrepareBatch
from monai.transforms import CastToTyped, Compose, DeleteItemsd
from torch.utils.data import Dataset, Sampler

from scintikit.data.contract import Item
from scintikit.errors import ConfigError, DatasetError, did_you_mean
from scintikit.generation.masks import Deformation, draw_deformation, vary_mask
from scintikit.generation.records import record_path
from scintikit.generation.statistics import TrainingStatistics, label_key
from scintikit.generation.text import Tokenizer

_NOISE, _GRAIN = 1, 2
#: What sampling can start from instead of noise alone.
STARTS = (None, "image", "mask")
#: How bright gland, hot and cold nodules are in a picture of a mask; further structures as the gland.
MASK_BRIGHTNESS = (0.6, 1.0, 0.3)


@dataclass(frozen=True)
class Request:
    """One scintigram to generate.

    Attributes
    ----------
    index
        Its number, from 0.
    source
        The training item that lends it mask and camera: `id`, `patient`, `centre`, `label`, ...
    level
        Count level, in counts per model pixel.
    deformation
        Of the source's mask.
    matrix, pixel_mm
        Of the camera: rows and columns, and pixel spacing (row, column) in mm.
    structures
        Soft one-hot `(M, H, W)` as the network sees them, view by view; None without a mask.
    prompt
        The source's words, or those asked for; None without.
    coverage
        `(H, W)` share of each model pixel in the camera's field of view.
    field
        Of the camera, `(rows, columns)`, 1 where it sees anything.
    """

    index: int
    source: Item
    level: float
    deformation: Deformation | None
    matrix: tuple[int, int]
    pixel_mm: tuple[float, float]
    structures: torch.Tensor | None
    prompt: str | None
    coverage: torch.Tensor
    field: torch.Tensor


def noise(seed: int, index: int, redraw: int, shape: Sequence[int]) -> torch.Tensor:
    """Return the standard normal noise that picture `index` starts from, in its draw number `redraw`."""
    rng = np.random.default_rng((seed, index, redraw, _NOISE))
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


def grain(seed: int, index: int, redraw: int) -> np.random.Generator:
    """Return what draws the Poisson noise of a picture."""
    return np.random.default_rng((seed, index, redraw, _GRAIN))


class RequestBatches(Dataset):
    """The batches to generate; number k holds the same items whoever asks, in whatever order.

    A network's answer changes in its last bits with the size of a batch, and with nothing else in it. So the partition
    of the items into batches is fixed and the last batch is filled up; then worker count, sharding and restarts do not
    change a byte.

    Parameters
    ----------
    data
        Training items, see `generator_items`, that lend masks and cameras. Each generated item gets a random one of its
        label.
    transform
        The training's preprocessing.
    statistics
        Knows the count levels.
    per_class
        Pictures of each class or, where labels are lists of 0/1, of each combination that occurs in `data`.
    batch_size
        Pictures of a batch.
    seed
        Not negative.
    mask_variation
        Strength of the masks' random deformation, about 1; 0 turns it off.
    use_masks
        Give the network masks; without them it knows of the anatomy nothing but the camera's field of view.
    start
        Lend also a picture to start from: the source's "image", or one of its "mask"; None: from noise.
    tokenizer
        Lend also the source's prompt, in tokens; None: no prompts.
    noise_shape
        Of one item's noise; None: that of its picture.
    only
        Name of a class: only items that show it; None: all classes.
    prompt
        Words for all items instead of the sources' prompts; needs `only`, for items are written with a label.

    Raises
    ------
    ConfigError
        If a number is out of range, there is no such class, or `prompt` cannot be used.
    DatasetError
        If masks are wanted and a class has none, or prompts and an item has none.
    """

    def __init__(
        self,
        data: Sequence[Item],
        transform: Callable[[Any], Any],
        statistics: TrainingStatistics,
        per_class: int,
        batch_size: int = 16,
        seed: int = 0,
        mask_variation: float = 1.0,
        use_masks: bool = True,
        start: str | None = None,
        tokenizer: Tokenizer | None = None,
        noise_shape: Sequence[int] | None = None,
        only: str | None = None,
        prompt: str | None = None,
    ) -> None:
        for name, value, least in (("per_class", per_class, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} is {value!r}; expected a whole number of at least {least}")
        if mask_variation < 0:
            raise ConfigError(f"mask_variation is {mask_variation}; expected 0 (none) or more, about 1")
        if start not in STARTS:
            raise ConfigError(f"start is {start!r}; expected one of {', '.join(map(str, STARTS))}")
        self.statistics = statistics
        self.per_class = per_class
        self.batch_size = batch_size
        self.seed = seed
        self.mask_variation = float(mask_variation)
        self.use_masks = use_masks
        self.start = start
        self.tokenizer = tokenizer
        self.noise_shape = noise_shape
        self.only = only
        self.prompt = prompt
        self._check_wishes()
        # Half the precision of a soft mask is plenty, and it halves what a large dataset takes.
        # A Compose within a Compose counts as random for CacheDataset and would not be cached.
        spare = [] if start == "image" else [DeleteItemsd("image")]
        light = Compose([transform, *spare, CastToTyped("mask", torch.float16)]).flatten()
        self.sources = CacheDataset(data, light, runtime_cache=True, progress=False)
        self.choices = self._sources_of_labels(use_masks or start == "mask")
        if tokenizer is not None and prompt is None:
            _check_prompts(self._chosen)

    def _check_wishes(self) -> None:
        """Raise `ConfigError` if the class or the prompt that is asked for cannot be had."""
        names = self._class_names
        if self.only is not None and self.only not in names:
            raise ConfigError(
                f"only is {self.only!r}{did_you_mean(str(self.only), names)}; the classes are "
                f"{', '.join(map(repr, names))}"
            )
        if self.prompt is None:
            return
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise ConfigError(f"prompt is {self.prompt!r}; expected words, or leave it out for the dataset's prompts")
        if self.only is None:
            raise ConfigError(
                f"a prompt is given, but no class; name the class that these pictures are to have: --only {names[0]!r}"
            )
        if self.tokenizer is None:
            raise ConfigError("a prompt is given, but this mode draws without one; take --mode sd1, sd2 or sd4")

    def _sources_of_labels(self, masked: bool) -> list[list[int]]:
        """Return for each label, in ascending order, the places of its items that can be sources."""
        choices = _by_label(self.sources.data, masked)
        if self.only is not None:
            number = self._class_names.index(self.only)
            choices = {label: places for label, places in choices.items() if _shows(label, number)}
        for label, places in choices.items():
            if not places:
                raise DatasetError(
                    f"no training item of class {self._class_name(label)!r} has a mask, and this draws from masks; add "
                    f"masks to the dataset, or {self._way_without_masks()}"
                )
        return [choices[label] for label in sorted(choices)]

    @property
    def _class_names(self) -> list[str]:
        return list(self.statistics.settings["class_names"])

    @property
    def _chosen(self) -> list[Item]:
        """The items that can be sources."""
        return [self.sources.data[place] for places in self.choices for place in places]

    def _class_name(self, label: int | Sequence[int]) -> str:
        """Return a label in words; of several classes at once the names with "+" between them."""
        names = self._class_names
        if isinstance(label, int):
            return names[label]
        return " + ".join(name for name, shown in zip(names, label, strict=True) if shown) or "none"

    def _way_without_masks(self) -> str:
        """Return how the bundle generates without masks: one with prompts has modes for it."""
        if self.tokenizer is not None:
            return "take --mode sd2, which draws from the prompt alone"
        return "give --use_masks False to draw from the class alone"

    def recipe(self) -> dict[str, Any]:
        """Return what decides the items, apart from the sources."""
        names = ("per_class", "batch_size", "seed", "mask_variation", "use_masks", "start", "only", "prompt")
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Make sure that a count level is known, and the prompt can be read, of every item that can be asked for.

        Raises
        ------
        ConfigError
            If the statistics are unusable.
        DatasetError
            If the model has not seen a label at a centre, or a strict tokenizer refuses a prompt.
        """
        for item in self._chosen:
            if not self.statistics.levels(item["label"], item["centre"]):
                raise DatasetError(
                    f"{item['image']}: the model has seen no picture of label {label_key(item['label'])} at centre "
                    f"{item['centre']!r}; generate from the dataset it was trained on, see --dataset_dir"
                )
        if self.tokenizer is not None:
            self.tokenizer(sorted({str(self._prompt_of(item)) for item in self._chosen}))

    @property
    def labels(self) -> set[str]:
        """Keys of the labels that are generated."""
        return {label_key(self.sources.data[places[0]]["label"]) for places in self.choices}

    @property
    def count(self) -> int:
        """Number of pictures to generate."""
        return self.per_class * len(self.choices)

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.count // self.batch_size)

    def indices(self, number: int) -> range:
        """Return which items batch `number` holds."""
        return range(number * self.batch_size, min((number + 1) * self.batch_size, self.count))

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return a batch: `image` (noise) and `conditions`, both filled up, `requests` and its `number`.

        The conditions are arguments of a sampler: `y` `(B,)` or `(B, classes)`, `mask` `(B, M + 1, H, W)`, `level`
        `(B,)`; with a start `start` `(B, C, H, W)`, with a tokenizer `tokens` `(B, L)`.
        """
        requests, masks, starts = zip(*(self._request(index) for index in self.indices(number)), strict=True)
        filled = [min(place, len(requests) - 1) for place in range(self.batch_size)]
        shape = self.noise_shape or (self.image_channels, *masks[0].shape[1:])
        conditions = {
            "y": torch.tensor([requests[place].source["label"] for place in filled]),
            "mask": torch.stack([masks[place] for place in filled]),
            "level": torch.tensor([requests[place].level for place in filled]),
        }
        if self.start is not None:
            conditions["start"] = torch.stack([starts[place] for place in filled])
        if self.tokenizer is not None:
            conditions["tokens"] = self.tokenizer([requests[place].prompt for place in filled])
        return {
            "number": number,
            "requests": list(requests),
            "image": torch.stack([noise(self.seed, requests[place].index, 0, shape) for place in filled]),
            "conditions": conditions,
        }

    @cached_property
    def image_channels(self) -> int:
        """Number of views."""
        return len(self.statistics.settings["views"])

    def _prompt_of(self, item: Item) -> str | None:
        """Return the words for an item of this source; None without prompts."""
        if self.tokenizer is None:
            return None
        return item["prompt"] if self.prompt is None else self.prompt

    def _request(self, index: int) -> tuple[Request, torch.Tensor, torch.Tensor | None]:
        """Draw an item, its mask `(M + 1, H, W)`, and the picture `(C, H, W)` that it starts from."""
        rng = np.random.default_rng((self.seed, index))
        place = int(rng.choice(self.choices[index // self.per_class]))
        item = self.sources.data[place]
        level = float(rng.choice(self.statistics.levels(item["label"], item["centre"])))
        has_mask = self.use_masks or self.start == "mask"
        deformation = draw_deformation(self.mask_variation, rng) if has_mask else None
        source = self.sources[place]
        # In a file's header the spacing has a few decimals; float32 has noise behind them.
        rows, columns = source["matrix"].tolist()
        row_mm, column_mm = (float(f"{value:.6g}") for value in source["pixel_mm"].tolist())
        mask = source["mask"].float()
        spacing = self.statistics.settings["spacing_mm"]
        mask = vary_mask(mask, deformation, (row_mm, column_mm) if spacing is None else (spacing, spacing))
        start = source["image"] if self.start == "image" else None
        if self.start == "mask":
            start = mask_picture(mask[:-1], self.image_channels)
        if not self.use_masks:
            mask = torch.cat([torch.zeros_like(mask[:-1]), mask[-1:]])
        request = Request(
            index=index,
            source=item,
            level=level,
            deformation=deformation,
            matrix=(rows, columns),
            pixel_mm=(row_mm, column_mm),
            structures=mask[:-1] if self.use_masks else None,
            prompt=self._prompt_of(item),
            coverage=mask[-1],
            field=self.statistics.field(item["centre"], (rows, columns)),
        )
        return request, mask, start


def mask_picture(structures: torch.Tensor, views: int) -> torch.Tensor:
    """Return a plain picture `(views, H, W)` of soft one-hot structures `(M, H, W)`, view by view."""
    each = structures.unflatten(0, (views, -1))
    further = MASK_BRIGHTNESS[:1] * each.shape[1]
    brightness = torch.tensor((MASK_BRIGHTNESS + further)[: each.shape[1]])
    return (each * brightness[:, None, None]).sum(dim=1)


def _check_prompts(data: Sequence[Item]) -> None:
    without = [item["image"] for item in data if not item.get("prompt", "").strip()]
    if without:
        raise DatasetError(
            f"{len(without)} of {len(data)} training items have no prompt, first {without[0]}; this mode draws from "
            "prompts: add them to the dataset (a column `prompt` of the table given to `index`), or choose another mode"
        )


def _shows(label: int | Sequence[int], number: int) -> bool:
    return label == number if isinstance(label, int) else bool(label[number])


def _by_label(data: Sequence[Item], masked: bool) -> dict[Any, list[int]]:
    """Return for each label the places of its items or, if wanted, of those that have a mask."""
    choices: dict[Any, list[int]] = {}
    for place, item in enumerate(data):
        label = tuple(item["label"]) if isinstance(item["label"], list) else item["label"]
        choices.setdefault(label, [])
        if "mask" in item or not masked:
            choices[label].append(place)
    return choices


class PrepareRequests(PrepareBatch):
    """Move a batch of requests to the device."""

    def __call__(
        self, batchdata: dict[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, None, tuple[Any, ...], dict[str, Any]]:
        """Return the noise `(B, C, H, W)`, and by name the conditions and requests."""
        x0 = batchdata["image"].to(device, non_blocking=non_blocking)
        conditions = {
            name: value.to(device, non_blocking=non_blocking) for name, value in batchdata["conditions"].items()
        }
        further = {**conditions, "requests": batchdata["requests"]}
        return x0.contiguous(memory_format=torch.channels_last), None, (), further


class MissingBatches(Sampler[int]):
    """The numbers of the batches that this shard still has to generate.

    Parameters
    ----------
    count
        Number of batches in all.
    output_dir
        Folder of the dataset, whose records tell which batches are done.
    shard, shards
        This run's part of so many: every batch whose number leaves the remainder `shard`.

    Raises
    ------
    ConfigError
        If there is no such shard.
    """

    def __init__(self, count: int, output_dir: str, shard: int = 0, shards: int = 1) -> None:
        if not 0 <= shard < shards:
            raise ConfigError(f"shard is {shard!r} of {shards!r} shards; expected 0 to shards - 1")
        self.count = count
        self.output_dir = output_dir
        self.shard = shard
        self.shards = shards
        self.numbers = [k for k in range(shard, count, shards) if not record_path(output_dir, k).is_file()]

    def __iter__(self) -> Iterator[int]:
        """Return the numbers in ascending order."""
        return iter(self.numbers)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.numbers)
