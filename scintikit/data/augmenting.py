"""Conventional augmentation on disk: a dataset of moved copies of another one's training scintigrams."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import scintikit
from scintikit.data.augmentation import BatchAugmentation, Movements
from scintikit.data.contract import SYNTHETIC_KINDS, Dataset, Item, load_datalist, load_dataset
from scintikit.data.views import TwoViewAugmentation, body_frame, mirrored_prompt, mirrored_view
from scintikit.data.whole_body import FIELD_MM
from scintikit.data.writer import DatasetWriter
from scintikit.dicom import Scintigram, read_scintigram, write_scintigram
from scintikit.dicom.write import TC99M_WINDOW_KEV
from scintikit.errors import ConfigError, DatasetError, did_you_mean

NOTICE = "Augmented copy, not for clinical use"
MAX_COUNTS = 65535
#: Largest value from which on numbers that are not whole can be rounded without harm.
FINE = 100
#: The largest sensible value of each setting of the movements; the smallest is 0.
LIMITS = {"flip": 1.0, "rotate_deg": 180.0, "shift": 0.5, "scale": 0.5}


def augment(
    dataset: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    per_class: int | None = None,
    copies: int | None = None,
    seed: int = 0,
    geometry: Mapping[str, float] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a dataset of copies of another one's training scintigrams, flipped, rotated, shifted and scaled at random.

    It is the data set CA of arXiv 2503.00366: it holds copies alone, as NM DICOM with the views, matrix and pixel
    spacing of their sources, and `compose` adds it to the original. How a copy is moved follows from `seed`, the
    source's place and the copy's number, so 500 of a class are among 1,000 of it. A run that was killed goes on where
    it stopped, and the bytes do not depend on `workers`.

    Counts are interpolated, so they are no longer Poisson distributed: their variance is about half of their mean, and
    neighbours are correlated. Their sum is kept: a gland made larger is fainter. Fractions are rounded up or down at
    random, each with its own probability; rounding to the nearest number would take 5 to 9 % of what lies below one
    count a pixel. A picture of more than 65,535 counts in a pixel is made fainter as a whole. What leaves the field of
    view is lost, and emptiness comes in.

    Parameters
    ----------
    dataset : path
        Folder of a dataset; its synthetic items are left out.
    output : path
        New folder, or one that the same call began.
    per_class : int, optional
        Copies of each class (of several diseases: of each set of labels that occurs); its sources take turns.
    copies : int, optional
        Copies of each scintigram instead; default 1.
    seed : int
        Not negative; another seed gives other copies.
    geometry : dict, optional
        Any of `flip` (probability), `rotate_deg`, `shift` (share of the side) and `scale` (relative), as for
        `BatchAugmentation`. Default: those of the classifiers' training, `BatchAugmentation`, and for whole-body scans
        `TwoViewAugmentation`.
    workers : int, optional
        Threads; default one for each CPU core.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The folder of the new dataset.

    Raises
    ------
    ConfigError
        If an argument is not one of the above.
    DatasetError
        If a dataset breaks the contract, has nothing to copy, or `output` holds something else; if a scintigram does
        not state its pixel spacing, is empty, holds fractions instead of counts, or its mask has another grid.
    """
    amount = _amount(per_class, copies)
    geometries = _geometries(geometry or {})
    _check_whole("seed", seed, 0)
    if workers is not None:
        _check_whole("workers", workers, 1)
    original = load_dataset(dataset)
    sources = _sources(original)
    plan = _plan(sources, amount, seed)
    recipe = {"command": "augment", "source": original.sha256, "seed": seed, **amount, "geometry": geometries}
    versions = {"scintikit": scintikit.__version__, "torch": torch.__version__, "numpy": np.__version__}
    writer = DatasetWriter(
        output,
        name=f"{original.name}-augmented",
        description=f"{NOTICE}. Flipped, rotated, shifted and scaled copies of: {original.description}",
        labels=list(original.labels.values()),
        licence=original.licence,
        modality=original.modality,
        recipe=recipe | {"versions": versions},
    )
    if writer.complete:
        return writer.folder
    copier = CopyWriter(writer, recipe, sources, geometries)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        made = pool.map(copier.write, plan)
        items = list(tqdm(made, "augmenting", len(plan), unit="image", disable=not progress))
    writer.finish(training=items)
    return writer.folder


class Copy(NamedTuple):
    """A copy to be made: the place of its source, and which of that source's copies it is."""

    place: int
    number: int


class CopyWriter:
    """Writes copies and their masks.

    Parameters
    ----------
    writer
        Of the dataset.
    recipe
        Its hash is part of every name, so that copies of two runs can be merged.
    sources
        Items with absolute paths.
    geometries
        Settings of the movements, of one view and of a whole body.
    """

    def __init__(
        self,
        writer: DatasetWriter,
        recipe: Mapping[str, Any],
        sources: Sequence[Item],
        geometries: Mapping[str, Mapping[str, float]],
    ) -> None:
        self.writer = writer
        self.seed = recipe["seed"]
        self.run = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        self.sources = sources
        self.geometries = geometries

    def write(self, copy: Copy) -> Item:
        """Write what is missing of a copy and return its item; raises as `augment` does."""
        source = self.sources[copy.place]
        original = _read(source)
        augmentation = BatchAugmentation(**self.geometries[_kind(original)], brightness=0.0)
        augmentation.reseed(self.seed, *copy)
        movements = augmentation.draw(1)
        name = f"augmented-{self.run[:8]}-{source['id']}_{copy.number:03d}"
        item = {"image": f"images/{name}.dcm", "label": source["label"]}
        if not self.writer.has(item["image"]):
            counts = _moved_counts(original, movements, augmentation.generator)
            if not counts.any():
                raise DatasetError(f"{source['image']}: nothing of it is left in its copy; give a smaller shift")
            self._save(item["image"], counts, original.views, original, movements)
        if "mask" in source:
            item["mask"] = f"masks/{name}.nii.gz"
            if not self.writer.has(item["mask"]):
                mask, views = _read_mask(source, original)
                moved = _moved(mask, original, movements, views, labels=True).numpy()
                self._save(item["mask"], moved, views, original, movements)
        prompt = _prompt(source, movements)
        if prompt is not None:
            item["prompt"] = prompt
        origin = {"kind": "augmented", "seed": self.seed, "source": source["id"], "settings": _told(copy, movements)}
        return item | {"patient": source["patient"], "centre": source["centre"], "origin": origin}

    def _save(
        self, relative: str, values: np.ndarray, views: Sequence[str], original: Scintigram, movements: Movements
    ) -> None:
        """Write values `(view, row, column)` with what is known of their original."""
        windows = [window for window in original.energy_windows_kev if window is not None]
        stated = len(windows) == len(views)
        assert original.spacing_mm is not None  # see _read
        write_scintigram(
            self.writer.folder / relative,
            values,
            spacing_mm=original.spacing_mm,
            views=[mirrored_view(view) for view in views] if movements.mirrored else views,
            uid_seed=f"{self.run}/{relative}",
            body_part=original.body_part,
            description=NOTICE,
            acquisition_s=original.duration_s,
            image_type="WHOLE BODY" if _kind(original) == "whole body" else "STATIC",
            energy_windows_kev=windows if stated else [TC99M_WINDOW_KEV],
        )


def _amount(per_class: int | None, copies: int | None) -> dict[str, int]:
    if per_class is not None and copies is not None:
        raise ConfigError("both per_class and copies are given; give one of them")
    name, value = ("copies", 1 if copies is None else copies) if per_class is None else ("per_class", per_class)
    _check_whole(name, value, 1)
    return {name: value}


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; give a whole number from {least}")


def _geometries(wanted: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the settings of the movements for the two kinds of scintigrams."""
    for name, value in wanted.items():
        if name not in LIMITS:
            raise ConfigError(f"there is no {name!r}{did_you_mean(name, LIMITS)}; known are {', '.join(LIMITS)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LIMITS[name]:
            raise ConfigError(f"{name} is {value!r}; give a number from 0 to {LIMITS[name]:g}")
    usual = {"one view": BatchAugmentation(), "whole body": TwoViewAugmentation()}
    return {
        kind: {name: float(wanted.get(name, getattr(augmentation, name))) for name in LIMITS}
        for kind, augmentation in usual.items()
    }


def _kind(scintigram: Scintigram) -> str:
    """Return which settings it needs: a whole body hardly turns on its table."""
    assert scintigram.spacing_mm is not None  # see _read
    length_mm = scintigram.counts.shape[1] * scintigram.spacing_mm[0]
    return "whole body" if scintigram.image_type == "WHOLE BODY" or length_mm >= FIELD_MM[0] else "one view"


def _sources(dataset: Dataset) -> list[Item]:
    """Return the training items that are not synthetic."""
    found = [item for item in load_datalist(dataset.root, "training") if item["origin"]["kind"] not in SYNTHETIC_KINDS]
    if not found:
        raise DatasetError(
            f"{dataset.root}: no training item is acquired or simulated, so there is nothing to copy; give the "
            "original dataset"
        )
    return found


def _plan(sources: Sequence[Item], amount: Mapping[str, int], seed: int) -> list[Copy]:
    """Return the copies, those of each source's first turn before the second: any first part is of many sources."""
    if "copies" in amount:
        return [Copy(place, number) for number in range(amount["copies"]) for place in range(len(sources))]
    places: dict[str, list[int]] = {}
    for place, item in enumerate(sources):
        places.setdefault(str(item["label"]), []).append(place)
    plan = []
    for found in places.values():
        turns = np.random.default_rng(seed).permutation(found).tolist()
        plan += [Copy(turns[k % len(turns)], k // len(turns)) for k in range(amount["per_class"])]
    return plan


def _read(item: Item) -> Scintigram:
    original = read_scintigram(item["image"])
    if original.spacing_mm is None:
        raise DatasetError(
            f"{item['image']} does not state its pixel spacing, which its copy has to; make the dataset again with "
            "`python -m tools index --assumed_spacing_mm 2.4`, or what your camera has"
        )
    largest = original.counts.max()
    if largest <= 0:
        raise DatasetError(f"{item['image']} holds no counts; leave it out")
    if largest < FINE and (original.counts % 1).any():
        raise DatasetError(
            f"{item['image']} holds fractions up to {largest:g}; copies are whole counts, so give it with its counts"
        )
    return original


def _moved(values: np.ndarray, scintigram: Scintigram, movements: Movements, views: Sequence[str], labels: bool) -> Any:
    """Return `(view, row, column)` moved as the patient, float64; a posterior view moves the other way."""
    assert scintigram.spacing_mm is not None  # see _read
    row_mm, column_mm = scintigram.spacing_mm
    body = body_frame(torch.from_numpy(values.astype(np.float64)), views)
    moved = movements.move(body[None], labels=labels, pixel_aspect=row_mm / column_mm)[0]
    return body_frame(moved, views)


def _moved_counts(original: Scintigram, movements: Movements, generator: torch.Generator) -> np.ndarray:
    """Return whole counts, uint16."""
    counts = _moved(original.counts.clip(min=0), original, movements, original.views, labels=False)
    counts = counts / movements.size.double() ** 2
    # A picture that fills 16 bits would be cut off where it is made smaller.
    counts *= min(1.0, MAX_COUNTS / float(counts.max().clamp(min=1)))
    whole = (counts + torch.rand(counts.shape, generator=generator, dtype=counts.dtype)).floor()
    return whole.clamp(max=MAX_COUNTS).numpy().astype(np.uint16)


def _read_mask(source: Item, original: Scintigram) -> tuple[np.ndarray, Sequence[str]]:
    """Return a mask `(view, row, column)` and its views, which are its image's where it does not say."""
    mask = read_scintigram(source["mask"])
    if mask.counts.shape[1:] != original.counts.shape[1:] or len(mask.counts) not in (1, len(original.counts)):
        raise DatasetError(
            f"{source['mask']} is {mask.counts.shape}, its image {original.counts.shape}; a mask must lie on its "
            "image's grid"
        )
    if len(original.counts) > 1 and mask.views == ("POST",):
        raise DatasetError(f"{source['mask']} is of the posterior view alone; give a mask for each view of its image")
    same = len(mask.counts) == len(original.counts) and not any(mask.views)
    return mask.counts, original.views if same else mask.views


def _prompt(source: Item, movements: Movements) -> str | None:
    """Return what can be said of the copy.

    A simulated picture's prompt says left and right in known words. How a user's prompt says it, in which language,
    nobody knows, so a mirrored copy goes without.
    """
    prompt: str | None = source.get("prompt")
    if prompt is None or not movements.mirrored:
        return prompt
    return mirrored_prompt(prompt) if source["origin"]["kind"] == "simulated" else None


def _told(copy: Copy, movements: Movements) -> dict[str, Any]:
    """Return what the origin tells about how the copy was moved."""
    return {
        "copy": copy.number,
        "flip": bool(movements.mirrored),
        "rotate_deg": round(math.degrees(float(movements.angle)), 3),
        "shift": [round(value, 4) for value in movements.shift[0].tolist()],
        "scale": round(float(movements.size), 4),
    }
