"""Pictures in a folder that is no dataset: what inference gets."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from monai.data import Dataset

from scintikit.data.contract import FILE_NAME, SPLITS
from scintikit.data.pairing import group_views
from scintikit.data.tree import Picture, describe, in_parallel, list_files, printable
from scintikit.errors import DatasetError, find_cause

logger = logging.getLogger(__name__)

#: DICOM files often have no suffix, or a number; other names are not looked at.
SUFFIXES = frozenset({"", ".dcm", ".dicom", ".ima", ".nii", ".gz", ".png", ".jpg", ".jpeg"})


def find_images(folder: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Return `{"image": path, "id": path relative to the folder}` for every picture under a folder, or for one file.

    What is left out because of its name, or because its folder cannot be read, is logged; so are the masks of a
    dataset. Odd characters in an id are escaped, and one that a spreadsheet would take for a formula begins with `./`.

    Raises
    ------
    DatasetError
        If the folder does not exist or holds nothing that could be a picture.
    """
    root = Path(folder).expanduser().absolute()
    if root.is_file():
        return [{"image": str(root), "id": _id(root.name)}]
    if not root.is_dir():
        raise DatasetError(
            f"{root}: there is no such folder; give the folder of DICOM, NIfTI or PNG files as dataset_dir"
        )
    names, left_out = list_files(root)
    masks = _masks(root)
    files = [name for name in names if name not in masks and _may_be_picture(PurePosixPath(name))]
    for name, reason in left_out:
        logger.warning("left out %s: %s", printable(name), reason)
    others = sorted(set(names) - set(files))
    if others:
        logger.info(
            "left out %d files that are no pictures by their names or are masks, such as %s",
            len(others),
            _id(others[0]),
        )
    if not files:
        raise DatasetError(f"{root}: no DICOM, NIfTI or PNG file in this folder or below it")
    return [{"image": str(root / name), "id": _id(name)} for name in files]


def find_studies(
    folder: str | os.PathLike[str], layout: str = "views", workers: int | None = None
) -> list[dict[str, str | list[str]]]:
    """Return the studies of anterior and posterior views under a folder, as items for `ScintigramReader`.

    Files are found as `find_images` does. Two that hold one view each of the same study become one item, `{"image":
    [anterior path, posterior path], "id": that of the anterior file}`; any other file is an item of its own, as is one
    that holds several views. Which files belong together is told by their headers, PNG, JPEG and NIfTI files' names
    (`scintikit.data.pairing`).

    Parameters
    ----------
    folder
        The folder, or a single file.
    layout
        That of `ScintigramReader`. Where one picture shows both views, no files are put together.
    workers
        Processes that read headers; default one for each CPU.

    Raises
    ------
    DatasetError
        If the folder does not exist or holds nothing that could be a picture.
    """
    items = find_images(folder)
    root = Path(folder).expanduser().absolute()
    if layout != "views" or root.is_file():
        return [dict(item) for item in items]
    names = [Path(item["image"]).relative_to(root).as_posix() for item in items]
    found = in_parallel(partial(describe, root), names, "reading headers", workers, progress=False)
    # What cannot be described stays: whoever reads it says why.
    pictures = [Picture(name) if isinstance(what, str) else what for name, what in zip(names, found, strict=True)]
    identifiers = {item["image"]: item["id"] for item in items}
    groups = [[str(root / picture.relative) for picture in study] for study in group_views(pictures)]
    return [{"image": paths if len(paths) > 1 else paths[0], "id": identifiers[paths[0]]} for paths in groups]


def _masks(root: Path) -> set[str]:
    """Return the masks of a dataset, as its `dataset.json` names them; nothing in any other folder."""
    path = root / FILE_NAME
    if not path.is_file():  # a pipe would be waited for
        return set()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {item["mask"] for split in SPLITS for item in content[split] if "mask" in item}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def _id(relative: str) -> str:
    return ("./" if relative[0] in "=+-@" else "") + printable(relative)


def _may_be_picture(path: PurePosixPath) -> bool:
    suffix = path.suffix.lower()
    return not path.name.startswith(".") and (suffix in SUFFIXES or suffix[1:].isdigit()) and path.name != "DICOMDIR"


class TolerantDataset(Dataset):
    """A MONAI Dataset in which one unreadable picture does not stop the rest.

    Such an item comes out as an empty image with the reason under `error`, so that batches keep their shape and the
    handler that writes the results can report it. Only errors that scintikit raises on purpose are caught. Every item
    also has a `warning`, which is "" unless the transform gives one.

    Parameters
    ----------
    data, transform
        As for `monai.data.Dataset`.
    image_size
        Shape (H, W) that the transform produces.
    channels
        Number of channels (views) that it produces.
    """

    def __init__(
        self, data: Sequence[Any], transform: Callable[..., Any], image_size: Sequence[int], channels: int = 1
    ) -> None:
        super().__init__(data, transform)
        self.shape = (channels, *image_size)

    def __getitem__(self, index: Any) -> Any:
        """Return the transformed item with `error` "" or, if it cannot be read, the reason; and its `warning`."""
        try:
            return {"warning": ""} | super().__getitem__(index) | {"error": ""}
        except Exception as error:  # MONAI wraps what a transform raises in a RuntimeError
            reason = find_cause(error)
            if reason is None:
                raise
            image, identifier = torch.zeros(self.shape), self.data[index]["id"]
            return {"image": image, "id": identifier, "warning": "", "error": printable(str(reason))}
