"""The MONAI reader. Apart from the rest of the package because importing MONAI takes seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from scintikit.dicom.scintigram import Scintigram, check_views
from scintikit.dicom.study import StudyOptions, read_study
from scintikit.errors import ImageReadError

#: A scintigram and the views of every frame that its files hold.
Study = tuple[Scintigram, tuple[str, ...]]


class ScintigramReader(ImageReader):
    """Let `LoadImage(d)` read scintigrams as `read_scintigram` does, whatever their format.

    Arrays are `(view, row, column)`, with the views as channels. The affine carries the pixel spacing in mm; the meta
    data name the views that are there (`views`) and those of all frames of the files (`stored_views`). An item's
    image is a path, or a list of paths with one file for each wanted view.

    Parameters
    ----------
    views, energy_window
        As for `read_scintigram`.
    assumed_spacing_mm
        Pixel spacing in mm of files that do not state one (most PNG and JPEG files); a stated spacing always counts.
    layout
        "views": a view is a frame. "side_by_side", "stacked": one picture shows two views, the first of `views` in
        its left or upper half.
    one_view
        Whether one of several wanted views is enough. The channels of the absent ones are zeros.
    assumed_view
        The view of lone frames that do not state theirs, where several views are wanted.

    Raises
    ------
    ImageReadError
        A file cannot be read properly, or states no spacing while none is assumed; a study's files differ in size or
        spacing, or a wanted view is absent, there twice or not stated.

    Examples
    --------
    >>> LoadImaged("image", reader="scintikit.dicom.ScintigramReader", views=["ANT"], ensure_channel_first=True)
    >>> LoadImaged("image", reader=ScintigramReader(["ANT", "POST"], one_view=True), ensure_channel_first=True)
    """

    def __init__(
        self,
        views: Sequence[str] | None = None,
        assumed_spacing_mm: float | None = None,
        energy_window: int | None = None,
        layout: str = "views",
        one_view: bool = False,
        assumed_view: str | None = None,
    ) -> None:
        super().__init__()
        if assumed_spacing_mm is not None and not assumed_spacing_mm > 0:
            raise ImageReadError(f"assumed_spacing_mm is {assumed_spacing_mm}; expected a spacing in mm above 0")
        wanted = None if views is None else check_views(views)
        self.options = StudyOptions(wanted, energy_window, layout, one_view, assumed_view)
        self.assumed_spacing_mm = assumed_spacing_mm

    def verify_suffix(self, filename: Any) -> bool:
        """Return True: DICOM files may have any name."""
        return True

    def read(self, data: Any, **kwargs: Any) -> Study | ImageReadError:
        """Read a study; `data` is the path of its file, or a sequence of one path or one for each wanted view.

        What is wrong with a file is returned, for `get_data` to raise: after an exception here, LoadImage would try
        MONAI's other readers, which read some of these files without complaint, and wrongly.
        """
        try:
            return self._read([data] if isinstance(data, str | os.PathLike) else list(data))
        except ImageReadError as error:
            return error

    def _read(self, paths: Sequence[str | os.PathLike[str]]) -> Study:
        scintigram, stored_views = read_study(paths, self.options)
        if scintigram.spacing_mm is None and self.assumed_spacing_mm is None:
            raise ImageReadError(
                f"cannot read {paths[0]}: it does not state its pixel spacing; "
                "if you know it, give it as assumed_spacing_mm (--assumed_spacing_mm MM on a command line)"
            )
        return scintigram, stored_views

    def get_data(self, img: Study | ImageReadError) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the counts and their meta data, or raise what `read` found wrong."""
        if isinstance(img, ImageReadError):
            raise img
        scintigram, stored_views = img
        spacing = scintigram.spacing_mm or (self.assumed_spacing_mm, self.assumed_spacing_mm)
        affine = np.diag([*spacing, 1.0, 1.0]).astype(np.float64)
        meta = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(scintigram.counts.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            MetaKeys.SPACE: SpaceKeys.RAS,
            "spacing_mm": np.asarray(spacing, np.float64),
            "views": ",".join(scintigram.views),
            "stored_views": ",".join(stored_views),
        }
        return self._channels(scintigram), meta

    def _channels(self, scintigram: Scintigram) -> np.ndarray:
        """Return the counts with a channel of zeros for each wanted view that is absent."""
        wanted = self.options.views or scintigram.views
        if len(wanted) == len(scintigram.views):
            return scintigram.counts
        counts = np.zeros((len(wanted), *scintigram.counts.shape[1:]), np.float32)
        counts[[wanted.index(view) for view in scintigram.views]] = scintigram.counts
        return counts
