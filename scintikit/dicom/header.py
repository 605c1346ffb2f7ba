"""What an NM header says about its frames.

Values are taken from the raw elements: pydicom's own conversion is slower, and when a value is not valid it
warns with the value, which may identify a patient.

Sources: DICOM PS3.3 C.8.4 (nuclear medicine modules), PS3.16 CID 26 (nuclear medicine projections).
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from scintikit.dicom.scintigram import check_size
from scintikit.errors import ImageReadError

NM_STORAGE = "1.2.840.10008.5.1.4.1.1.20"
SECONDARY_CAPTURE = (
    "1.2.840.10008.5.1.4.1.1.7",  # single frame
    "1.2.840.10008.5.1.4.1.1.7.2",  # multi-frame grayscale byte
    "1.2.840.10008.5.1.4.1.1.7.3",  # multi-frame grayscale word
)

# SNOMED CT code, SNOMED RT code (also used with the older designators SNM3 and 99SDM), code meaning, our name.
PROJECTIONS = (
    ("399321004", "G-5215", "Anterior projection", "ANT"),
    ("399001007", "G-5216", "Posterior projection", "POST"),
    ("399118008", "G-5223", "Left lateral projection", "LLAT"),
    ("399297009", "G-5222", "Right lateral projection", "RLAT"),
    ("399074003", "G-5207", "Left anterior oblique", "LAO"),
    ("399108003", "G-5206", "Right anterior oblique", "RAO"),
    ("399136008", "G-5209", "Left posterior oblique", "LPO"),
    ("399075002", "G-5208", "Right posterior oblique", "RPO"),
)
_VIEW_OF_CODE = {code: view for sct, srt, _, view in PROJECTIONS for code in (sct, srt)}
_VIEW_OF_WORDS = {re.sub(" PROJECTION$", "", meaning.upper()): view for _, _, meaning, view in PROJECTIONS}
_VIEW_OF_WORDS |= {view: view for *_, view in PROJECTIONS}

TC99M_KEV = 140.5
# The centre of a Tc-99m photopeak window lies this close to the peak; the I-123 scatter window (126 to 143) does not.
_CENTRE_TOLERANCE_KEV = 5.0


class T:
    """Tags that are read."""

    IMAGE_TYPE = Tag(0x0008, 0x0008)
    SOP_CLASS = Tag(0x0008, 0x0016)
    SOP_INSTANCE = Tag(0x0008, 0x0018)
    SYNTHETIC = Tag(0x0008, 0x001C)
    MODALITY = Tag(0x0008, 0x0060)
    INSTITUTION = Tag(0x0008, 0x0080)
    CODE_VALUE = Tag(0x0008, 0x0100)
    CODE_MEANING = Tag(0x0008, 0x0104)
    STATION = Tag(0x0008, 0x1010)
    PATIENT_ID = Tag(0x0010, 0x0020)
    BODY_PART = Tag(0x0018, 0x0015)
    FRAME_DURATION = Tag(0x0018, 0x1242)
    SAMPLES = Tag(0x0028, 0x0002)
    PHOTOMETRIC = Tag(0x0028, 0x0004)
    FRAMES = Tag(0x0028, 0x0008)
    ROWS = Tag(0x0028, 0x0010)
    COLUMNS = Tag(0x0028, 0x0011)
    SPACING = Tag(0x0028, 0x0030)
    BITS_ALLOCATED = Tag(0x0028, 0x0100)
    BITS_STORED = Tag(0x0028, 0x0101)
    HIGH_BIT = Tag(0x0028, 0x0102)
    SIGNED = Tag(0x0028, 0x0103)
    INTERCEPT = Tag(0x0028, 0x1052)
    SLOPE = Tag(0x0028, 0x1053)
    MODALITY_LUT = Tag(0x0028, 0x3000)
    WINDOW_VECTOR = Tag(0x0054, 0x0010)
    WINDOWS = Tag(0x0054, 0x0012)
    WINDOW_RANGES = Tag(0x0054, 0x0013)
    LOWER_KEV = Tag(0x0054, 0x0014)
    UPPER_KEV = Tag(0x0054, 0x0015)
    DETECTOR_VECTOR = Tag(0x0054, 0x0020)
    DETECTORS = Tag(0x0054, 0x0022)
    VIEW_CODE = Tag(0x0054, 0x0220)
    IMAGE_ID = Tag(0x0054, 0x0400)
    FLOAT_PIXELS = Tag(0x7FE0, 0x0008)
    DOUBLE_PIXELS = Tag(0x7FE0, 0x0009)
    PIXELS = Tag(0x7FE0, 0x0010)


@dataclass(frozen=True)
class Header:
    """The frames of a file and how their pixels are stored."""

    frames: int
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    slope: float
    intercept: float
    spacing_mm: tuple[float, float] | None
    views: tuple[str, ...]
    windows: tuple[int, ...]
    image_type: str
    body_part: str
    duration_s: float | None
    synthetic: bool

    @property
    def bytes(self) -> int:
        """Length of the pixel data if it is not compressed."""
        return self.frames * self.rows * self.columns * self.bits_allocated // 8


def raw(dataset: Dataset, tag: BaseTag) -> RawDataElement | None:
    """Return the element as it stands in the file; None if it is absent or not a plain value."""
    element = dataset.get_item(tag, keep_deferred=True)  # an empty element counts as deferred: do not convert it
    return element if isinstance(element, RawDataElement) else None


def text(dataset: Dataset, tag: BaseTag) -> str:
    """Return a text element without padding; "" if absent."""
    element = raw(dataset, tag)
    return (element.value or b"").decode("latin-1").strip(" \0") if element else ""


def international_text(dataset: Dataset, tag: BaseTag) -> str:
    """Return a text element decoded by the file's character set; "" if absent."""
    element = raw(dataset, tag)
    plain = element is None or (element.value or b"").isascii()
    return text(dataset, tag) if plain else str(dataset[tag].value).strip(" \0")


def numbers(dataset: Dataset, tag: BaseTag) -> list[float]:
    """Return the finite numbers of a decimal or integer string element; [] if absent or not numbers."""
    try:
        values = [float(part) for part in text(dataset, tag).split("\\")]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []


def shorts(dataset: Dataset, tag: BaseTag) -> tuple[int, ...]:
    """Return the values of an unsigned short element; () if absent."""
    element = raw(dataset, tag)
    data = (element.value or b"") if element else b""
    order = "<" if element is None or element.is_little_endian else ">"
    return struct.unpack(f"{order}{len(data) // 2}H", data[: len(data) // 2 * 2])


def items(dataset: Dataset, tag: BaseTag) -> list[Dataset]:
    """Return the items of a sequence; [] if absent."""
    if tag not in dataset:
        return []
    element = dataset[tag]
    return list(element.value or []) if element.VR == "SQ" else []


def is_code_string(value: str) -> bool:
    """Say whether `value` is a DICOM code string (VR CS) that is not empty; free text could name a patient."""
    return re.fullmatch("[A-Z0-9 _]{1,16}", value) is not None


def _short(dataset: Dataset, tag: BaseTag, name: str, default: int | None = None) -> int:
    values = shorts(dataset, tag)
    if len(values) == 1:
        return values[0]
    if default is None or values:
        raise ImageReadError(f"the header has no valid {name}")
    return default


def _check_kind(dataset: Dataset) -> None:
    sop_class, modality = text(dataset, T.SOP_CLASS), text(dataset, T.MODALITY)
    if modality != "NM":
        stated = modality if re.fullmatch("[A-Z]{2,8}", modality) else "not stated"
        raise ImageReadError(f"it is not nuclear medicine (modality {stated}, expected NM)")
    if sop_class != NM_STORAGE and sop_class not in SECONDARY_CAPTURE:
        raise ImageReadError("it is not a picture (expected Nuclear Medicine or Secondary Capture Image Storage)")
    photometric = text(dataset, T.PHOTOMETRIC)
    if _short(dataset, T.SAMPLES, "SamplesPerPixel", 1) != 1 or photometric not in ("", "MONOCHROME2"):
        raise ImageReadError("its pixels are colours or inverted grey, not counts (expected MONOCHROME2)")
    if items(dataset, T.MODALITY_LUT):
        raise ImageReadError("its pixels go through a modality look-up table, which is not supported")


def _frame_count(dataset: Dataset) -> int:
    stated = text(dataset, T.FRAMES)
    if not stated:
        return 1
    if not stated.lstrip("+").isdecimal():
        raise ImageReadError("the header has no valid NumberOfFrames")
    return int(stated)


def _vector(dataset: Dataset, tag: BaseTag, name: str, frames: int) -> tuple[int, ...]:
    """Return a frame vector of the NM Multi-frame module (PS3.3 C.8.4.8), checked against NumberOfFrames."""
    vector = shorts(dataset, tag)
    if vector and len(vector) != frames:
        raise ImageReadError(f"{name} has {len(vector)} values but NumberOfFrames is {frames}")
    if 0 in vector:
        raise ImageReadError(f"{name} contains 0; numbering starts at 1")
    return vector


def _view_of_detector(detector: Dataset) -> str:
    codes = items(detector, T.VIEW_CODE)
    if not codes:
        return ""
    by_code = _VIEW_OF_CODE.get(text(codes[0], T.CODE_VALUE), "")
    by_words = _VIEW_OF_WORDS.get(re.sub(" PROJECTION$", "", text(codes[0], T.CODE_MEANING).upper()), "")
    if by_code and by_words and by_code != by_words:
        raise ImageReadError(f"a detector's view has the code of {by_code} but the meaning of {by_words}")
    return by_code or by_words


def _views(dataset: Dataset, frames: int, image_type: str) -> tuple[str, ...]:
    """Return the view of each frame: detector vector, then that detector's view code; else the lone frame's ImageID."""
    vector = _vector(dataset, T.DETECTOR_VECTOR, "DetectorVector", frames)
    if "TOMO" in image_type:  # the detector turns: its view code holds for the first angle only
        return ("",) * frames
    by_detector = [_view_of_detector(detector) for detector in items(dataset, T.DETECTORS)]
    if by_detector and vector and max(vector) > len(by_detector):
        raise ImageReadError(f"DetectorVector names detector {max(vector)} but {len(by_detector)} are described")
    if not vector and len(by_detector) == 1:
        vector = (1,) * frames
    views = tuple(by_detector[number - 1] for number in vector) if by_detector and vector else ("",) * frames
    if views == ("",):
        views = (_VIEW_OF_WORDS.get(text(dataset, T.IMAGE_ID).upper(), ""),)
    return views


def _window_limits(window: Dataset) -> tuple[float, float] | None:
    ranges = items(window, T.WINDOW_RANGES)
    lower = [value for item in ranges for value in numbers(item, T.LOWER_KEV)]
    upper = [value for item in ranges for value in numbers(item, T.UPPER_KEV)]
    return (min(lower), max(upper)) if lower and upper else None


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    values = numbers(dataset, T.SPACING)
    return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None


def _rescale(dataset: Dataset) -> tuple[float, float]:
    result = []
    for tag, default in ((T.SLOPE, 1.0), (T.INTERCEPT, 0.0)):
        values = numbers(dataset, tag)
        if text(dataset, tag) and len(values) != 1:
            raise ImageReadError("its RescaleSlope or RescaleIntercept is not a number")
        result.append(values[0] if values else default)
    if result[0] == 0:
        raise ImageReadError("its RescaleSlope is 0, which erases the counts")
    return result[0], result[1]


def _bits(dataset: Dataset) -> tuple[int, int, bool]:
    allocated = _short(dataset, T.BITS_ALLOCATED, "BitsAllocated")
    stored = _short(dataset, T.BITS_STORED, "BitsStored", allocated)
    if allocated not in (8, 16, 32) and not (allocated == 64 and T.DOUBLE_PIXELS in dataset):
        raise ImageReadError(f"BitsAllocated is {allocated} (expected 8, 16 or 32)")
    if not 1 <= stored <= allocated or _short(dataset, T.HIGH_BIT, "HighBit", stored - 1) != stored - 1:
        raise ImageReadError("BitsStored and HighBit contradict BitsAllocated")
    return allocated, stored, _short(dataset, T.SIGNED, "PixelRepresentation", 0) == 1


def parse_header(dataset: Dataset) -> Header:
    """Check that the dataset is a usable NM picture and say what its frames are; else `ImageReadError`."""
    _check_kind(dataset)
    frames = _frame_count(dataset)
    rows, columns = _short(dataset, T.ROWS, "Rows"), _short(dataset, T.COLUMNS, "Columns")
    check_size(frames, rows, columns)
    image_type = (text(dataset, T.IMAGE_TYPE).split("\\") + [""] * 3)[2]
    windows = _vector(dataset, T.WINDOW_VECTOR, "EnergyWindowVector", frames) or (1,) * frames
    allocated, stored, signed = _bits(dataset)
    slope, intercept = _rescale(dataset)
    body_part = text(dataset, T.BODY_PART)
    duration_ms = numbers(dataset, T.FRAME_DURATION)
    return Header(
        frames=frames,
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=signed,
        slope=slope,
        intercept=intercept,
        spacing_mm=_spacing(dataset),
        views=_views(dataset, frames, image_type),
        windows=windows,
        image_type=image_type if is_code_string(image_type) else "",
        body_part=body_part if is_code_string(body_part) else "",
        duration_s=duration_ms[0] / 1000 if len(duration_ms) == 1 and duration_ms[0] > 0 else None,
        synthetic=text(dataset, T.SYNTHETIC) == "YES",
    )


def windows_kev(dataset: Dataset, windows: tuple[int, ...]) -> tuple[tuple[float, float] | None, ...]:
    """Return the `(lower, upper)` limits in keV of the window of each frame, None where they are not stated."""
    limits = [_window_limits(window) for window in items(dataset, T.WINDOWS)]
    if limits and max(windows) > len(limits):
        raise ImageReadError(f"EnergyWindowVector names window {max(windows)} but {len(limits)} are described")
    return tuple(limits[number - 1] if limits else None for number in windows)


def frames_of_window(
    windows: tuple[int, ...], limits_kev: tuple[tuple[float, float] | None, ...], wanted: int | None
) -> list[int]:
    """Return the frames of one energy window, numbered from 1 as in EnergyWindowVector.

    Without a number, a file with one window gives all its frames, and a file with several those of its Tc-99m
    photopeak: the only window that contains 140.5 keV and is centred within 5 keV of it. Else `ImageReadError`.
    """
    limits = dict(zip(windows, limits_kev, strict=True))
    if wanted is None and len(limits) > 1:
        peaks = [number for number, limit in limits.items() if _is_photopeak(limit)]
        if len(peaks) != 1:
            listed = ", ".join(f"{number}: {_kev(limit)}" for number, limit in sorted(limits.items()))
            raise ImageReadError(
                f"it has several energy windows ({listed}) and not exactly one is the Tc-99m photopeak; "
                "say which one with energy_window=NUMBER"
            )
        wanted = peaks[0]
    if wanted is not None and wanted not in limits:
        raise ImageReadError(f"it has no energy window {wanted} (it has {sorted(limits)})")
    return [frame for frame, number in enumerate(windows) if wanted in (None, number)]


def _is_photopeak(limits: tuple[float, float] | None) -> bool:
    if limits is None:
        return False
    lower, upper = limits
    return lower <= TC99M_KEV <= upper and abs((lower + upper) / 2 - TC99M_KEV) <= _CENTRE_TOLERANCE_KEV


def _kev(limits: tuple[float, float] | None) -> str:
    return f"{limits[0]:g} to {limits[1]:g} keV" if limits else "limits not stated"
