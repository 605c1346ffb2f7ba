"""Which files of a bundle travel, and the library that goes with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

import scintikit
from scintikit.errors import PackageError
from scintikit.files import file_sha256
from scintikit.packing.checks import LARGE, LARGE_FILES, metadata_of

#: Of a bundle's folder; of `models` only what the metadata names as weights.
FOLDERS = ("configs", "docs", "scripts")
LIBRARY = (".py", ".json", ".csv", ".html")


def gather(bundle: Path, weights: Path, folder: Path) -> None:
    """Copy a bundle, its weights and the shared library into an empty folder.

    Parameters
    ----------
    bundle
        The bundle's folder.
    weights
        Where training left the files that its metadata lists under `weights`.
    folder
        Where they go.

    Raises
    ------
    PackageError
        If the bundle or a file of weights is missing.
    """
    for name in FOLDERS:
        if (bundle / name).is_dir():
            _copy(bundle / name, folder / name)
    for name in ("LICENSE", LARGE_FILES):
        if (bundle / name).is_file():
            shutil.copyfile(bundle / name, folder / name)
    (folder / "models").mkdir()
    for name, meaning in metadata_of(folder)["weights"].items():
        if not (weights / name).is_file():
            raise PackageError(
                f"there is no {name} ({meaning}) in {weights}; train the bundle first, or give the folder of its "
                "weights as --ckpt_dir"
            )
        shutil.copyfile(weights / name, folder / "models" / name)
    library = Path(scintikit.__file__).parent
    _copy(library, folder / library.name, LIBRARY)


def list_large_files(folder: Path, url: str) -> None:
    """Write `large_files.yml`, by which MONAI downloads the files that are too large for the model zoo's repository.

    Parameters
    ----------
    folder
        A bundle's folder.
    url
        Address of the folder in which each of them is, or will be, under its name.
    """
    large = [path for path in sorted((folder / "models").iterdir()) if path.stat().st_size > LARGE]
    entries = [
        {
            "path": f"models/{path.name}",
            "url": f"{url.rstrip('/')}/{path.name}",
            "hash_val": file_sha256(path),
            "hash_type": "sha256",
        }
        for path in large
    ]
    if entries:
        (folder / LARGE_FILES).write_text(yaml.safe_dump({"large_files": entries}, sort_keys=False), encoding="utf-8")


def _copy(source: Path, target: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Copy a folder's files, of certain kinds only if `suffixes` names some, without what Python leaves behind."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and (not suffixes or path.suffix in suffixes):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
