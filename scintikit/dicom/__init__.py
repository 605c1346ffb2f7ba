"""Read, write and check nuclear-medicine scintigrams: NM DICOM first, and NIfTI, PNG and JPEG in its orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scintikit.dicom.nm import HeaderSummary, scan_header
from scintikit.dicom.read import read_scintigram
from scintikit.dicom.scintigram import MAX_PIXELS, VIEWS, Scintigram, ScintigramWarning
from scintikit.dicom.study import StudyOptions, read_study
from scintikit.dicom.write import write_scintigram

if TYPE_CHECKING:
    from scintikit.dicom.reader import ScintigramReader

__all__ = [
    "MAX_PIXELS",
    "VIEWS",
    "HeaderSummary",
    "Scintigram",
    "ScintigramReader",
    "ScintigramWarning",
    "StudyOptions",
    "read_scintigram",
    "read_study",
    "scan_header",
    "write_scintigram",
]


def __getattr__(name: str) -> Any:
    """Import the MONAI reader on first use: the rest of the package starts without waiting for MONAI."""
    if name == "ScintigramReader":
        from scintikit.dicom.reader import ScintigramReader

        return ScintigramReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
