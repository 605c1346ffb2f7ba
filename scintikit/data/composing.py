"""Merge several datasets into one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from scintikit.data.contract import SPLITS, SYNTHETIC_KINDS, Dataset, Item, check_splits, item_id, load_dataset
from scintikit.data.writer import DatasetWriter
from scintikit.errors import DatasetError
from scintikit.files import file_sha256, write_atomic


def compose(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    link: bool = True,
    synthetic_only: bool = False,
    per_class: int | None = None,
) -> Path:
    """Merge datasets into one that keeps every item's split, patient, centre and origin.

    Items whose ids clash are renamed (`A_1`, `A_1_2`, ...), and what was made from them follows. A patient who occurs
    in several datasets counts as one.

    Parameters
    ----------
    sources : sequence of path
        Folders of datasets with the same labels in the same order.
    output : path
        New folder. A run that was stopped goes on there.
    link : bool
        Use hard links, which take no space, where the file system can; else copy.
    synthetic_only : bool
        Leave out of the training split what no model or transform made; validation and test stay as they are.
    per_class : int, optional
        At most so many synthetic items of each class (or combination of diseases) from each dataset, the first ones.

    Returns
    -------
    Path
        The folder of the new dataset.

    Raises
    ------
    DatasetError
        If a dataset breaks the contract, labels differ, a patient would be in two splits, a picture would be there
        twice, an item's source is ambiguous, or no training item is left.
    """
    if per_class is not None and (isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 1):
        raise DatasetError(f"per_class is {per_class!r}; expected a whole number of at least 1")
    whole = [load_dataset(source) for source in sources]
    datasets = [_reduced(dataset, synthetic_only, per_class) for dataset in whole]
    _check_alike(datasets)
    _check_patients(datasets)
    _check_pictures(datasets)
    ids = _unique_ids(datasets)
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    files: dict[str, Path] = {}
    for number, dataset in enumerate(datasets):
        for split in SPLITS:
            for item in dataset.splits[split]:
                moved = _renamed(item, number, ids, datasets)
                splits[split].append(moved)
                files |= {moved[key]: dataset.root / item[key] for key in ("image", "mask") if key in item}
    if not splits["training"] and any(dataset.splits["training"] for dataset in whole):
        raise DatasetError(f"{', '.join(map(str, sources))} hold no synthetic training items; name a synthetic dataset")
    check_splits(Path(output), splits)  # Before anything is written.
    writer = DatasetWriter(
        output,
        name="+".join(dataset.name for dataset in datasets),
        description="\n".join(dict.fromkeys(dataset.description for dataset in datasets)),
        labels=list(datasets[0].labels.values()),
        licence="\n".join(dict.fromkeys(dataset.licence for dataset in datasets)),
        modality=datasets[0].modality,
        recipe={
            "command": "compose",
            "sources": [dataset.sha256 for dataset in whole],
            "synthetic_only": synthetic_only,
            "per_class": per_class,
        },
    )
    for relative, source in files.items():
        if not writer.has(relative):
            _place(source, writer.folder / relative, link)
    return writer.finish(**splits).parent


def _reduced(dataset: Dataset, synthetic_only: bool, per_class: int | None) -> Dataset:
    """Return the dataset with fewer training items, see `compose`."""
    count = Counter[str]()

    def wanted(item: Item) -> bool:
        if item["origin"]["kind"] not in SYNTHETIC_KINDS:
            return not synthetic_only
        label = str(item["label"])
        count[label] += 1
        return per_class is None or count[label] <= per_class

    kept = [item for item in dataset.splits["training"] if wanted(item)]
    return replace(dataset, splits=dataset.splits | {"training": kept})


def _check_alike(datasets: Sequence[Dataset]) -> None:
    if not datasets:
        raise DatasetError("there is nothing to compose; name at least one dataset")
    first = datasets[0]
    for other in datasets[1:]:
        for what in ("labels", "modality", "multi_label"):
            if getattr(other, what) != getattr(first, what):
                raise DatasetError(
                    f"{other.root} and {first.root} differ in {what}: {getattr(other, what)} and "
                    f"{getattr(first, what)}; compose only datasets made with the same ones in the same order"
                )
    count = Counter(dataset.sha256 for dataset in datasets)
    twice = [str(dataset.root) for dataset in datasets if count[dataset.sha256] > 1]
    if twice:
        raise DatasetError(f"these datasets are the same: {', '.join(twice)}; name each once")


def _check_patients(datasets: Sequence[Dataset]) -> None:
    found: dict[str, tuple[str, Dataset]] = {}
    for dataset in datasets:
        for split in SPLITS:
            for item in dataset.splits[split]:
                before, where = found.setdefault(item["patient"], (split, dataset))
                if before != split:
                    raise DatasetError(
                        f"the patient of {item['image']!r} ({item['patient']!r}) is in {split} of {dataset.root} and "
                        f"in {before} of {where.root}; split both with one index run, or leave one of them out"
                    )


def _patients(dataset: Dataset) -> set[str]:
    return {item["patient"] for split in SPLITS for item in dataset.splits[split]}


def _check_pictures(datasets: Sequence[Dataset]) -> None:
    """Refuse the same picture of the same patient in two datasets, as when one was composed from another."""
    found: dict[tuple[str, str], Dataset] = {}
    several = Counter(patient for dataset in datasets for patient in _patients(dataset))
    for dataset in datasets:
        for split in SPLITS:
            for item in dataset.splits[split]:
                if several[item["patient"]] < 2:
                    continue
                where = found.setdefault((item["patient"], file_sha256(dataset.root / item["image"])), dataset)
                if where is not dataset:
                    raise DatasetError(
                        f"{item['image']!r} of {dataset.root} is also in {where.root}: one of these datasets holds "
                        "the other, or a part of it; name each picture's dataset once"
                    )


def _unique_ids(datasets: Sequence[Dataset]) -> list[dict[str, str]]:
    """Return for each dataset its ids and their new names, which are unique over all."""
    own = [[item_id(item) for split in SPLITS for item in dataset.splits[split]] for dataset in datasets]
    reserved = {name for names in own for name in names}
    # A new name must not be that of an absent item either, which another item was made from.
    reserved |= {item["origin"].get("source") for dataset in datasets for item in dataset.splits["training"]}
    used: set[str] = set()
    result = []
    for names in own:
        renamed = {}
        for name in names:
            new, number = name, 1
            while new in used or (number > 1 and new in reserved):
                number += 1
                new = f"{name}_{number}"
            used.add(new)
            renamed[name] = new
        result.append(renamed)
    return result


def _renamed(item: Item, number: int, ids: Sequence[dict[str, str]], datasets: Sequence[Dataset]) -> Item:
    """Return the item of dataset `number` with its new paths and its source's new id."""
    moved = dict(item)
    new = ids[number][item_id(item)]
    for key, folder in (("image", "images"), ("mask", "masks")):
        if key in item:
            path = PurePosixPath(item[key])
            suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
            moved[key] = f"{folder}/{new}{suffix}"
    source = item["origin"].get("source")
    if source is not None:
        holders = [number] if source in ids[number] else [k for k, names in enumerate(ids) if source in names]
        if len(holders) > 1:
            raise DatasetError(
                f"{datasets[number].root}: {item['image']!r} was made from {source!r}, and several datasets have that "
                f"item: {', '.join(str(datasets[k].root) for k in holders)}; first compose this dataset with the one "
                "it was made from, then the result with the others"
            )
        moved["origin"] = item["origin"] | {"source": ids[holders[0]][source] if holders else source}
    return moved


def _place(source: Path, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            target.hardlink_to(source.resolve())
            return
        except OSError:
            pass  # Another disk, or a file system without hard links: copy.
    write_atomic(target, source.read_bytes())
