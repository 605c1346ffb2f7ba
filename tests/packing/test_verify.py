"""Verifying: what is wrong is named, and nothing of a bundle is run before its hashes are right."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image, PngImagePlugin

from scintikit.errors import PackageError
from scintikit.files import file_sha256
from scintikit.packing import Result, check_hashes, passed, trial, verify_bundle
from scintikit.packing.archive import write_zip
from scintikit.phantoms import simulated_dataset
from tools.verify import verify

Put = Callable[..., None]
URL = "https://example.org/weights"


def _table(results: list[Result]) -> dict[str, bool | None]:
    return {result.name: result.passed for result in results}


def _failure(results: list[Result]) -> str:
    failed = [result for result in results if result.passed is False]
    assert len(failed) == 1, results
    return f"{failed[0].name}: {failed[0].detail}"


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
@pytest.mark.onnx
def test_a_package_passes_every_check(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(str(package), output=str(tmp_path / "v.json"), sha256=file_sha256(package))
    found = json.loads((tmp_path / "v.json").read_text())
    assert found["passed"] is True
    assert {check["name"]: check["passed"] for check in found["checks"]} == dict.fromkeys(
        [check["name"] for check in found["checks"]], True
    )
    assert [check["name"] for check in found["checks"]][-len(trial.CHECKS) :] == list(trial.CHECKS)
    table = capsys.readouterr().out
    assert all(check["name"] in table for check in found["checks"])


@pytest.mark.slow
def test_an_unpacked_bundle_runs_by_its_own_library(unpacked: Path, tmp_path: Path, tiny_dataset: str) -> None:
    code = "import sys, scintikit; print(scintikit.__file__)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(unpacked / "configs/inference.json")]
    command += ["--dataset_dir", str(Path(tiny_dataset) / "images"), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "predictions.csv").is_file()
    where = subprocess.run([sys.executable, "-c", code], cwd=unpacked, env=environment, capture_output=True, text=True)
    assert where.stdout.strip().startswith(str(unpacked))


def test_a_changed_file_is_named(folder: Path, put: Put) -> None:
    put("configs/inference.json", b"{}", hashed=False)
    results = verify_bundle(folder)
    assert _failure(results).startswith("hashes: configs/inference.json")
    assert [result.passed for result in results if result.name in trial.CHECKS] == [None] * len(trial.CHECKS)


def test_missing_additional_and_linked_files_are_named(folder: Path, put: Put) -> None:
    put("scripts/extra.py", b"", hashed=False)
    with pytest.raises(PackageError, match=r"scripts/extra.py .* is not in manifest"):
        check_hashes(folder)
    put("scripts/extra.py", None, hashed=False)
    put("LICENSE", None, hashed=False)
    with pytest.raises(PackageError, match="LICENSE is missing"):
        check_hashes(folder)
    (folder / "LICENSE").symlink_to("docs/README.md")
    with pytest.raises(PackageError, match="LICENSE is a link"):
        check_hashes(folder)


def test_what_a_run_leaves_in_the_folder_is_no_part_of_it(folder: Path) -> None:
    for name in ("predictions/a.json", "scintikit/__pycache__/files.cpython-311.pyc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert check_hashes(folder)["name"] == "thyroid_cls"
    assert passed(verify_bundle(folder, run=False))


@pytest.mark.parametrize("name", ["scintikit/__pycache__/files.cpython-311.pyc", "predictions/scan.json"])
def test_a_zip_has_nothing_that_the_manifest_does_not_list(name: str, folder: Path, put: Put, tmp_path: Path) -> None:
    """Python would run such a `.pyc` in the place of the module whose hash was checked."""
    put(name, b"x", hashed=False)
    write_zip(folder, tmp_path / "more.zip", folder.name)
    assert _failure(verify_bundle(tmp_path / "more.zip", run=False)).startswith(f"hashes: {name}")


def test_a_manifest_cannot_lead_out_of_the_folder(folder: Path, put: Put) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"sha256": "0", "bytes": 1}
    put("manifest.json", json.dumps(manifest).encode(), hashed=False)
    with pytest.raises(PackageError, match="leads out of"):
        check_hashes(folder)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"files": {"a": 1}}', b'{"files": []}', b'{"files": {}}', b"[" * 100_000]
)
def test_a_damaged_manifest_is_named(folder: Path, put: Put, content: bytes) -> None:
    put("manifest.json", content, hashed=False)
    with pytest.raises(PackageError, match=r"manifest.json in thyroid_cls is damaged"):
        check_hashes(folder)


def test_nothing_is_evaluated_before_the_hashes_are_right(folder: Path, put: Put, tmp_path: Path) -> None:
    """A config, a module and a pickle that would leave a trace, in a zip whose manifest does not know them."""
    trace = tmp_path / "trace"
    config = json.loads((folder / "configs/inference.json").read_text())
    config["initialize"] = [f"$__import__('os').mkdir({str(trace)!r})"]
    put("configs/inference.json", json.dumps(config).encode(), hashed=False)
    put("scintikit/__init__.py", f"import os; os.mkdir({str(trace)!r})".encode(), hashed=False)
    put("models/model.pt", pickle.dumps(Evil(trace)), hashed=False)
    write_zip(folder, tmp_path / "evil.zip", folder.name)
    assert _failure(verify_bundle(tmp_path / "evil.zip")).startswith("hashes: ")
    assert not trace.exists()


def test_a_config_that_runs_something_is_refused_even_with_right_hashes(folder: Path, put: Put, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    config = json.loads((folder / "configs/inference.json").read_text())
    config["initialize"] = [f"$__import__('os').mkdir({str(trace)!r})"]
    put("configs/inference.json", json.dumps(config).encode())
    found = {result.name: result for result in verify_bundle(folder)}
    assert "uses '__import__'" in found["configs"].detail
    assert found["inference"].passed is None
    assert not trace.exists()


@pytest.mark.parametrize("name", ["model.pt", "calibration.pt", "not_in_the_metadata.pt"])
def test_a_pickle_is_refused_and_not_run(name: str, folder: Path, put: Put, tmp_path: Path) -> None:
    for data in (_saved(Evil(tmp_path / "trace")), pickle.dumps(Evil(tmp_path / "trace"))):
        put(f"models/{name}", data)
        found = verify_bundle(folder, run=False)
        assert any("no file of plain tensors" in result.detail for result in found), found
        assert not (tmp_path / "trace").exists()


def test_another_zip_than_the_author_s_is_refused(package: Path) -> None:
    assert "not the one given" in _failure(verify_bundle(package, sha256="0" * 64))


def test_a_hash_is_never_left_unchecked(package: Path, folder: Path) -> None:
    """Not for a folder, which has none, nor where a variable of the shell was empty."""
    assert "is a folder" in _failure(verify_bundle(folder, run=False, sha256=file_sha256(package)))
    assert "not the one given" in _failure(verify_bundle(package, run=False, sha256=""))


def test_no_bundle_and_no_package_are_told_apart(tmp_path: Path) -> None:
    assert "there is no bundle" in _failure(verify_bundle(tmp_path / "nothing.zip"))
    assert "has no manifest.json" in _failure(verify_bundle(tmp_path))


def _metadata(folder: Path, **change: object) -> bytes:
    metadata = json.loads((folder / "configs/metadata.json").read_text()) | change
    return json.dumps({key: value for key, value in metadata.items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("docs/data_license.txt", None, "required files: docs/data_license.txt missing"),
        ("models/calibration.pt", None, "required files: models/calibration.pt missing"),
        ("models/last.pkl", b"x", "required files: models/last.pkl does not belong"),
        (
            "configs/metadata.json",
            {"required_packages_version": {"--index-url=x": "1.0"}},
            "pinned packages: in metadata",
        ),
        (
            "configs/metadata.json",
            {"required_packages_version": {"x @ https://example.org/x#": "1.0"}},
            "pinned packages: in",
        ),
        ("docs/README.md", b"\xff\xfe", "model card: cannot be checked"),
        ("docs/picture.png", b"no picture", "no patient data: cannot be checked"),
        ("scripts/broken.py", b"def (", "pinned packages: cannot be checked"),
        ("configs/list.json", b"[]", "configs: cannot be checked"),
        ("large_files.yml", b"{{", "large files: cannot be checked"),
        ("setup.py", b"x", "required files: setup.py does not belong"),
        ("other.yaml", b"x: $open(1)", "required files: other.yaml does not belong"),
        ("configs/sub/other.json", b'{"x": "$open(1)"}', "configs: configs/sub/other.json"),
        ("configs/logging.conf", b"[handler_a]\nargs=(exit(),)\n", "configs: configs/logging.conf: handler_a: args"),
        ("configs/metadata.json", {"authors": None}, "metadata schema: metadata.json does not fit"),
        ("configs/metadata.json", {"version": "9.9.9"}, "version in changelog: version 9.9.9"),
        ("configs/metadata.json", {"monai_version": ">=1.5"}, "pinned packages: not exact in metadata.json: monai"),
        ("configs/metadata.json", {"required_packages_version": {"scipy": "1.17.1"}}, "pinned packages: "),
        ("docs/README.md", b"# Model Overview\n\n## Data\n\n## Performance\n", "model card: docs/README.md lacks"),
        ("large_files.yml", None, "large files: models/model."),
    ],
)
def test_what_the_zoo_asks_for_is_checked(
    name: str, data: bytes | dict[str, object] | None, message: str, folder: Path, put: Put
) -> None:
    put(name, _metadata(folder, **data) if isinstance(data, dict) else data)
    failed = [f"{found.name}: {found.detail}" for found in verify_bundle(folder, run=False) if found.passed is False]
    assert failed[0].startswith(message), failed


def _card(folder: Path, old: str, new: str) -> bytes:
    text = (folder / "docs/README.md").read_text()
    assert old in text
    return text.replace(old, new, 1).encode()


@pytest.mark.parametrize("key", ["name", "version", "changelog"])
def test_a_manifest_that_tells_of_another_bundle_is_refused(key: str, folder: Path) -> None:
    path = folder / "manifest.json"
    other = json.loads(path.read_text()) | {key: "another"}
    path.unlink()  # a link
    path.write_text(json.dumps(other))
    assert _failure(verify_bundle(folder, run=False)).startswith(
        f"version in changelog: manifest.json and metadata.json differ in {key}: another"
    )


def test_a_trial_without_an_end_is_given_up(folder: Path) -> None:
    found = {result.name: result for result in verify_bundle(folder, time_limit_s=0.01)}
    for name in trial.CHECKS:
        assert found[name].passed is False
        assert found[name].detail.startswith("not done after 0.01 s")


def test_a_card_must_say_its_limits_and_stay_in_the_bundle(folder: Path, put: Put) -> None:
    put("docs/README.md", _card(folder, "esearch use only", "se it as you like"))
    assert "must say 'research use only'" in _failure(verify_bundle(folder, run=False))
    put("docs/README.md", b"## A ![x](../../../docs/x.png)\n" + _card(folder, "se it as you like", "esearch use only"))
    assert "outside the bundle" in _failure(verify_bundle(folder, run=False))
    put("docs/README.md", _card(folder, "../../../docs/x.png", "x.png"))
    assert "which is not there" in _failure(verify_bundle(folder, run=False))


def test_a_large_file_must_be_the_one_listed(folder: Path, put: Put) -> None:
    text = (folder / "large_files.yml").read_text()
    put("large_files.yml", text.replace(file_sha256(folder / "models/model.pt"), "0" * 64).encode())
    assert "models/model.pt is not the file" in _failure(verify_bundle(folder, run=False))


@pytest.mark.parametrize(
    ("path", "url", "message"),
    [
        ("../../.bashrc", URL, "leads out of"),
        ("scripts/more.py", URL, "would add it"),
        ("models/model.pt", "file:///etc", "needs `url`"),
    ],
)
def test_large_files_must_not_bring_others(path: str, url: str, message: str, folder: Path, put: Put) -> None:
    entry = {"path": path, "url": url, "hash_val": "0", "hash_type": "sha256"}
    listed = ConfigParser.load_config_file(folder / "large_files.yml")["large_files"]
    put("large_files.yml", json.dumps({"large_files": [*listed, entry]}).encode())
    assert message in _failure(verify_bundle(folder, run=False))


def _picture(**texts: str) -> bytes:
    information = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        information.add_text(key, text)
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG", pnginfo=information)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _jpeg(**texts: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "JPEG", **texts)
    return buffer.getvalue()


def test_patients_data_and_local_paths_are_refused(folder: Path, put: Put, tmp_path: Path) -> None:
    scan = next(Path(simulated_dataset("tiny"), "images").iterdir()).read_bytes()
    state = torch.load(folder / "models/calibration.pt", weights_only=True)
    uid = "1.3.6.1.4.1.14519.5.2.1.7695.4001"
    cases = {
        "docs/picture.png": (scan, "medical image"),
        "docs/portrait.png": (_picture(Patient="DOE^JANE"), "text besides its pixels"),
        "docs/late.png": (_picture()[:-12] + _chunk(b"tEXt", b"Patient\0DOE^JANE") + _picture()[-12:], "text besides"),
        "docs/longer.png": (_picture() + b"DOE^JANE", "text besides"),
        "docs/comment.jpg": (_jpeg(comment=b"DOE^JANE"), "text besides"),
        "docs/drawing.svg": (f"<svg>{uid}</svg>".encode(), "DICOM identifier"),
        "docs/utf16.txt": (f"study {uid}".encode("utf-16"), "no text in UTF-8"),
        "LICENSE": (f"study {uid}".encode(), "DICOM identifier"),
        "scintikit/table.csv": (f"study {uid}".encode(), "DICOM identifier"),
        "docs/notes.txt": (f"study {uid}".encode(), "DICOM identifier"),
        "docs/paths.txt": (b"trained in /home/jane/scans/", "path of the machine"),
        "models/calibration.pt": (_saved(state | {"source": f"/home/jane/{uid}"}), "DICOM identifier"),
    }
    for name, (data, message) in cases.items():
        copy = shutil.copytree(folder, tmp_path / "again" / folder.name, copy_function=os.link)
        (copy / name).unlink(missing_ok=True)
        (copy / name).write_bytes(data)
        from scintikit.packing.checks import check_privacy

        with pytest.raises(PackageError, match=message):
            check_privacy(copy)
        shutil.rmtree(copy)
    put("docs/fine.png", _picture(Software="matplotlib"))
    put("docs/fine.jpg", _jpeg())
    assert passed(verify_bundle(folder, run=False))


def test_the_command_fails_with_one_clear_line(folder: Path, put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    put("LICENSE", b"mine", hashed=False)
    with pytest.raises(PackageError, match="failed: hashes; do not use it"):
        verify(str(folder))
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert out.count("not run") >= len(trial.CHECKS)


@pytest.mark.slow
def test_a_bundle_that_does_not_work_is_found_at_work(folder: Path, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of another network, and a declared output that is not the network's."""
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")  # would leave out assertions
    put("models/model.pt", _saved({"weight": torch.zeros(3)}))
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 5
    put("configs/metadata.json", json.dumps(metadata).encode())
    put("large_files.yml", None)
    for name in ("model.ts", "model.onnx"):
        put(f"models/{name}", b"not a network")
    found = _table(verify_bundle(folder))
    assert found["own library"] is True
    assert found["properties"] is True
    for name in ("weights fit", "network in and out", "TorchScript", "ONNX", "inference"):
        assert found[name] is False, name
