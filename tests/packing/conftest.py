"""One packed bundle for all tests, and copies of it to damage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scintikit.packing import pack_bundle
from scintikit.packing.archive import unpack_zip
from scintikit.packing.manifest import write_manifest
from tools.run import BUNDLES

URL = "https://example.org/weights"


@pytest.fixture(scope="session")
def package(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip of a thyroid_cls trained for two epochs."""
    place = tmp_path_factory.mktemp("package") / "thyroid_cls.zip"
    return pack_bundle(BUNDLES / "thyroid_cls", place, tiny_model, URL)


@pytest.fixture(scope="session")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it unpacks to; not to be changed."""
    return unpack_zip(package, tmp_path_factory.mktemp("unpacked"))


@pytest.fixture
def folder(unpacked: Path, tmp_path: Path) -> Path:
    """A copy of that folder whose files are links: replace them by `put`, do not write into them."""
    return shutil.copytree(unpacked, tmp_path / unpacked.name, copy_function=os.link)


@pytest.fixture
def put(folder: Path) -> Callable[..., None]:
    """Replace a file of the copy, or with `hashed` also its entry in the manifest, as whoever made it could."""
    from scintikit.packing.checks import metadata_of

    def put(name: str, data: bytes | None, hashed: bool = True) -> None:
        (folder / name).unlink(missing_ok=True)
        if data is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        if hashed:
            write_manifest(folder, metadata_of(folder))

    return put
