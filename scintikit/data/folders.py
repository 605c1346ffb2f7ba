"""Pictures in a folder that is no dataset: what inference gets."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from monai.data import Dataset

from scintikit.data.tree import list_files, printable
from scintikit.errors import DatasetError, find_cause

logger = logging.getLogger(__name__)

#: DICOM files often have no suffix, or a number; other names are not looked at.
SUFFIXES = frozenset({"", ".dcm", ".dicom", ".ima", ".nii", ".gz", ".png", ".jpg", ".jpeg"})


def find_images(folder: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Return `{"image": path, "id": path relative to the folder}` for every picture under a folder, or for one file.

    What is left out because of its name, or because its folder cannot be read, is logged. Odd characters in an id are
    escaped, and one that a spreadsheet would take for a formula begins with `./`.

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
    files = [name for name in names if _may_be_picture(PurePosixPath(name))]
    for name, reason in left_out:
        logger.warning("left out %s: %s", printable(name), reason)
    others = sorted(set(names) - set(files))
    if others:
        logger.info("left out %d files that are no pictures by their names, such as %s", len(others), _id(others[0]))
    if not files:
        raise DatasetError(f"{root}: no DICOM, NIfTI or PNG file in this folder or below it")
    return [{"image": str(root / name), "id": _id(name)} for name in files]


def _id(relative: str) -> str:
    return ("./" if relative[0] in "=+-@" else "") + printable(relative)


def _may_be_picture(path: PurePosixPath) -> bool:
    suffix = path.suffix.lower()
    return not path.name.startswith(".") and (suffix in SUFFIXES or suffix[1:].isdigit()) and path.name != "DICOMDIR"


class TolerantDataset(Dataset):
    """A MONAI Dataset in which one unreadable picture does not stop the rest.

    Such an item comes out as an empty image with the reason under `error`, so that batches keep their shape and the
    handler that writes the results can report it. Only errors that scintikit raises on purpose are caught.

    Parameters
    ----------
    data, transform
        As for `monai.data.Dataset`.
    image_size
        Shape (H, W) that the transform produces.
    """

    def __init__(self, data: Sequence[Any], transform: Callable[..., Any], image_size: Sequence[int]) -> None:
        super().__init__(data, transform)
        self.image_size = tuple(image_size)

    def __getitem__(self, index: Any) -> Any:
        """Return the transformed item with `error` "" or, if it cannot be read, the reason."""
        try:
            return super().__getitem__(index) | {"error": ""}
        except Exception as error:  # MONAI wraps what a transform raises in a RuntimeError
            reason = find_cause(error)
            if reason is None:
                raise
            image, identifier = torch.zeros(1, *self.image_size), self.data[index]["id"]
            return {"image": image, "id": identifier, "error": printable(str(reason))}
