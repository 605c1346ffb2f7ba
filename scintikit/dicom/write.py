"""Write scintigrams: NM DICOM objects without a patient, NIfTI, and 16-bit PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.pixels import get_encoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from pydicom.valuerep import DSfloat

from scintikit.dicom.header import BODY_PARTS, NM_STORAGE, PROJECTIONS, T
from scintikit.dicom.pictures import encode_nifti, encode_png, note_of
from scintikit.dicom.scintigram import MAX_PIXELS, VIEWS
from scintikit.errors import ImageWriteError, MissingExtraError
from scintikit.files import write_atomic

TRANSFER_SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpegls": JPEGLSLossless,
    "j2k": JPEG2000Lossless,
}
# Required, but may be empty if unknown (type 2).
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientOrientation"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber", "CountsAccumulated"),
)
_EMPTY_SEQUENCES = (
    "PatientOrientationCodeSequence",
    "PatientGantryRelationshipCodeSequence",
    "RadiopharmaceuticalInformationSequence",
)
TC99M_WINDOW_KEV = (126.45, 154.55)
"""140.5 keV, 20 % wide."""


def write_scintigram(
    path: str | os.PathLike[str],
    counts: np.ndarray,
    *,
    spacing_mm: tuple[float, float],
    views: Sequence[str],
    uid_seed: str,
    body_part: str = "THYROID",
    description: str = "",
    acquisition_s: float | None = None,
    image_type: str = "STATIC",
    scan_mm_per_s: float | None = None,
    scan_length_mm: float | None = None,
    transfer_syntax: str = "explicit",
    synthetic: bool = True,
    energy_windows_kev: Sequence[tuple[float, float]] = (TC99M_WINDOW_KEV,),
) -> None:
    """Write a scintigram as `.dcm`, `.nii`, `.nii.gz` or `.png`, atomically.

    The bytes depend on the arguments alone. No patient, no date and no place is written.

    Parameters
    ----------
    path
        The file; its suffix decides the format. PNG holds one view.
    counts
        `(view, row, column)`. DICOM and PNG hold whole numbers from 0 to 65535, NIfTI any finite float32.
    spacing_mm
        `(row, column)` pixel spacing in mm.
    views
        The view of each frame, out of `VIEWS`, or "" if unknown; one detector is described for each different view.
    uid_seed
        DICOM only: the study, series and instance UIDs are hashes of it, so it must be unique to the picture.
    body_part, description
        DICOM only: BodyPartExamined (a DICOM defined term, or "" if unknown) and SeriesDescription (at most 64
        characters).
    acquisition_s
        DICOM only: acquisition time of a frame in s; None is written as 0, since DICOM requires a value.
    image_type
        DICOM only: "STATIC" or "WHOLE BODY".
    scan_mm_per_s, scan_length_mm
        DICOM only, of a whole-body scan: speed of the table and length of the scan; None is written as empty. A scan
        with a speed is described as one pass (WholeBodyTechnique 1PS).
    transfer_syntax
        DICOM only: "explicit" (native), "deflated", "rle", "jpegls" or "j2k"; all without loss. The last two need
        the extra `dicom`.
    synthetic
        Whether to mark the picture as not acquired from a patient (SyntheticData).
    energy_windows_kev
        DICOM only: `(lower, upper)`, one for all frames or one for each.

    Raises
    ------
    ImageWriteError
        The picture does not fit the format; the message says why.
    MissingExtraError
        The transfer syntax needs an encoder that is not installed.

    Notes
    -----
    DICOM files are Nuclear Medicine Image Storage objects (PS3.3 A.5), ImageType DERIVED.
    """
    path = Path(path)
    try:
        counts = _checked(counts, spacing_mm, views)
        note = note_of(spacing_mm, views, synthetic)
        if path.name.endswith((".nii", ".nii.gz")):
            data = encode_nifti(counts, spacing_mm, note, compress=path.suffix == ".gz")
        elif path.suffix == ".png":
            if len(counts) != 1:
                raise ImageWriteError(
                    f"PNG holds one view, got {len(counts)}; write one file per view, or DICOM or NIfTI"
                )
            data = encode_png(_whole(counts)[0], spacing_mm, note)
        elif path.suffix == ".dcm":
            dataset = _nm_object(counts.shape, spacing_mm, views, uid_seed, image_type, energy_windows_kev)
            if image_type == "WHOLE BODY":
                _describe_scan(dataset, scan_mm_per_s, scan_length_mm)
            _describe(dataset, body_part, description, acquisition_s, synthetic)
            data = _encode_dicom(dataset, _whole(counts), transfer_syntax)
        else:
            raise ImageWriteError("the suffix is not one of .dcm, .nii, .nii.gz, .png")
    except (ImageWriteError, MissingExtraError) as error:
        raise type(error)(f"cannot write {path}: {error}") from None
    write_atomic(path, data)


def _checked(counts: np.ndarray, spacing_mm: tuple[float, float], views: Sequence[str]) -> np.ndarray:
    counts = np.asarray(counts)
    if counts.ndim != 3 or not 0 < counts.size <= MAX_PIXELS or counts.dtype.kind not in "biuf":
        raise ImageWriteError(f"counts are {counts.dtype} {counts.shape}; expected numbers (view, row, column)")
    if not np.isfinite(counts).all():
        raise ImageWriteError("counts contain NaN or infinity")
    if isinstance(views, str) or len(views) != len(counts) or not set(views) <= {*VIEWS, ""}:
        raise ImageWriteError(f"views are {views!r}; expected one per frame ({len(counts)}), out of {', '.join(VIEWS)}")
    if len(spacing_mm) != 2 or not all(0 < value < np.inf for value in spacing_mm):
        raise ImageWriteError(f"spacing_mm is {spacing_mm}; expected (row, column) in mm")
    return counts


def _whole(counts: np.ndarray) -> np.ndarray:
    """Return counts as unsigned 16-bit; `ImageWriteError` if that would change them."""
    if counts.dtype == np.uint16:
        return counts
    if counts.min() < 0 or counts.max() > 65535:
        raise ImageWriteError(f"counts run from {counts.min():g} to {counts.max():g}; this format holds 0 to 65535")
    whole = counts.astype(np.uint16)
    if not np.array_equal(whole, counts):
        raise ImageWriteError("counts are not whole numbers; round them, or write NIfTI")
    return whole


def _uid(uid_seed: str, role: str) -> str:
    return generate_uid(entropy_srcs=["scintikit", "\0", uid_seed, "\0", role])


def _nm_object(
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float],
    views: Sequence[str],
    uid_seed: str,
    image_type: str,
    energy_windows_kev: Sequence[tuple[float, float]],
) -> Dataset:
    """Return an NM object without pixels: PS3.3 C.8.4.8 (multi-frame), C.8.4.9 (image), C.8.4.10 and 11."""
    frames, rows, columns = shape
    if image_type not in ("STATIC", "WHOLE BODY"):
        raise ImageWriteError(f"image_type is {image_type!r}; expected STATIC or WHOLE BODY")
    if len(energy_windows_kev) not in (1, frames):
        raise ImageWriteError(f"{len(energy_windows_kev)} energy windows for {frames} frames; expected 1 or {frames}")
    if max(rows, columns) > 65535:
        raise ImageWriteError(f"{rows} x {columns} is too large for DICOM")
    windows = [(float(lower), float(upper)) for lower, upper in energy_windows_kev]
    windows = windows * frames if len(windows) == 1 else windows
    different_windows = list(dict.fromkeys(windows))
    detectors = list(dict.fromkeys(views))
    dataset = _blank(uid_seed)
    dataset.ImageType = ["DERIVED", "PRIMARY", image_type, "EMISSION"]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.NumberOfFrames = frames
    dataset.FrameIncrementPointer = [T.WINDOW_VECTOR, T.DETECTOR_VECTOR]
    dataset.Rows, dataset.Columns = rows, columns
    dataset.PixelSpacing = [DSfloat(float(value), auto_format=True) for value in spacing_mm]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.EnergyWindowVector = [different_windows.index(window) + 1 for window in windows]
    dataset.NumberOfEnergyWindows = len(different_windows)
    dataset.EnergyWindowInformationSequence = [_window(*window) for window in different_windows]
    dataset.DetectorVector = [detectors.index(view) + 1 for view in views]
    dataset.NumberOfDetectors = len(detectors)
    dataset.DetectorInformationSequence = [_detector(view) for view in detectors]
    return dataset


def _blank(uid_seed: str) -> Dataset:
    """Return the modules that a picture of nobody leaves empty: patient, study, series, equipment, orientation."""
    dataset = Dataset()
    dataset.SOPClassUID = NM_STORAGE
    dataset.SOPInstanceUID = _uid(uid_seed, "instance")
    dataset.StudyInstanceUID = _uid(uid_seed, "study")
    dataset.SeriesInstanceUID = _uid(uid_seed, "series")
    dataset.Modality = "NM"
    dataset.Manufacturer = "scintikit"
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    for keyword in _EMPTY:
        setattr(dataset, keyword, None)
    for keyword in _EMPTY_SEQUENCES:
        setattr(dataset, keyword, [])
    return dataset


def _window(lower_kev: float, upper_kev: float) -> Dataset:
    limits = Dataset()
    limits.EnergyWindowLowerLimit = DSfloat(lower_kev, auto_format=True)
    limits.EnergyWindowUpperLimit = DSfloat(upper_kev, auto_format=True)
    window = Dataset()
    window.EnergyWindowRangeSequence = [limits]
    return window


def _detector(view: str) -> Dataset:
    detector = Dataset()
    detector.CollimatorType = ""
    detector.ImagePositionPatient = detector.ImageOrientationPatient = None  # required, may be unknown (type 2)
    for code, _, meaning, name in PROJECTIONS:
        if name == view:
            projection = Dataset()
            projection.CodeValue, projection.CodingSchemeDesignator, projection.CodeMeaning = code, "SCT", meaning
            detector.ViewCodeSequence = [projection]
    return detector


def _describe(dataset: Dataset, body_part: str, description: str, acquisition_s: float | None, synthetic: bool) -> None:
    if len(description) > 64 or not description.isprintable() or "\\" in description:
        raise ImageWriteError("description is not one line of at most 64 characters")
    if body_part and body_part not in BODY_PARTS:
        raise ImageWriteError(f"body_part is {body_part!r}; expected one of {', '.join(sorted(BODY_PARTS))}")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SyntheticData = "YES" if synthetic else "NO"
    dataset.SeriesDescription = description
    if body_part:  # optional (type 3), and many cameras leave it out
        dataset.BodyPartExamined = body_part
    # Required of static and whole-body pictures (type 1C), so an unknown time cannot be left out; 0 reads as unknown.
    dataset.ActualFrameDuration = round((acquisition_s or 0) * 1000)


def _describe_scan(dataset: Dataset, mm_per_s: float | None, length_mm: float | None) -> None:
    """Add what PS3.3 C.8.4.9 requires of whole-body scans; it may be empty if unknown (type 2C)."""
    dataset.ScanVelocity = None if mm_per_s is None else DSfloat(float(mm_per_s), auto_format=True)
    dataset.ScanLength = None if length_mm is None else round(length_mm)
    dataset.WholeBodyTechnique = None if mm_per_s is None else "1PS"


def _encode_dicom(dataset: Dataset, counts: np.ndarray, transfer_syntax: str) -> bytes:
    if transfer_syntax not in TRANSFER_SYNTAXES:
        raise ImageWriteError(f"transfer_syntax is {transfer_syntax!r}; expected one of {', '.join(TRANSFER_SYNTAXES)}")
    syntax = TRANSFER_SYNTAXES[transfer_syntax]
    dataset.PixelData = counts.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    # Fixed, so that the bytes do not change with the version of the library that writes them.
    dataset.file_meta.ImplementationClassUID = generate_uid(entropy_srcs=["scintikit", "\0", "implementation"])
    dataset.file_meta.ImplementationVersionName = "SCINTIKIT"
    if syntax.is_encapsulated:
        if not get_encoder(syntax).is_available:
            raise MissingExtraError(f"{syntax.name} needs an encoder; install the extra scintikit[dicom]")
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        try:
            dataset.compress(syntax, generate_instance_uid=False)
        except RuntimeError as error:  # OpenJPEG wants at least 32 x 32 pixels
            raise ImageWriteError(f"it cannot be compressed as {syntax.name}; is it too small?") from error
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
