"""Pack a trained bundle into a zip that runs alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from scintikit.errors import PackageError
from scintikit.packing import export
from scintikit.packing.archive import write_zip
from scintikit.packing.checks import STATIC, metadata_of
from scintikit.packing.contents import gather, list_large_files
from scintikit.packing.manifest import write_manifest


def pack_bundle(bundle: Path, output: Path, ckpt_dir: Path | None = None, large_files_url: str | None = None) -> Path:
    """Pack a bundle, its trained weights in every form, and the shared library into a zip.

    The bytes depend on the bundle, its weights and the versions of torch and ONNX alone. Nothing is written if a check
    fails.

    Parameters
    ----------
    bundle
        The bundle's folder.
    output
        The zip.
    ckpt_dir
        Folder of the trained weights; default: the bundle's `models`.
    large_files_url
        Address of the folder in which files over 25 MB will be published, for `large_files.yml`.

    Raises
    ------
    PackageError
        If weights are missing or do not load, the metadata does not fit the schema, the model card lacks a section, a
        file over 25 MB is not in `large_files.yml`, or another check of `verify` that needs no running fails.
    """
    if output.suffix != ".zip":
        raise PackageError(f"--output {output} must end in .zip")
    with tempfile.TemporaryDirectory(prefix="scintikit_pack_") as scratch:
        folder = Path(scratch) / metadata_of(bundle)["name"]
        folder.mkdir()
        gather(bundle, ckpt_dir or bundle / "models", folder)
        _check(folder, {name: check for name, check in STATIC.items() if name != "large files"})
        _export(folder)
        if large_files_url:
            list_large_files(folder, large_files_url)
        _check(folder, STATIC)
        write_manifest(folder, metadata_of(folder))
        write_zip(folder, output, folder.name)
    return output


def _check(folder: Path, checks: dict[str, Callable[[Path], str]]) -> None:
    for name, check in checks.items():
        try:
            check(folder)
        except PackageError:
            raise
        except Exception as error:  # of whatever reads a file that is damaged
            raise PackageError(f"{name} cannot be checked: {type(error).__name__}: {error}") from error


def _export(folder: Path) -> None:
    """Add the network as TorchScript and ONNX, in a process in which `scripts` are the bundle's."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, export.__file__, str(folder)]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        raise PackageError(f"the weights cannot be packed: {said[-1]}")
