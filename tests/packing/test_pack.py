"""Packing: what is in the zip, that it is the same each time, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from scintikit.errors import PackageError
from scintikit.files import file_sha256
from scintikit.packing import check_hashes, pack_bundle
from tools.pack import pack
from tools.run import BUNDLES

BUNDLE = BUNDLES / "thyroid_cls"
URL = "https://example.org/weights"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of thyroid_cls to change."""
    return shutil.copytree(BUNDLE, tmp_path / "bundle", ignore=shutil.ignore_patterns("models", "__pycache__"))


def _refused(bundle: Path, weights: Path, output: Path, url: str | None = URL) -> str:
    with pytest.raises(PackageError) as caught:
        pack_bundle(bundle, output, weights, url)
    assert not output.exists()
    assert not list(output.parent.glob("*.tmp"))
    return str(caught.value)


def test_everything_needed_travels_and_nothing_else(package: Path, unpacked: Path, tiny_model: Path) -> None:
    names = {name.removeprefix("thyroid_cls/") for name in zipfile.ZipFile(package).namelist()}
    for name in ("LICENSE", "manifest.json", "large_files.yml", "configs/inference.json", "docs/README.md"):
        assert name in names
    assert {name for name in names if name.startswith("models/")} == {
        "models/model.pt",
        "models/calibration.pt",
        "models/model.ts",
        "models/model.onnx",
    }
    library = {name for name in names if name.startswith("scintikit/")}
    assert "scintikit/data/dataset.schema.json" in library
    assert not any("__pycache__" in name or name.startswith(("tools/", "tests/", "runs/")) for name in names)
    assert (unpacked / "models/model.pt").read_bytes() == (tiny_model / "model.pt").read_bytes()


def test_the_manifest_tells_version_changes_and_hashes(unpacked: Path) -> None:
    manifest = check_hashes(unpacked)
    metadata = json.loads((unpacked / "configs/metadata.json").read_text())
    assert (manifest["version"], manifest["changelog"]) == (metadata["version"], metadata["changelog"])
    assert manifest["files"]["models/model.pt"]["sha256"] == file_sha256(unpacked / "models/model.pt")
    assert "not a medical device" in manifest["notice"]


@pytest.mark.slow
def test_packing_twice_gives_the_same_bytes(package: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(BUNDLES.parent / "scintikit", tmp_path / "other", ignore=shutil.ignore_patterns("__pycache__"))
    again = shutil.copytree(tiny_model, tmp_path / "elsewhere")
    pack("thyroid_cls", str(tmp_path / "again.zip"), ckpt_dir=str(again), large_files_url=URL)
    assert file_sha256(tmp_path / "again.zip") == file_sha256(package)


def test_large_files_are_listed_where_they_will_be(unpacked: Path) -> None:
    text = (unpacked / "large_files.yml").read_text()
    assert f"url: {URL}/model.pt" in text
    assert file_sha256(unpacked / "models/model.pt") in text


@pytest.mark.slow
def test_a_large_file_without_an_address_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    assert "--large_files_url" in _refused(BUNDLE, tiny_model, tmp_path / "a.zip", url=None)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    message = _refused(BUNDLE, tmp_path, tmp_path / "a.zip")
    assert "there is no model.pt" in message
    assert "--ckpt_dir" in message


@pytest.mark.slow
def test_weights_that_do_not_load_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    weights = shutil.copytree(tiny_model, tmp_path / "weights")
    torch.save({"fc.weight": torch.zeros(2, 2)}, weights / "model.pt")
    assert "weights" in _refused(BUNDLE, weights, tmp_path / "a.zip")
    torch.save(torch.nn.Linear(2, 2), weights / "model.pt")
    assert "no file of plain tensors" in _refused(BUNDLE, weights, tmp_path / "a.zip")


def test_metadata_and_card_are_checked_before_anything_is_written(
    bundle: Path, tiny_model: Path, tmp_path: Path
) -> None:
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata | {"version": 1}))
    assert "does not fit meta_schema" in _refused(bundle, tiny_model, tmp_path / "a.zip")
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata))
    (bundle / "docs/README.md").write_text("# Model Overview\n")
    assert "lacks or leaves empty: Intended use" in _refused(bundle, tiny_model, tmp_path / "a.zip")
    del metadata["weights"]
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata))
    assert "has no 'weights'" in _refused(bundle, tiny_model, tmp_path / "a.zip")


@pytest.mark.parametrize("change", [{"name": "../../elsewhere"}, {"weights": {"../../model.pt": "x"}}, {"weights": []}])
def test_names_that_are_paths_are_refused(
    change: dict[str, object], bundle: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Packing would write there."""
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata | change))
    assert re.search("no plain name|cannot be read", _refused(bundle, tiny_model, tmp_path / "a.zip"))


def test_the_output_must_be_a_zip(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"must end in \.zip"):
        pack_bundle(BUNDLE, tmp_path / "a.tar")
