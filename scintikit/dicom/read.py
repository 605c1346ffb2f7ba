"""`read_scintigram`: one entry for every format."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from scintikit.dicom.nm import read_nm
from scintikit.dicom.pictures import read_nifti, read_raster
from scintikit.dicom.scintigram import Scintigram, ScintigramWarning, naming, select_views

NIFTI_SUFFIXES = (".nii", ".nii.gz")
RASTER_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_scintigram(
    path: str | os.PathLike[str], views: Sequence[str] | None = None, energy_window: int | None = None
) -> Scintigram:
    """Read a planar scintigram: DICOM NM or Secondary Capture, NIfTI, PNG (8 or 16 bits) or JPEG.

    The suffix decides: `.nii`, `.nii.gz`, `.png`, `.jpg`, `.jpeg`; any other name is DICOM.

    Parameters
    ----------
    path
        The file.
    views
        The views wanted, in the order wanted, out of `VIEWS`: `("ANT",)`, `("ANT", "POST")`. Default: every frame in
        the order stored. A lone frame whose view is not stated is taken at the caller's word; otherwise a view that
        no frame, or more than one, is stated to show is an error.
    energy_window
        DICOM only: the number of the energy window wanted (EnergyWindowVector, from 1). Default: the only one; of
        several, the Tc-99m photopeak.

    Returns
    -------
    Scintigram
        Counts as stored `(view, row, column)` and what is known of them; nothing that identifies a person.

    Raises
    ------
    ImageReadError
        The file cannot be read properly; says which file and why.
    MissingDecoderError
        Its pixels are compressed in a way that needs an optional decoder; names the package.

    Warns
    -----
    ScintigramWarning
        Some counts are negative, as lossy compression leaves them; they are kept as stored.

    Notes
    -----
    Frames get their meaning from DetectorVector, EnergyWindowVector and each detector's ViewCodeSequence
    (DICOM PS3.3 C.8.4), never from their position.
    """
    path = Path(path)
    name = path.name.lower()
    with naming(path):
        if name.endswith(NIFTI_SUFFIXES):
            scintigram = read_nifti(path)
        elif name.endswith(RASTER_SUFFIXES):
            scintigram = read_raster(path)
        else:
            scintigram = read_nm(path, energy_window)
        scintigram = select_views(scintigram, views)
    lowest = scintigram.counts.min()
    if lowest < 0:
        warnings.warn(f"{path}: counts go down to {lowest:g}; they are kept as stored", ScintigramWarning, stacklevel=2)
    return scintigram
