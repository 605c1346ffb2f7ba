"""The files of a folder of any shape: which of them are scintigrams, told from their headers alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from scintikit.dicom import scan_header

#: Files that are pictures by their name and have no header worth reading first.
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".nii", ".nii.gz")
#: What a dataset holds; a frame of a dynamic or tomographic acquisition is not a scintigram of its own.
IMAGE_TYPES = ("", "STATIC", "WHOLE BODY")

Value = TypeVar("Value")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Picture:
    """A usable file of the tree. Identifiers are there to be matched and hashed, never shown.

    `view` is that of the only frame, as the header states it; "" for several frames.
    """

    relative: str
    uid: str = field(default="", repr=False)
    patient: str = field(default="", repr=False)
    institution: str = field(default="", repr=False)
    study: str = field(default="", repr=False)
    series: str = field(default="", repr=False)
    view: str = ""
    image_type: str = ""
    synthetic: bool = False


def list_files(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Return all files under `root`, and what else is there (folders not entered, pipes) with the reason.

    Paths are relative to `root`, with forward slashes, sorted. Links to folders are not followed: they may go round
    in circles.
    """
    files: list[Path] = []
    left_out: list[tuple[Path, str]] = []

    def note(error: OSError) -> None:
        left_out.append((Path(error.filename), f"the folder cannot be read: {error.strerror}"))

    for parent, folders, names in os.walk(root, onerror=note):
        for path in (Path(parent, name) for name in names):
            if path.is_file():
                files.append(path)
            else:  # Opening a pipe would wait for ever.
                left_out.append((path, "it is not an ordinary file, or a link to nothing"))
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                left_out.append((path, "it is a link to a folder, which is not followed; name that folder itself"))

    def relative(path: Path) -> str:
        return path.relative_to(root).as_posix()

    return sorted(map(relative, files)), sorted((relative(path), why) for path, why in left_out)


def printable(text: str) -> str:
    """Return a path as text for any file or terminal: control characters and bytes that are not UTF-8 are escaped."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def scan_tree(
    root: Path, files: Sequence[str], *, workers: int | None = None, progress: bool = True
) -> tuple[list[Picture], list[tuple[str, str]]]:
    """Read the headers of files (paths relative to `root`); return the usable ones, and the others with a reason."""
    found = list(in_parallel(partial(_scan, root), files, "reading headers", workers, progress))
    pictures = [picture for picture in found if isinstance(picture, Picture)]
    return pictures, [(name, why) for name, why in zip(files, found, strict=True) if isinstance(why, str)]


def describe(root: Path, relative: str) -> Picture | str:
    """Return what a file's header (a PNG's, JPEG's or NIfTI's name) says of it, or why it cannot be read."""
    if relative.lower().endswith(PICTURE_SUFFIXES):
        return Picture(relative)
    path = f"{root}/{relative}"
    header = scan_header(path)
    if not header.usable:
        return bare_reason(header.reason, path)
    return Picture(
        relative,
        uid=header.sop_instance_uid,
        patient=header.patient_id,
        institution=header.institution or header.station,
        study=header.study_uid,
        series=header.series_uid,
        view=header.lone_view,
        image_type=header.image_type,
        synthetic=header.synthetic,
    )


def _scan(root: Path, relative: str) -> Picture | str:
    found = describe(root, relative)
    if isinstance(found, str):
        return found
    if found.synthetic:
        return (
            "it says that its picture is simulated or synthetic; such a folder is a dataset already, and `compose` "
            "merges datasets"
        )
    if found.image_type not in IMAGE_TYPES:
        kind = "another" if found.image_type == "OTHER" else f"a {found.image_type}"
        return f"it is {kind} acquisition; a dataset holds static and whole-body pictures"
    return found


def bare_reason(message: str, path: str | os.PathLike[str]) -> str:
    """Return what a message says of a file without its path, so that equal reasons are equal texts."""
    return message.rpartition(f"{path}: ")[2]


def in_parallel(
    function: Callable[[Value], Result], values: Sequence[Value], label: str, workers: int | None, progress: bool
) -> Iterator[Result]:
    """Yield the results in order, with a progress bar; few values or one worker need no processes."""
    workers = max(1, min(workers or os.cpu_count() or 1, len(values) // 64 + 1))
    bar = partial(tqdm, desc=label, total=len(values), unit=" files", disable=not progress)
    if workers == 1:
        yield from bar(map(function, values))
        return
    with ProcessPoolExecutor(workers) as pool:
        chunk = min(256, len(values) // (workers * 4) + 1)
        yield from bar(pool.map(function, values, chunksize=chunk))
