"""Copy a picture into a dataset: the counts and technical facts, and nothing about the patient."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from scintikit.data.labels import Row
from scintikit.data.pairing import PAIR
from scintikit.data.tree import PICTURE_SUFFIXES, Picture, bare_reason
from scintikit.data.writer import DatasetWriter
from scintikit.dicom import (
    Scintigram,
    ScintigramWarning,
    StudyOptions,
    read_study,
    write_scintigram,
)
from scintikit.dicom.names import view_of_name
from scintikit.dicom.read import RASTER_SUFFIXES
from scintikit.dicom.write import TC99M_WINDOW_KEV
from scintikit.errors import ScintikitError
from scintikit.files import write_atomic


@dataclass(frozen=True)
class Entry:
    """A picture, or the two of a study, on the way into the dataset, with pseudonyms; `name` will be the id."""

    pictures: tuple[Picture, ...]
    row: Row
    patient: str
    centre: str
    name: str
    uid_seed: str


class CopyError(ScintikitError):
    """A picture can be read but does not fit a dataset."""


def copy_entry(
    entry: Entry, *, root: Path, writer: DatasetWriter, assumed_spacing_mm: float | None, named_views: bool
) -> dict[str, str] | str:
    """Write an entry's picture, both views in one file, and mask unless they are there.

    Parameters
    ----------
    entry, root, writer, assumed_spacing_mm
        What to copy, from and to where, and the spacing of pictures that do not state theirs.
    named_views
        Whether the view of a lone PNG, JPEG or NIfTI picture that states none is taken from its name.

    Returns
    -------
    dict or str
        Their paths, or why the entry is refused.
    """
    paths = [root / picture.relative for picture in entry.pictures]
    mask_path = root / entry.row.mask
    files: dict[str, str] = {}
    try:
        picture = _read_entry(paths, named_views)
        spacing = picture.spacing_mm or ((assumed_spacing_mm,) * 2 if assumed_spacing_mm else None)
        files["image"] = f"images/{entry.name}{_suffix(paths[0], picture, spacing)}"
        if entry.row.mask:
            files["mask"] = f"masks/{entry.name}{'.nii.gz' if spacing else '.png'}"
            mask = _read(mask_path).counts
            _check_mask(mask, picture.counts)
            if not _has(writer, files["mask"], [*paths, mask_path]):
                _write(writer.folder / files["mask"], picture, mask, spacing, entry.uid_seed)
        if not _has(writer, files["image"], paths):
            _write(writer.folder / files["image"], picture, picture.counts, spacing, entry.uid_seed)
    except ScintikitError as error:
        reason = str(error)
        for named in (*paths, mask_path, *(writer.folder / relative for relative in files.values())):
            reason = bare_reason(reason, named)
        return reason
    return files


def _has(writer: DatasetWriter, relative: str, sources: Sequence[Path]) -> bool:
    """Tell whether a file was written after its sources were changed last."""
    newest = max(path.stat().st_mtime_ns for path in sources)
    return writer.has(relative) and (writer.folder / relative).stat().st_mtime_ns >= newest


def _read_entry(paths: Sequence[Path], named_views: bool) -> Scintigram:
    if len(paths) > 1:
        return _read(*paths)
    picture = _read(paths[0])
    if named_views and picture.views == ("",) and paths[0].name.lower().endswith(PICTURE_SUFFIXES):
        return replace(picture, views=(view_of_name(paths[0]),))
    return picture


def _read(*paths: Path) -> Scintigram:
    with warnings.catch_warnings():
        # Negative counts are kept (as NIfTI), and whoever reads the dataset is warned.
        warnings.simplefilter("ignore", ScintigramWarning)
        return read_study(paths, StudyOptions(PAIR if len(paths) > 1 else None))[0]


def _suffix(path: Path, picture: Scintigram, spacing: tuple[float, float] | None) -> str:
    """Choose the format: a PNG stays one, with 16 bits; DICOM holds whole counts; NIfTI takes everything else."""
    name = path.name.lower()
    if name.endswith(RASTER_SUFFIXES) and len(picture.counts) == 1 and (spacing or picture.views == ("",)):
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
