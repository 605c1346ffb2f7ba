"""Copy a picture into a dataset: the counts and technical facts, and nothing about the patient."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from scintikit.data.labels import Row
from scintikit.data.tree import Picture, bare_reason
from scintikit.data.writer import DatasetWriter
from scintikit.dicom import Scintigram, ScintigramWarning, read_scintigram, write_scintigram
from scintikit.dicom.write import TC99M_WINDOW_KEV
from scintikit.errors import ScintikitError
from scintikit.files import write_atomic


@dataclass(frozen=True)
class Entry:
    """A picture on its way into the dataset, with its pseudonyms; `name` will be its id."""

    picture: Picture
    row: Row
    patient: str
    centre: str
    name: str
    uid_seed: str


class CopyError(ScintikitError):
    """A picture can be read but does not fit a dataset."""


def copy_entry(
    entry: Entry, *, root: Path, writer: DatasetWriter, assumed_spacing_mm: float | None
) -> dict[str, str] | str:
    """Write an entry's picture and mask unless they are there; return their paths, or why it is refused."""
    path = root / entry.picture.relative
    mask_path = root / entry.row.mask
    files: dict[str, str] = {}
    try:
        picture = _read(path)
        spacing = picture.spacing_mm or ((assumed_spacing_mm,) * 2 if assumed_spacing_mm else None)
        files["image"] = f"images/{entry.name}{_suffix(path, picture, spacing)}"
        if entry.row.mask:
            files["mask"] = f"masks/{entry.name}{'.nii.gz' if spacing else '.png'}"
            mask = _read(mask_path).counts
            _check_mask(mask, picture.counts)
            if not writer.has(files["mask"]):
                _write(writer.folder / files["mask"], picture, mask, spacing, entry.uid_seed)
        if not writer.has(files["image"]):
            _write(writer.folder / files["image"], picture, picture.counts, spacing, entry.uid_seed)
    except ScintikitError as error:
        reason = str(error)
        for named in (path, mask_path, *(writer.folder / relative for relative in files.values())):
            reason = bare_reason(reason, named)
        return reason
    return files


def _read(path: Path) -> Scintigram:
    with warnings.catch_warnings():
        # Negative counts are kept (as NIfTI), and whoever reads the dataset is warned.
        warnings.simplefilter("ignore", ScintigramWarning)
        return read_scintigram(path)


def _suffix(path: Path, picture: Scintigram, spacing: tuple[float, float] | None) -> str:
    """Choose the format: PNG stays 16-bit PNG; DICOM holds whole counts; NIfTI takes everything else."""
    name = path.name.lower()
    if name.endswith((".png", ".jpg", ".jpeg")):
        return ".png"
    if spacing is None:
        raise CopyError("it does not state its pixel spacing; give it with --assumed_spacing_mm")
    counts = picture.counts
    whole = counts.min() >= 0 and counts.max() <= 65535 and bool((counts == np.rint(counts)).all())
    return ".nii.gz" if name.endswith((".nii", ".nii.gz")) or not whole else ".dcm"


def _check_mask(mask: np.ndarray, counts: np.ndarray) -> None:
    if mask.shape != counts.shape:
        raise CopyError(f"its mask is {mask.shape}, the picture {counts.shape}; both must have the same shape")
    if mask.min() < 0 or (mask != np.rint(mask)).any():
        raise CopyError("its mask does not hold whole numbers from 0")


def _write(
    path: Path, picture: Scintigram, counts: np.ndarray, spacing: tuple[float, float] | None, uid_seed: str
) -> None:
    if spacing is None:
        # A PNG of unknown spacing: whoever reads it has to say which to assume.
        buffer = BytesIO()
        Image.fromarray(counts[0].astype(np.uint16)).save(buffer, "PNG")
        write_atomic(path, buffer.getvalue())
        return
    windows = [window for window in picture.energy_windows_kev if window]
    write_scintigram(
        path,
        counts,
        spacing_mm=spacing,
        views=picture.views,
        uid_seed=uid_seed,
        body_part=picture.body_part,
        acquisition_s=picture.duration_s,
        image_type=picture.image_type or "STATIC",
        synthetic=False,
        energy_windows_kev=windows if len(windows) == len(counts) else (TC99M_WINDOW_KEV,),
    )
