"""`manifest.json` of a packed bundle: what it is, and the SHA-256 of every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scintikit.bundles import MANIFEST
from scintikit.errors import PackageError
from scintikit.files import file_sha256, write_json
from scintikit.packing.archive import check_name

NAME = MANIFEST
#: What it says of the bundle as a whole, as the metadata does.
DESCRIBED = ("name", "version", "changelog")
#: What running a bundle in its own folder leaves there.
OUTPUTS = ("predictions", "generated", "eval", "runs")


def write_manifest(folder: Path, metadata: dict[str, Any]) -> None:
    """Write the manifest of all files below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    write_json(
        folder / NAME,
        {
            **{key: metadata[key] for key in DESCRIBED},
            "notice": "Research use only; not a medical device.",
            "files": {
                path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
                for path in files
            },
        },
    )


def check_hashes(folder: str | Path, fresh: bool = False) -> dict[str, Any]:
    """Return the manifest of an unpacked bundle, after every file was compared with it; nothing of it is run.

    This tells that nothing was lost or changed since the bundle was packed, not who packed it: for that, compare the
    SHA-256 of the zip with the one that its author tells. What Python (`__pycache__`) and runs of the bundle
    (`predictions/`, `eval/` and the like) have left in the folder is no part of it; whoever imports from the folder
    after this check should therefore set `sys.pycache_prefix`.

    Parameters
    ----------
    folder
        The bundle.
    fresh
        Nothing was run in it yet, as after unpacking a zip: then such files are refused. Python would use what lies in
        a `__pycache__` in the place of the module that was checked.

    Raises
    ------
    PackageError
        If there is no manifest, or a file is missing, changed, additional or a link; the message names it.
    """
    folder = Path(folder)
    manifest = _read(folder)
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise PackageError(f"{path.relative_to(folder)} is a link; a packed bundle has none")
    for name, expected in manifest["files"].items():
        check_name(name)
        path = folder / name
        if not path.is_file():
            raise PackageError(f"{name} is missing in {folder.name}; unpack the bundle again")
        if path.stat().st_size != expected["bytes"] or file_sha256(path) != expected["sha256"]:
            raise PackageError(f"{name} in {folder.name} is not what was packed: its SHA-256 differs from {NAME}")
    known = {*manifest["files"], NAME}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and relative.as_posix() not in known and (fresh or not is_output(relative)):
            raise PackageError(f"{relative} in {folder.name} is not in {NAME}; remove it or unpack the bundle again")
    return manifest


def _read(folder: Path) -> dict[str, Any]:
    path = folder / NAME
    if not path.is_file():
        raise PackageError(f"{folder.name} has no {NAME}; make a package with `python -m tools pack` first")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest["files"].values():
            entry["sha256"], entry["bytes"]
        manifest["name"], manifest["version"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PackageError(f"{NAME} in {folder.name} is damaged: {error!r}; unpack the bundle again") from error
    return manifest


def is_output(relative: Path) -> bool:
    """Tell whether a file of a bundle is what Python or a run of the bundle has left there."""
    return relative.parts[0] in OUTPUTS or "__pycache__" in relative.parts
