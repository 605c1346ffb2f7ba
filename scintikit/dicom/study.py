"""The two views of a study, in whatever files they come: one of two frames, two of one, one view, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scintikit.dicom.names import view_of_name
from scintikit.dicom.read import NIFTI_SUFFIXES, RASTER_SUFFIXES, read_scintigram
from scintikit.dicom.scintigram import Scintigram, check_views, naming, select_views
from scintikit.errors import ImageReadError

#: How the views lie in a picture, and the axis of `(view, row, column)` along which it is cut; the first half is the
#: first view.
_AXES = {"side_by_side": 2, "stacked": 1}
LAYOUTS = ("views", *_AXES)


@dataclass(frozen=True)
class StudyOptions:
    """How to find the views of a study.

    Attributes
    ----------
    views
        Those wanted, in the order wanted; None for all frames of a single file as they are stored.
    energy_window
        As for `read_scintigram`.
    layout
        "views": a view is a frame. "side_by_side", "stacked": one frame shows the two wanted views, the first in its
        left or upper half.
    one_view
        Whether one of several wanted views is enough.
    assumed_view
        The view of lone frames that do not state theirs, where several views are wanted.

    Raises
    ------
    ImageReadError
        If an option is not one of the above, or the layout needs exactly two views.
    """

    views: tuple[str, ...] | None = None
    energy_window: int | None = None
    layout: str = "views"
    one_view: bool = False
    assumed_view: str | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if self.layout not in LAYOUTS:
            raise ImageReadError(f"layout is {self.layout!r}; expected one of {', '.join(LAYOUTS)}")
        if self.layout != "views" and len(self.views or ()) != 2:
            raise ImageReadError(f'the layout {self.layout} holds two views; name both, as in views=["ANT", "POST"]')
        if self.assumed_view is not None:
            check_views(self.assumed_view)


def read_study(paths: Sequence[str | os.PathLike[str]], options: StudyOptions) -> tuple[Scintigram, tuple[str, ...]]:
    """Read the file or the two files of a study.

    Parameters
    ----------
    paths
        One file, or one file for each wanted view. Of two files, one whose view is not stated is taken at the
        caller's word, which is its place.
    options
        Which views, and how they are to be found.

    Returns
    -------
    tuple
        The scintigram `(view, row, column)` with the wanted views that are present (all of them unless `one_view`),
        and the views of every frame that the files hold.

    Raises
    ------
    ImageReadError
        If a file cannot be read, or the files do not hold the wanted views exactly once, in one size and spacing.

    Notes
    -----
    A view is known by what the file states; a lone PNG, JPEG or NIfTI picture that states nothing, by its name
    (`scintikit.dicom.names`); else by `assumed_view`.
    """
    wanted = options.views
    if len(paths) > 1 and (wanted is None or options.layout != "views"):
        raise ImageReadError(f"expected one file per scintigram, got {len(paths)}")
    pictures = [read_scintigram(path, None, options.energy_window) for path in paths]
    with naming(" and ".join(map(str, paths))):
        if len(pictures) > 1:
            whole = _joined(pictures, wanted or ())
        elif options.layout != "views":
            whole = _cut(pictures[0], wanted or (), options.layout)
        elif wanted and len(wanted) > 1 and pictures[0].views == ("",):
            whole = replace(pictures[0], views=(_view(Path(paths[0]), options.assumed_view),))
        else:
            whole = pictures[0]
        if options.one_view and wanted:
            present = tuple(view for view in wanted if view in whole.views)
            return select_views(whole, present or wanted), whole.views
        return select_views(whole, wanted), whole.views


def _view(path: Path, assumed: str | None) -> str:
    named = view_of_name(path) if path.name.lower().endswith((*NIFTI_SUFFIXES, *RASTER_SUFFIXES)) else ""
    if not named and assumed is None:
        raise ImageReadError(
            "it holds one view and does not state which; if you know it, give it as assumed_view (--assumed_view ANT "
            "on a command line), or as layout=side_by_side if the picture shows both views"
        )
    return named or check_views(assumed or "")[0]


def _joined(pictures: Sequence[Scintigram], wanted: Sequence[str]) -> Scintigram:
    """Stack the pictures of a study's files, one view each."""
    frames = [len(picture.counts) for picture in pictures]
    if frames != [1] * len(wanted):
        raise ImageReadError(f"expected a file of one frame for each of {', '.join(wanted)}, got frames: {frames}")
    for what, values in (
        ("frames of different sizes (rows, columns)", [picture.counts.shape[1:] for picture in pictures]),
        ("different pixel spacings in mm", [picture.spacing_mm for picture in pictures]),
    ):
        if len(set(values)) > 1:
            raise ImageReadError(f"they have {what}, {values}; give two views of one scan")
    windows = [picture.energy_windows_kev for picture in pictures]
    return replace(
        pictures[0],
        counts=np.concatenate([picture.counts for picture in pictures]),
        views=tuple(picture.views[0] or view for picture, view in zip(pictures, wanted, strict=True)),
        energy_windows_kev=sum(windows, ()) if all(windows) else (),
        synthetic=any(picture.synthetic for picture in pictures),
    )


def _cut(picture: Scintigram, wanted: Sequence[str], layout: str) -> Scintigram:
    """Cut a picture of two views in its middle."""
    if picture.views != ("",):
        stated = ", ".join(view or "unstated" for view in picture.views)
        raise ImageReadError(
            f"its frames: {len(picture.views)}, views: {stated}, so it does not show two views in one frame; "
            "leave out layout"
        )
    axis = _AXES[layout]
    half = picture.counts.shape[axis] // 2
    if not half:
        raise ImageReadError(f"it is too small to be cut in two ({picture.counts.shape[1:]})")
    halves = [picture.counts.take(columns, axis) for columns in (range(half), range(-half, 0))]
    return replace(picture, counts=np.concatenate(halves), views=tuple(wanted), energy_windows_kev=())
