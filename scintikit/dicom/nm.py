"""Reading NM DICOM: whole files and, for an index, headers alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from scintikit.dicom.elements import Elements, ParsedFile, Truncated, parse_file
from scintikit.dicom.header import SEQUENCES, WANTED, Header, T, frames_of_window, parse_header, windows_kev
from scintikit.dicom.pixels import Pixels, find_pixels, read_pixels
from scintikit.dicom.scintigram import Scintigram, naming, ordinary_size
from scintikit.errors import ImageReadError

_HEAD = 2**16  # the usual header is shorter than this
_LONGEST_HEAD = 2**26  # with all that makers put into it; deflated files are read whole


@dataclass(frozen=True)
class HeaderSummary:
    """What an index needs to know of a file, from its header alone.

    `reason` is "" for a usable scintigram, else why it is refused. `read_frames` are those, from 0, that are read by
    default: of several energy windows, the frames of the photopeak. The identifiers are there to be hashed or
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
    study_uid: str = field(default="", repr=False)
    series_uid: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    institution: str = field(default="", repr=False)
    station: str = field(default="", repr=False)
    read_frames: tuple[int, ...] = ()

    @property
    def lone_view(self) -> str:
        """The view of a file of which one frame is read; "" for others, and if it is not stated."""
        return self.views[self.read_frames[0]] if len(self.read_frames) == 1 else ""


def scan_header(path: str | os.PathLike[str]) -> HeaderSummary:
    """Read a file's header, without its pixels; any file that is refused says why in `reason` instead of raising."""
    try:
        with naming(path):
            parsed, header, _ = _parse(Path(path), whole=False)
            frames = frames_of_window(header.windows, windows_kev(parsed.elements, header.windows), None)
            return _summary(path, parsed.elements, header, frames)
    except ImageReadError as error:
        return HeaderSummary(path=str(path), usable=False, reason=str(error))


def parse_start(path: str | os.PathLike[str], wanted: frozenset[int], sequences: frozenset[int]) -> ParsedFile:
    """Parse a file as `parse_file` does, by its first bytes: as many as the header may have."""
    length = ordinary_size(Path(path))
    with Path(path).open("rb", buffering=0) as file:
        head = file.read(_HEAD)
        try:
            return parse_file(head, length, wanted, sequences)
        except Truncated:
            more = min(_LONGEST_HEAD, length - len(head))
            return parse_file(head + file.read(more), length, wanted, sequences)


def _parse(path: Path, *, whole: bool) -> tuple[ParsedFile, Header, Pixels]:
    """Read a file's header and find its pixels; if `whole`, read these too, once all that is announced makes sense."""
    parsed = parse_start(path, WANTED, SEQUENCES)
    header = parse_header(parsed.elements)
    pixels = find_pixels(parsed, header)
    if whole and len(parsed.data) < pixels.stop:
        with path.open("rb", buffering=0) as file:
            parsed = replace(parsed, data=file.read(pixels.stop))
    return parsed, header, pixels


def _summary(
    path: str | os.PathLike[str], elements: Elements, header: Header, read_frames: Sequence[int]
) -> HeaderSummary:
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
        sop_instance_uid=elements.text(T.SOP_INSTANCE),
        study_uid=elements.text(T.STUDY),
        series_uid=elements.text(T.SERIES),
        patient_id=elements.international_text(T.PATIENT_ID),
        institution=elements.international_text(T.INSTITUTION),
        station=elements.international_text(T.STATION),
        read_frames=tuple(read_frames),
    )


def read_nm(path: Path, energy_window: int | None) -> Scintigram:
    """Read a DICOM file; see `scintikit.dicom.read_scintigram`."""
    parsed, header, pixels = _parse(path, whole=True)
    limits_kev = windows_kev(parsed.elements, header.windows)
    frames = frames_of_window(header.windows, limits_kev, energy_window)
    stored = read_pixels(parsed, header, pixels)
    counts = (stored if len(frames) == header.frames else stored[frames]).astype(np.float32)
    if (header.slope, header.intercept) != (1.0, 0.0):
        with np.errstate(over="ignore"):  # told below
            counts = (counts.astype(np.float64) * header.slope + header.intercept).astype(np.float32)
    if not np.isfinite(counts).all():
        raise ImageReadError("its counts are too large for 32-bit numbers; look at its RescaleSlope")
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
