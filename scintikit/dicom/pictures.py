"""NIfTI, PNG and JPEG pictures, in the orientation of DICOM.

What these formats have no field for (view names, exact spacing) is kept as one line of JSON: a comment extension
in NIfTI, a text chunk named `scintikit` in PNG.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Extension
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scintikit.dicom.scintigram import VIEWS, Scintigram, check_growth, check_size, ordinary_size
from scintikit.errors import ImageReadError

_NOTE = "scintikit"
_NIFTI_HEADER = 348
_NIFTI_COMMENT = 6
# A pHYs chunk is believed between these bounds: what a gamma camera has, and coarser than any screen or printer.
_PNG_SPACING_MM = (0.5, 20.0)


def read_nifti(path: Path) -> Scintigram:
    """Read a NIfTI file whose array axes are (column, row, view).

    The affine decides the direction: axes are flipped so that columns run to the patient's left and rows to the
    feet (or the back), which is how radiological viewers show it.
    """
    stored = ordinary_size(path)
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        head = file.read(_NIFTI_HEADER)
        if len(head) < _NIFTI_HEADER:
            raise ImageReadError("it is not NIfTI (too short)" if head else "the file is empty")
        header = nib.Nifti1Header(head)
        columns, rows, views = _nifti_shape(header)
        size = int(header.get_data_offset()) + views * rows * columns * header.get_data_dtype().itemsize
        check_growth(stored, size)
        data = head + file.read(size - len(head))
    if len(data) < size:
        raise ImageReadError(f"it has {len(data)} bytes, its header announces {size}")
    image = nib.Nifti1Image.from_bytes(data)
    array = np.asarray(image.dataobj, np.float32).reshape(columns, rows, views)
    if not np.isfinite(array).all():
        raise ImageReadError("it contains NaN or infinity")
    array = _as_displayed(array, image.affine)
    zooms = [float(zoom) for zoom in header.get_zooms()[:2]]
    comments = [
        extension.get_content() for extension in image.header.extensions if extension.get_code() == _NIFTI_COMMENT
    ]
    note = next((found for found in map(_parse_note, comments) if found), {})
    spacing = (zooms[1], zooms[0]) if min(zooms) > 0 and np.isfinite(zooms).all() else None
    return _described(np.ascontiguousarray(array.transpose(2, 1, 0)), spacing, note)


def _nifti_shape(header: nib.Nifti1Header) -> tuple[int, int, int]:
    shape = [int(length) for length in header.get_data_shape()]
    kind = header.get_data_dtype()
    if kind.kind not in "iuf":
        raise ImageReadError(f"its pixels are {kind}, not counts")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if not 2 <= len(shape) <= 3:
        raise ImageReadError(f"its shape is {tuple(shape)} (expected columns, rows and perhaps views)")
    columns, rows, views = (shape + [1])[:3]
    check_size(views, rows, columns)
    if header.get_data_offset() > 2**20:
        raise ImageReadError("its data offset is absurd")
    return columns, rows, views


def _as_displayed(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    column_axis, row_axis, _ = nib.aff2axcodes(affine)
    if column_axis not in ("L", "R") or row_axis not in ("I", "S", "A", "P"):
        raise ImageReadError(
            f"its first axes run to {column_axis} and {row_axis} (expected left or right, then head, feet, front, back)"
        )
    array = array[::-1] if column_axis == "R" else array
    return array[:, ::-1] if row_axis in ("S", "A") else array


def read_raster(path: Path) -> Scintigram:
    """Read a grey PNG (8 or 16 bits) or JPEG of one view; pixels are taken as counts as they stand."""
    stored = ordinary_size(path)
    if not stored:
        raise ImageReadError("the file is empty")
    with Image.open(path, formats=("PNG", "JPEG")) as image:
        check_size(1, image.height, image.width)
        check_growth(stored, image.height * image.width * len(image.getbands()))
        if image.getexif().get(0x0112, 1) != 1:
            raise ImageReadError("it is stored rotated (EXIF orientation); save it upright")
        array = _grey(image)
        note = _parse_note(str(image.info.get(_NOTE, "")))
        spacing = _png_spacing(image)
    return _described(array[None].astype(np.float32), spacing, note)


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode in ("L", "1") or image.mode.startswith("I"):
        return np.asarray(image).astype(np.float32)
    if image.mode not in ("RGB", "P"):
        raise ImageReadError(f"its pixels are {image.mode}, not grey")
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise ImageReadError("it is a colour picture; counts cannot be told from colours")
    return red


def _png_spacing(image: Image.Image) -> tuple[float, float] | None:
    if image.format != "PNG" or "dpi" not in image.info:
        return None
    column, row = (25.4 / float(dots) if dots > 0 else 0.0 for dots in image.info["dpi"])
    lowest, highest = _PNG_SPACING_MM
    return (row, column) if lowest <= row <= highest and lowest <= column <= highest else None


def _parse_note(content: Any) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    note = value.get(_NOTE) if isinstance(value, dict) else None
    return note if isinstance(note, dict) else {}


def _described(counts: np.ndarray, spacing_mm: tuple[float, float] | None, note: dict[str, Any]) -> Scintigram:
    """Add what the note says, as far as it fits the picture."""
    views = note.get("views")
    if not isinstance(views, list) or len(views) != len(counts) or not all(view in (*VIEWS, "") for view in views):
        views = [""] * len(counts)
    stated = note.get("spacing_mm")
    if isinstance(stated, list) and len(stated) == 2 and all(isinstance(v, float) and v > 0 for v in stated):
        spacing_mm = (stated[0], stated[1])
    return Scintigram(counts, spacing_mm, tuple(views), synthetic=note.get("synthetic") is True)


def note_of(spacing_mm: tuple[float, float], views: Sequence[str], synthetic: bool) -> str:
    """Return the line of JSON that NIfTI and PNG files carry."""
    content = {"spacing_mm": [float(value) for value in spacing_mm], "views": list(views), "synthetic": synthetic}
    return json.dumps({_NOTE: content})


def encode_nifti(counts: np.ndarray, spacing_mm: tuple[float, float], note: str, *, compress: bool) -> bytes:
    """Return a NIfTI-1 file, float32, axes (column, row, view)."""
    row, column = spacing_mm
    # RAS+: columns run to the patient's left, rows to the feet, the axis of views to the front (1 mm, meaningless).
    affine = np.array([[-column, 0, 0, 0], [0, 0, 1, 0], [0, -row, 0, 0], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.ascontiguousarray(counts.transpose(2, 1, 0), np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.header.extensions.append(Nifti1Extension(_NIFTI_COMMENT, note.encode()))
    data = image.to_bytes()
    return gzip.compress(data, 6, mtime=0) if compress else data


def encode_png(picture: np.ndarray, spacing_mm: tuple[float, float], note: str) -> bytes:
    """Return a 16-bit grey PNG of one view `(row, column)`."""
    row, column = spacing_mm
    chunks = PngInfo()
    chunks.add_text(_NOTE, note)
    buffer = BytesIO()
    Image.fromarray(picture.astype(np.uint16)).save(buffer, "PNG", pnginfo=chunks, dpi=(25.4 / column, 25.4 / row))
    return buffer.getvalue()
