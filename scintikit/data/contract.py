"""The dataset contract: a folder with `dataset.json` and files beside it.

`dataset.schema.json` in this package describes the format; this module reads it and checks every rule.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from scintikit.errors import DatasetError

FILE_NAME = "dataset.json"
SPLITS = ("training", "validation", "test")
#: Kinds of origin that a model or a transform made from training data; they may stand in training only.
SYNTHETIC_KINDS = frozenset({"augmented", "fm", "sd1", "sd2", "sd3", "sd4", "gan"})

#: What an item that shows none of several diseases is called; so no disease may be.
NORMAL = "normal"

Item = dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """A dataset that keeps every rule of the contract.

    Attributes
    ----------
    root : Path
        The folder, absolute.
    name, description, licence, modality : str
        As in `dataset.json`.
    labels : dict of int to str
        Class names by class number, in ascending order.
    multi_label : bool
        Whether an item's label is a list of 0/1 (one for each class) instead of a class number.
    splits : dict of str to list of dict
        The items of "training", "validation" and "test" as stored, with paths relative to `root`.
    """

    root: Path
    name: str
    description: str
    licence: str
    modality: str
    labels: dict[int, str]
    multi_label: bool
    splits: dict[str, list[Item]]

    @cached_property
    def sha256(self) -> str:
        """Hash of `dataset.json` and of the content of every file it names, in the order of their paths."""
        digest = hashlib.sha256((self.root / FILE_NAME).read_bytes())
        items = (item for split in SPLITS for item in self.splits[split])
        for relative in sorted({path for item in items for path in _paths(item)}):
            digest.update(hashlib.sha256((self.root / relative).read_bytes()).digest())
        return digest.hexdigest()


def load_dataset(folder: str | os.PathLike[str]) -> Dataset:
    """Read a dataset's folder and check every rule of the contract.

    Raises
    ------
    DatasetError
        If a rule is broken; the message names the folder, the item and what to do.
    """
    root = Path(folder).expanduser().absolute()
    content = _read_json(root)
    check(root, content)
    return Dataset(
        root=root,
        name=content["name"],
        description=content["description"],
        licence=content["licence"],
        modality=content["modality"],
        labels={number: content["labels"][str(number)] for number in range(len(content["labels"]))},
        multi_label=any(isinstance(item["label"], list) for split in SPLITS for item in content[split]),
        splits={split: content[split] for split in SPLITS},
    )


def load_datalist(folder: str | os.PathLike[str], split: str, class_names: Sequence[str] | None = None) -> list[Item]:
    """Return a split's items with absolute paths for `image` and `mask`, and each with its `id`.

    Raises
    ------
    DatasetError
        If the dataset breaks the contract, the split is unknown or empty, or its labels are not `class_names`.
    """
    dataset = load_dataset(folder)
    if isinstance(class_names, str):
        raise DatasetError(f"class_names is {class_names!r}; expected a list: --class_names \"['a','b']\"")
    if class_names is not None and list(class_names) != list(dataset.labels.values()):
        raise DatasetError(
            f"{dataset.root}: its labels are {list(dataset.labels.values())}, but the bundle is set up for "
            f"{list(class_names)}; give the dataset's as --class_names"
        )
    if split not in SPLITS:
        raise DatasetError(f"{dataset.root}: there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    if not dataset.splits[split]:
        raise DatasetError(f"{dataset.root}: the split {split!r} has no items; give a dataset that has some")
    return [
        item | {"id": item_id(item)} | {key: str(dataset.root / item[key]) for key in ("image", "mask") if key in item}
        for item in dataset.splits[split]
    ]


def label_names(folder: str | os.PathLike[str]) -> list[str]:
    """Return the class names in the order of their numbers."""
    return list(load_dataset(folder).labels.values())


def item_id(item: Mapping[str, Any]) -> str:
    """Return an item's id: its image's file name without the suffix (`.nii.gz` counts as one)."""
    return PurePosixPath(item["image"].removesuffix(".gz")).stem


def check(root: Path, content: Any) -> None:
    """Check the content of a `dataset.json` and the files beside it in `root`; `DatasetError` names what is wrong."""
    _check_schema(root, content)
    _check_labels(root, content)
    _check_files(root, content)
    check_splits(root, content)


def _read_json(root: Path) -> Any:
    try:
        return json.loads((root / FILE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            f"{root} is not a dataset, or its making did not finish: it has no {FILE_NAME}. "
            "Run again the command that was making it, or make one with `python -m tools index` or `simulate`"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{root / FILE_NAME} cannot be read as JSON: {error}. Make the dataset again") from error


@cache
def _validator() -> Draft202012Validator:
    schema = json.loads((resources.files(__package__) / "dataset.schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator(schema)


def _check_schema(root: Path, content: Any) -> None:
    error = best_match(_validator().iter_errors(content))
    if error is not None:
        raise DatasetError(
            f"{root / FILE_NAME}: {_place(content, error)}: {error.message[:300]}. "
            "Correct it; scintikit/data/dataset.schema.json describes every field"
        )


def _place(content: Any, error: ValidationError) -> str:
    """Say in words where in the file a schema error lies, with the item's picture where there is one."""
    path = list(error.absolute_path)
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".") or "top level"
    if len(path) >= 2 and path[0] in SPLITS:
        item = content[path[0]][path[1]]
        if isinstance(item, dict) and "image" in item:
            place += f" (image {item['image']!r})"
    return place


def _items(content: Mapping[str, Any]) -> Iterator[tuple[str, Item]]:
    for split in SPLITS:
        for item in content[split]:
            yield split, item


def _paths(item: Item) -> list[str]:
    return [item[key] for key in ("image", "mask") if key in item]


def _check_labels(root: Path, content: Mapping[str, Any]) -> None:
    labels = content["labels"]
    count = len(labels)
    if set(labels) != {str(number) for number in range(count)}:
        raise DatasetError(f"{root}: the numbers of the labels are {sorted(labels)}; number them from 0 without a gap")
    if len(set(labels.values())) < count:
        raise DatasetError(f"{root}: two labels have the same name: {sorted(labels.values())}; give each its own")
    forms = set()
    for split, item in _items(content):
        label = item["label"]
        forms.add(isinstance(label, list))
        if isinstance(label, list) and len(label) != count:
            raise DatasetError(
                f"{root}: {split} item {item['image']!r} has a list of {len(label)} labels; "
                f"the dataset has {count} ({_known(labels)}), so give one 0 or 1 for each"
            )
        if not isinstance(label, list) and label >= count:
            raise DatasetError(
                f"{root}: {split} item {item['image']!r} has the unknown label {label}; known are {_known(labels)}"
            )
    if not forms:
        raise DatasetError(f"{root}: the dataset has no items; add some to {', '.join(SPLITS)}")
    if len(forms) > 1:
        raise DatasetError(
            f"{root}: some items have a class number as label and others a list of 0/1; use one form for all"
        )
    if True in forms and NORMAL in map(str.casefold, labels.values()):
        raise DatasetError(
            f"{root}: {NORMAL!r} is one of its several diseases, but what shows none of them is called that; make the "
            f"dataset again with --negative {NORMAL}"
        )


def _known(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{number} {name!r}" for number, name in labels.items())


def _check_files(root: Path, content: Mapping[str, Any]) -> None:
    parents: dict[Path, bool] = {}
    home = root.resolve()
    for split, item in _items(content):
        for relative in _paths(item):
            reason = _file_fault(root, home, relative, parents)
            if reason:
                raise DatasetError(f"{root}: {split} item {item['image']!r}: the file {relative!r} {reason}")


def _file_fault(root: Path, home: Path, relative: str, parents: dict[Path, bool]) -> str | None:
    """Return what is wrong with a file, or None. `parents` remembers which folders lie inside `home`."""
    pure = PurePosixPath(relative)
    odd = ".." in pure.parts or "\\" in relative or "\0" in relative
    if odd or not pure.name or pure.is_absolute() or ":" in pure.parts[0]:
        return "is not a relative path inside the dataset; copy the file into the folder and name it relative to it"
    path = root / relative
    try:
        state = path.stat()
    except OSError as error:
        return f"is missing or out of reach ({error.strerror}); put it back or make the dataset again"
    if not stat.S_ISREG(state.st_mode):
        return "is not an ordinary file; put the picture there"
    if state.st_size == 0:
        return "is empty; make the dataset again"
    if not os.access(path, os.R_OK):
        return "may not be read; change its permissions"
    if path.parent not in parents:
        parents[path.parent] = path.parent.resolve().is_relative_to(home)
    if not parents[path.parent] or (path.is_symlink() and not path.resolve().is_relative_to(home)):
        return "is a link to outside the dataset; put a copy there (`python -m tools compose` makes one)"
    return None


def check_splits(root: Path, content: Mapping[str, Any]) -> None:
    """Check the rules that need no files: unique ids, no patient in two splits, synthetic items and their sources."""
    split_of_id: dict[str, str] = {}
    split_of_patient: dict[str, str] = {}
    for split, item in _items(content):
        name, patient = item_id(item), item["patient"]
        if name in split_of_id:
            raise DatasetError(
                f"{root}: two items have the id {name!r} ({split} and {split_of_id[name]}); rename one's image file"
            )
        split_of_id[name] = split
        if split_of_patient.setdefault(patient, split) != split:
            raise DatasetError(
                f"{root}: the patient of {split} item {item['image']!r} ({patient!r}) is also in "
                f"{split_of_patient[patient]}; keep all pictures of a patient in one split"
            )
        if split != "training" and item["origin"]["kind"] in SYNTHETIC_KINDS:
            raise DatasetError(
                f"{root}: {split} item {item['image']!r} is synthetic ({item['origin']['kind']}); "
                "nothing is measured on synthetic pictures, so move it to training"
            )
    for item in content["training"]:
        source = item["origin"].get("source")
        if split_of_id.get(source, "training") != "training":
            raise DatasetError(
                f"{root}: training item {item['image']!r} was made from {source!r}, which is in "
                f"{split_of_id[source]}; leave the synthetic item out or make it from a training item"
            )
