"""What the names of files say of their views, for formats that have no field for it.

A word is a run of letters that no other letter touches. `ant`, `anterior`, `post` and `posterior` in the file's name
say its view; if none is there, those in the name of its folder do. The letters `a` and `p` as first or last word of
the name mean a view only where the other view's file lies beside it. Case does not matter.
"""

from __future__ import annotations

import re
from pathlib import PurePath

_WORD = re.compile(r"(?<![a-z])(ant|anterior|post|posterior)(?![a-z])", re.IGNORECASE)
_LETTER = re.compile(r"^[ap](?![a-z])|(?<![a-z])[ap]$", re.IGNORECASE)
_SUFFIX = re.compile(r"(\.nii)?\.[^.]*$", re.IGNORECASE)


def view_of_name(path: PurePath) -> str:
    """Return "ANT" or "POST" as the words in a file's name or, failing that, its folder's say; "" if they do not."""
    stem, folder = _split(path)
    said = _views(_WORD, stem)
    if not said:
        said = _views(_WORD, folder)
        if _views(_LETTER, stem) - said:
            return ""
    return said.pop() if len(said) == 1 else ""


def studies_of_name(path: PurePath) -> list[tuple[str, str]]:
    """Return what a file may be: `(view, its path without what says the view)`, the strict reading first.

    The strict reading takes words alone, in the name or else in the folder's name. The loose one takes letters too,
    and leaves out of the path whatever agrees with the view. Two files with one path and two views are a pair.
    """
    stem, folder = _split(path)
    in_stem, in_folder = _views(_WORD, stem), _views(_WORD, folder)
    above, suffix = path.parent.parent, path.name[len(stem) :].lower()

    def rest(stem: str, folder: str) -> str:
        return (above / folder / (stem + suffix)).as_posix()

    readings = []
    if len(in_stem or in_folder) == 1:
        names = (_WORD.sub("*", stem), folder) if in_stem else (stem, _WORD.sub("*", folder))
        readings.append(((*(in_stem or in_folder),)[0], rest(*names)))
    said = in_stem or in_folder | _views(_LETTER, stem)
    if len(said) == 1:
        names = (_LETTER.sub("*", _WORD.sub("*", stem)), _WORD.sub("*", folder) if in_folder == said else folder)
        readings.append(((*said,)[0], rest(*names)))
    return readings


def _split(path: PurePath) -> tuple[str, str]:
    return _SUFFIX.sub("", path.name), path.parent.name


def _views(pattern: re.Pattern[str], text: str) -> set[str]:
    return {"ANT" if found[0].lower().startswith("a") else "POST" for found in pattern.finditer(text)}
