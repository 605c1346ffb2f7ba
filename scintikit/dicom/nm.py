"""Reading NM DICOM: whole files and, for an index, headers alone."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread, read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from scintikit.dicom.header import Header, T, frames_of_window, international_text, parse_header, text, windows_kev
from scintikit.dicom.pixels import check_decodable, read_pixels
from scintikit.dicom.scintigram import MAX_PIXELS, Scintigram, naming
from scintikit.errors import ImageReadError

_DATASET_START = 144  # preamble 128, "DICM" 4, (0002,0000) 12; the length in (0002,0000) counts from here
_HEAD = 2048


@dataclass(frozen=True)
class HeaderSummary:
    """What an index needs to know of a file, from its header alone.

    `reason` is "" for a usable scintigram, else why it is refused. The identifiers are there to be hashed or
    compared, never shown, so they are left out of the `repr`.
    """

    path: str
    usable: bool
    reason: str
    views: tuple[str, ...] = ()
    frames: int = 0
    rows: int = 0
    columns: int = 0
    spacing_mm: tuple[float, float] | None = None
    image_type: str = ""
    body_part: str = ""
    synthetic: bool = False
    sop_instance_uid: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    institution: str = field(default="", repr=False)
    station: str = field(default="", repr=False)


def _parse(file: BinaryIO, *, header_only: bool) -> tuple[Dataset, UID]:
    """Return the elements that are read, and the transfer syntax of the pixels."""
    head = file.read(_HEAD)
    if not head:
        raise ImageReadError("the file is empty")
    if head[128:132] != b"DICM":
        raise ImageReadError('it is not DICOM (no "DICM" at byte 128)')
    if str(DeflatedExplicitVRLittleEndian).encode() in head:
        return _inflate(head + file.read()), DeflatedExplicitVRLittleEndian
    if header_only:
        file.seek(0)
        dataset = dcmread(file, stop_before_pixels=True)
    else:  # from memory, where a damaged length cannot ask for more than there is
        dataset = dcmread(BytesIO(head + file.read()))
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise ImageReadError("it does not state its transfer syntax")
    return dataset, UID(syntax)


def _inflate(data: bytes) -> Dataset:
    """Parse a deflated file (PS3.5 A.5), inflating no more than the largest picture needs."""
    start = _DATASET_START + struct.unpack("<I", data[_DATASET_START - 4 : _DATASET_START])[0]
    limit = MAX_PIXELS * 2
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(data[start:], limit)
    if inflater.unconsumed_tail:
        raise ImageReadError(f"it inflates to more than {limit} bytes")
    if not inflater.eof:
        raise ImageReadError("its deflated data is truncated")
    return read_dataset(BytesIO(content), is_implicit_VR=False, is_little_endian=True)


def scan_header(path: str | os.PathLike[str]) -> HeaderSummary:
    """Read a file's header, without its pixels; any file that is refused says why in `reason` instead of raising."""
    try:
        with naming(path), Path(path).open("rb") as file:
            dataset, syntax = _parse(file, header_only=True)
            header = parse_header(dataset)
            if len(set(header.windows)) > 1:
                frames_of_window(header.windows, windows_kev(dataset, header.windows), None)
            check_decodable(syntax, header.bits_stored)
            if syntax == DeflatedExplicitVRLittleEndian:
                read_pixels(dataset, header, syntax)  # inflated already, so checking them costs nothing more
            elif not syntax.is_encapsulated and header.bytes > os.fstat(file.fileno()).st_size:
                raise ImageReadError("its pixel data is missing or truncated")
            return _summary(path, dataset, header)
    except ImageReadError as error:
        return HeaderSummary(path=str(path), usable=False, reason=str(error))


def _summary(path: str | os.PathLike[str], dataset: Dataset, header: Header) -> HeaderSummary:
    return HeaderSummary(
        path=str(path),
        usable=True,
        reason="",
        views=header.views,
        frames=header.frames,
        rows=header.rows,
        columns=header.columns,
        spacing_mm=header.spacing_mm,
        image_type=header.image_type,
        body_part=header.body_part,
        synthetic=header.synthetic,
        sop_instance_uid=text(dataset, T.SOP_INSTANCE),
        patient_id=international_text(dataset, T.PATIENT_ID),
        institution=international_text(dataset, T.INSTITUTION),
        station=international_text(dataset, T.STATION),
    )


def read_nm(path: Path, energy_window: int | None) -> Scintigram:
    """Read a DICOM file; see `scintikit.dicom.read_scintigram`."""
    with path.open("rb") as file:
        dataset, syntax = _parse(file, header_only=False)
    header = parse_header(dataset)
    limits_kev = windows_kev(dataset, header.windows)
    frames = frames_of_window(header.windows, limits_kev, energy_window)
    stored = read_pixels(dataset, header, syntax)
    counts = (stored if len(frames) == header.frames else stored[frames]).astype(np.float32)
    if (header.slope, header.intercept) != (1.0, 0.0):
        counts = (counts.astype(np.float64) * header.slope + header.intercept).astype(np.float32)
    return Scintigram(
        counts=counts,
        spacing_mm=header.spacing_mm,
        views=tuple(header.views[frame] for frame in frames),
        image_type=header.image_type,
        body_part=header.body_part,
        energy_windows_kev=tuple(limits_kev[frame] for frame in frames),
        duration_s=header.duration_s,
        synthetic=header.synthetic,
    )
