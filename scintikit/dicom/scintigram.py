"""The picture that every format is read into, and its views."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scintikit.errors import ImageReadError

MAX_PIXELS = 2**26
"""The most pixels (frames x rows x columns) a file may announce: 67 million, 256 MiB as float32."""

MAX_FRAMES = 2**16
"""The most frames a file may announce."""

VIEWS = ("ANT", "POST", "LLAT", "RLAT", "LAO", "RAO", "LPO", "RPO")
"""The views scintikit names: anterior, posterior, the laterals and the obliques."""


#: What pixels may grow to in memory however few bytes they are stored in: a blank picture is compressed to nothing.
_SMALL = 2**23
#: How many times larger than that they may grow. Counts are noise: those of cameras are compressed to a 20th at best.
_MAX_GROWTH = 256


class ScintigramWarning(UserWarning):
    """A scintigram was read as stored, but something about it deserves a look."""


@dataclass(frozen=True, eq=False)
class Scintigram:
    """A planar nuclear-medicine picture, without anything that identifies a person.

    Attributes
    ----------
    counts
        Counts as stored, float32, `(view, row, column)` as displayed; a linear rescale of the file is applied.
    spacing_mm
        `(row, column)` pixel spacing in mm; None if the file does not say.
    views
        One name per frame out of `VIEWS`, or "" where the file does not say.
    image_type
        What was acquired: "STATIC", "WHOLE BODY", "DYNAMIC", "TOMO", ...; "" if unknown.
    body_part
        DICOM body part, such as "THYROID"; "" if unknown.
    energy_windows_kev
        `(lower, upper)` of the energy window of each frame, or None where the file does not say.
    duration_s
        Acquisition time of a frame in s; None if unknown.
    synthetic
        Whether the file itself says that its picture was not acquired from a patient.
    """

    counts: np.ndarray
    spacing_mm: tuple[float, float] | None = None
    views: tuple[str, ...] = ()
    image_type: str = ""
    body_part: str = ""
    energy_windows_kev: tuple[tuple[float, float] | None, ...] = ()
    duration_s: float | None = None
    synthetic: bool = False


def check_views(views: Sequence[str]) -> tuple[str, ...]:
    """Return `views` as a tuple of upper-case names; `ImageReadError` for a name that is not in `VIEWS`."""
    names = (views,) if isinstance(views, str) else tuple(views)
    names = tuple(str(name).upper() for name in names)
    unknown = sorted(set(names) - set(VIEWS))
    if unknown or not names:
        raise ImageReadError(f"unknown view {', '.join(unknown) or '(none)'}; choose from {', '.join(VIEWS)}")
    return names


def choose_frames(known: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the frame that shows each wanted view.

    A lone frame whose view the file does not state is taken at the caller's word when one view is wanted.
    Anything else that the file leaves open is an `ImageReadError`.
    """
    if tuple(known) == ("",) and len(wanted) == 1:
        return [0]
    frames = []
    for name in wanted:
        found = [frame for frame, view in enumerate(known) if view == name]
        if len(found) > 1:
            raise ImageReadError(f"{len(found)} frames show the view {name}; cannot tell which one is wanted")
        if not found:
            stated = ", ".join(sorted({view or "unstated" for view in known}))
            raise ImageReadError(
                f"no frame is stated to show the view {name} (frames: {len(known)}, views: {stated}); "
                "leave `views` out to get every frame in the order stored"
            )
        frames += found
    return frames


def select_views(scintigram: Scintigram, wanted: Sequence[str] | None) -> Scintigram:
    """Return the scintigram with just the wanted views, in that order; see `choose_frames`."""
    if wanted is None:
        return scintigram
    names = check_views(wanted)
    frames = choose_frames(scintigram.views, names)
    windows = scintigram.energy_windows_kev
    return replace(
        scintigram,
        counts=scintigram.counts[frames],
        views=names,
        energy_windows_kev=tuple(windows[frame] for frame in frames) if windows else (),
    )


@contextmanager
def naming(path: Any) -> Iterator[None]:
    """Turn whatever goes wrong while `path` is read into an `ImageReadError` that names the file.

    Decoders meet damaged bytes with every kind of exception, and their messages quote header values. So an
    unforeseen one is reported by its kind only, and the chain is cut: a traceback must not show patients' data.
    """
    try:
        yield
    except ImageReadError as error:
        raise type(error)(f"cannot read {path}: {error}") from None
    except OSError as error:
        raise ImageReadError(f"cannot read {path}: {error.strerror or 'damaged file'}") from None
    except Exception as error:
        raise ImageReadError(f"cannot read {path}: the file is damaged ({type(error).__name__})") from None


def ordinary_size(path: Path) -> int:
    """Return a file's length in bytes; `ImageReadError` for a folder, pipe or device, which might never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ImageReadError("it is not an ordinary file")
    return status.st_size


def largest_content(stored: int) -> int:
    """Return how many bytes so many compressed ones may reasonably hold."""
    return max(_SMALL, stored * _MAX_GROWTH)


def check_growth(stored: int, announced: int) -> None:
    """Raise `ImageReadError` if `stored` bytes are said to hold absurdly many when decompressed, before they are."""
    if announced > largest_content(stored):
        raise ImageReadError(
            f"its header announces {announced} bytes of pixels, but the {stored} bytes that hold them are too few for "
            f"a picture of counts (expected at least one in {_MAX_GROWTH})"
        )


def check_size(frames: int, rows: int, columns: int) -> None:
    """Raise `ImageReadError` for a shape that is empty or beyond `MAX_PIXELS`, before anything is allocated."""
    if min(frames, rows, columns) < 1:
        raise ImageReadError(f"it has no pixels ({frames} frames of {rows} x {columns})")
    if frames > MAX_FRAMES or frames * rows * columns > MAX_PIXELS:
        raise ImageReadError(
            f"{frames} frames of {rows} x {columns} are more than {MAX_FRAMES} frames or {MAX_PIXELS} pixels"
        )
