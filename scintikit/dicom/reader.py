"""The MONAI reader. Apart from the rest of the package because importing MONAI takes seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from scintikit.dicom.read import read_scintigram
from scintikit.dicom.scintigram import Scintigram, check_views
from scintikit.errors import ImageReadError


class ScintigramReader(ImageReader):
    """Let `LoadImage(d)` read scintigrams as `read_scintigram` does, whatever their format.

    Arrays are `(view, row, column)`, with the views as channels. The affine carries the pixel spacing in mm.

    Parameters
    ----------
    views, energy_window
        As for `read_scintigram`.
    assumed_spacing_mm
        Pixel spacing in mm of files that do not state one (most PNG and JPEG files); a stated spacing always counts.

    Raises
    ------
    ImageReadError
        A file cannot be read properly, or states no spacing while none is assumed.

    Examples
    --------
    >>> LoadImaged("image", reader="scintikit.dicom.ScintigramReader", views=["ANT"], ensure_channel_first=True)
    """

    def __init__(
        self,
        views: Sequence[str] | None = None,
        assumed_spacing_mm: float | None = None,
        energy_window: int | None = None,
    ) -> None:
        super().__init__()
        if assumed_spacing_mm is not None and not assumed_spacing_mm > 0:
            raise ImageReadError(f"assumed_spacing_mm is {assumed_spacing_mm}; expected a spacing in mm above 0")
        self.views = None if views is None else check_views(views)
        self.assumed_spacing_mm = assumed_spacing_mm
        self.energy_window = energy_window

    def verify_suffix(self, filename: Any) -> bool:
        """Return True: DICOM files may have any name."""
        return True

    def read(self, data: Any, **kwargs: Any) -> Scintigram | ImageReadError:
        """Read one file; `data` is its path, or a sequence with that path alone.

        What is wrong with the file is returned, for `get_data` to raise: after an exception here, LoadImage would try
        MONAI's other readers, which read some of these files without complaint, and wrongly.
        """
        try:
            return self._read(data)
        except ImageReadError as error:
            return error

    def _read(self, data: Any) -> Scintigram:
        paths = [data] if isinstance(data, str | os.PathLike) else list(data)
        if len(paths) != 1:
            raise ImageReadError(f"expected one file per scintigram, got {len(paths)}")
        scintigram = read_scintigram(paths[0], self.views, self.energy_window)
        if scintigram.spacing_mm is None and self.assumed_spacing_mm is None:
            raise ImageReadError(
                f"cannot read {paths[0]}: it does not state its pixel spacing; "
                "if you know it, give it as assumed_spacing_mm (--assumed_spacing_mm MM on a command line)"
            )
        return scintigram

    def get_data(self, img: Scintigram | ImageReadError) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the counts and their meta data, or raise what `read` found wrong."""
        if isinstance(img, ImageReadError):
            raise img
        spacing = img.spacing_mm or (self.assumed_spacing_mm, self.assumed_spacing_mm)
        affine = np.diag([*spacing, 1.0, 1.0]).astype(np.float64)
        meta = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(img.counts.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            MetaKeys.SPACE: SpaceKeys.RAS,
            "spacing_mm": np.asarray(spacing, np.float64),
            "views": ",".join(img.views),
        }
        return img.counts, meta
