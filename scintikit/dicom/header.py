"""What an NM header says about its frames.

Sources: DICOM PS3.3 C.8.4 (nuclear medicine modules), PS3.16 CID 26 (nuclear medicine projections).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from scintikit.dicom.elements import CHARACTER_SET, Elements
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

#: A view that is stated and none of those that are known: nobody's anterior one.
OTHER_VIEW = "OTHER"
NOT_STATED = ("", "UNKNOWN", "UNSPECIFIED")

#: Values that are passed on; anything else in these elements could be a name.
#: ImageType value 3 (PS3.3 C.8.4.9.1.1) and terms for the parts that are examined (PS3.16 annex L).
IMAGE_TYPES = frozenset(
    ("STATIC", "DYNAMIC", "GATED", "WHOLE BODY", "TOMO", "GATED TOMO", "RECON TOMO", "RECON GATED TOMO", "FUSED")
)
BODY_PARTS = frozenset(
    [
        "ABDOMEN",
        "ADRENAL",
        "ANKLE",
        "ARM",
        "BONE",
        "BRAIN",
        "BREAST",
        "CHEST",
        "ELBOW",
        "EXTREMITY",
        "FEMUR",
        "FOOT",
        "HAND",
        "HEAD",
        "HEADNECK",
        "HEART",
        "HIP",
        "KIDNEY",
        "KNEE",
        "LEG",
        "LIVER",
        "LUNG",
        "LSPINE",
        "NECK",
        "PAROTID",
        "PELVIS",
        "SALIVARYGLAND",
        "SHOULDER",
        "SKULL",
        "SPINE",
        "SPLEEN",
        "STERNUM",
        "STOMACH",
        "SSPINE",
        "THYROID",
        "TSPINE",
        "WHOLEBODY",
        "WRIST",
    ]
)

TC99M_KEV = 140.5
# The centre of a Tc-99m photopeak window lies this close to the peak; the I-123 scatter window (126 to 143) does not.
_CENTRE_TOLERANCE_KEV = 5.0


class T:
    """The tags that are read."""

    CHARACTER_SET = CHARACTER_SET
    IMAGE_TYPE = 0x00080008
    SOP_CLASS = 0x00080016
    SOP_INSTANCE = 0x00080018
    SYNTHETIC = 0x0008001C
    MODALITY = 0x00080060
    INSTITUTION = 0x00080080
    CODE_VALUE = 0x00080100
    CODE_MEANING = 0x00080104
    STATION = 0x00081010
    PATIENT_ID = 0x00100020
    BODY_PART = 0x00180015
    FRAME_DURATION = 0x00181242
    STUDY = 0x0020000D
    SERIES = 0x0020000E
    SAMPLES = 0x00280002
    PHOTOMETRIC = 0x00280004
    FRAMES = 0x00280008
    ROWS = 0x00280010
    COLUMNS = 0x00280011
    SPACING = 0x00280030
    BITS_ALLOCATED = 0x00280100
    BITS_STORED = 0x00280101
    HIGH_BIT = 0x00280102
    SIGNED = 0x00280103
    INTERCEPT = 0x00281052
    SLOPE = 0x00281053
    MODALITY_LUT = 0x00283000
    WINDOW_VECTOR = 0x00540010
    WINDOWS = 0x00540012
    WINDOW_RANGES = 0x00540013
    LOWER_KEV = 0x00540014
    UPPER_KEV = 0x00540015
    DETECTOR_VECTOR = 0x00540020
    DETECTORS = 0x00540022
    VIEW_CODE = 0x00540220
    IMAGE_ID = 0x00540400
    FLOAT_PIXELS = 0x7FE00008
    DOUBLE_PIXELS = 0x7FE00009
    PIXELS = 0x7FE00010


SEQUENCES = frozenset((T.MODALITY_LUT, T.WINDOWS, T.WINDOW_RANGES, T.DETECTORS, T.VIEW_CODE))
WANTED = frozenset(tag for name, tag in vars(T).items() if name.isupper()) - SEQUENCES


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


def _short(elements: Elements, tag: int, name: str, default: int | None = None) -> int:
    values = elements.shorts(tag)
    if len(values) == 1:
        return values[0]
    if default is None or values:
        raise ImageReadError(f"the header has no valid {name}")
    return default


def _check_kind(elements: Elements) -> None:
    sop_class, modality = elements.text(T.SOP_CLASS), elements.text(T.MODALITY)
    if modality != "NM":
        stated = modality if re.fullmatch("[A-Z]{2,8}", modality) else "not stated"
        raise ImageReadError(f"it is not nuclear medicine (modality {stated}, expected NM)")
    if sop_class != NM_STORAGE and sop_class not in SECONDARY_CAPTURE:
        raise ImageReadError("it is not a picture (expected Nuclear Medicine or Secondary Capture Image Storage)")
    photometric = elements.text(T.PHOTOMETRIC)
    if _short(elements, T.SAMPLES, "SamplesPerPixel", 1) != 1 or photometric not in ("", "MONOCHROME2"):
        raise ImageReadError("its pixels are colours or inverted grey, not counts (expected MONOCHROME2)")
    if elements.items(T.MODALITY_LUT):
        raise ImageReadError("its pixels go through a modality look-up table, which is not supported")


def _frame_count(elements: Elements) -> int:
    stated = elements.text(T.FRAMES)
    if not stated:
        return 1
    if not stated.lstrip("+").isdecimal() or len(stated) > 12:
        raise ImageReadError("the header has no valid NumberOfFrames")
    return int(stated)


def _vector(elements: Elements, tag: int, name: str, frames: int) -> tuple[int, ...]:
    """Return a frame vector of the NM Multi-frame module (PS3.3 C.8.4.8), checked against NumberOfFrames."""
    vector = elements.shorts(tag)
    if vector and len(vector) != frames:
        raise ImageReadError(f"{name} has {len(vector)} values but NumberOfFrames is {frames}")
    if 0 in vector:
        raise ImageReadError(f"{name} contains 0; numbering starts at 1")
    return vector


def _view_of_detector(detector: Elements) -> str:
    codes = detector.items(T.VIEW_CODE)
    if not codes:
        return ""
    code, words = codes[0].text(T.CODE_VALUE), codes[0].text(T.CODE_MEANING).upper()
    by_code = _VIEW_OF_CODE.get(code, "")
    by_words = _VIEW_OF_WORDS.get(re.sub(" (PROJECTION|VIEW)$", "", words), "")
    if by_code and by_words and by_code != by_words:
        raise ImageReadError(f"a detector's view has the code of {by_code} but the meaning of {by_words}")
    stated = code or words not in NOT_STATED
    return by_code or by_words or (OTHER_VIEW if stated else "")


def _views(elements: Elements, frames: int, image_type: str) -> tuple[str, ...]:
    """Return the view of each frame: detector vector, then that detector's view code; else the lone frame's ImageID."""
    vector = _vector(elements, T.DETECTOR_VECTOR, "DetectorVector", frames)
    if "TOMO" in image_type:  # the detector turns: its view code holds for the first angle only
        return ("",) * frames
    by_detector = [_view_of_detector(detector) for detector in elements.items(T.DETECTORS)]
    if by_detector and vector and max(vector) > len(by_detector):
        raise ImageReadError(f"DetectorVector names detector {max(vector)} but {len(by_detector)} are described")
    if not vector and len(by_detector) == 1:
        vector = (1,) * frames
    views = tuple(by_detector[number - 1] for number in vector) if by_detector and vector else ("",) * frames
    if views == ("",):
        views = (_VIEW_OF_WORDS.get(elements.text(T.IMAGE_ID).upper(), ""),)
    return views


def _window_limits(window: Elements) -> tuple[float, float] | None:
    ranges = window.items(T.WINDOW_RANGES)
    lower = [value for item in ranges for value in item.numbers(T.LOWER_KEV)]
    upper = [value for item in ranges for value in item.numbers(T.UPPER_KEV)]
    return (min(lower), max(upper)) if lower and upper else None


def _spacing(elements: Elements) -> tuple[float, float] | None:
    values = elements.numbers(T.SPACING)
    return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None


def _rescale(elements: Elements) -> tuple[float, float]:
    result = []
    for tag, default in ((T.SLOPE, 1.0), (T.INTERCEPT, 0.0)):
        values = elements.numbers(tag)
        if elements.text(tag) and len(values) != 1:
            raise ImageReadError("its RescaleSlope or RescaleIntercept is not a number")
        result.append(values[0] if values else default)
    if result[0] == 0:
        raise ImageReadError("its RescaleSlope is 0, which erases the counts")
    return result[0], result[1]


def _bits(elements: Elements) -> tuple[int, int, bool]:
    allocated = _short(elements, T.BITS_ALLOCATED, "BitsAllocated")
    stored = _short(elements, T.BITS_STORED, "BitsStored", allocated)
    if allocated not in (8, 16, 32) and not (allocated == 64 and T.DOUBLE_PIXELS in elements.pixels):
        raise ImageReadError(f"BitsAllocated is {allocated} (expected 8, 16 or 32)")
    if not 1 <= stored <= allocated or _short(elements, T.HIGH_BIT, "HighBit", stored - 1) != stored - 1:
        raise ImageReadError("BitsStored and HighBit contradict BitsAllocated")
    return allocated, stored, _short(elements, T.SIGNED, "PixelRepresentation", 0) == 1


def parse_header(elements: Elements) -> Header:
    """Check that the elements are those of a usable NM picture and say what its frames are; else `ImageReadError`."""
    _check_kind(elements)
    frames = _frame_count(elements)
    rows, columns = _short(elements, T.ROWS, "Rows"), _short(elements, T.COLUMNS, "Columns")
    check_size(frames, rows, columns)
    image_type = (elements.text(T.IMAGE_TYPE).split("\\") + [""] * 3)[2]
    windows = _vector(elements, T.WINDOW_VECTOR, "EnergyWindowVector", frames) or (1,) * frames
    allocated, stored, signed = _bits(elements)
    slope, intercept = _rescale(elements)
    body_part = elements.text(T.BODY_PART)
    duration_ms = elements.numbers(T.FRAME_DURATION)
    return Header(
        frames=frames,
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=signed,
        slope=slope,
        intercept=intercept,
        spacing_mm=_spacing(elements),
        views=_views(elements, frames, image_type),
        windows=windows,
        image_type=image_type if image_type in IMAGE_TYPES or not image_type else "OTHER",
        body_part=body_part if body_part in BODY_PARTS else "",
        duration_s=duration_ms[0] / 1000 if len(duration_ms) == 1 and duration_ms[0] > 0 else None,
        synthetic=elements.text(T.SYNTHETIC) == "YES",
    )


def windows_kev(elements: Elements, windows: tuple[int, ...]) -> tuple[tuple[float, float] | None, ...]:
    """Return the `(lower, upper)` limits in keV of the window of each frame, None where they are not stated."""
    limits = [_window_limits(window) for window in elements.items(T.WINDOWS)]
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
