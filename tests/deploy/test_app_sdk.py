"""The application as MONAI Deploy runs it, in the environment that `make deploy-env` builds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.app import environment

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("SCINTIKIT_DEPLOY_ENV", ROOT / ".venv-deploy")) / "bin" / "python"

needs_sdk = pytest.mark.skipif(
    not PYTHON.exists(), reason="no .venv-deploy with the MONAI Deploy SDK: run `make deploy-env`"
)


def _run(arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": str(ROOT), "SCINTIKIT_DEVICE": "cpu"} | variables
    return subprocess.run(
        [PYTHON, ROOT / "deploy" / "app", *arguments],
        capture_output=True,
        text=True,
        env=environ,
        timeout=300,
        check=False,
    )


@pytest.mark.deploy
@pytest.mark.slow
@needs_sdk
@pytest.mark.parametrize("by_variables", [False, True])
def test_studies_of_both_kinds_from_the_command_line(
    by_variables: bool, send: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    folder = send("a.dcm", "thyroid").parent
    send("b.dcm", "bone")
    (folder / "note.txt").write_text("not DICOM")
    places = {"input": folder, "output": tmp_path / "out", "model": model_folder}
    (tmp_path / "out").mkdir()
    if by_variables:
        run = _run([], **{f"HOLOSCAN_{name.upper()}_PATH": str(path) for name, path in places.items()})
    else:
        run = _run([word for name, path in places.items() for word in (f"--{name}", str(path))])
    assert run.returncode == 0, run.stderr
    written = sorted(path.name.split("_")[0] + "".join(path.suffixes) for path in (tmp_path / "out").rglob("*_cls_*"))
    assert written == ["spect.json", "spect.sc.dcm", "spect.sr.dcm", "thyroid.json", "thyroid.sc.dcm", "thyroid.sr.dcm"]
    assert not [secret for secret in ("Nobody", "4711", "1961", "2024022") if secret in run.stdout + run.stderr]


@pytest.mark.deploy
@pytest.mark.slow
@needs_sdk
def test_exit_codes(send: Callable[..., Path], model_folder: Path, tmp_path: Path) -> None:
    folder = send("a.dcm", "thyroid", BodyPartExamined="LIVER").parent
    (tmp_path / "out").mkdir()
    arguments = ["-i", str(folder), "-o", str(tmp_path / "out"), "-m"]
    unsuitable = _run([*arguments, str(model_folder)])
    assert unsuitable.returncode == 3, unsuitable.stderr
    (outcome,) = (tmp_path / "out").rglob("*.json")
    assert "neither body part nor descriptions fit" in outcome.read_text()
    refused = _run([*arguments, str(folder)])
    assert refused.returncode == 2, refused.stderr
    assert "error: there is none of the bundles" in refused.stderr


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bundle that carries a copy of scintikit, where none is installed."""
    copy = tmp_path / "models" / "bundle" / "scintikit"
    copy.mkdir(parents=True)
    (copy / "__init__.py").write_text("x = 1\n")
    digest = hashlib.sha256(b"x = 1\n").hexdigest()
    (copy.parent / "manifest.json").write_text(json.dumps({"files": {"scintikit/__init__.py": {"sha256": digest}}}))
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "pycache_prefix", None)
    return tmp_path / "models"


def test_where_scintikit_is_not_installed_the_copy_in_a_packed_bundle_is_taken(carried: Path) -> None:
    environment.find_scintikit(carried)
    assert sys.path[-1] == str(carried / "bundle")
    assert sys.pycache_prefix


@pytest.mark.parametrize("name", ["__init__.py", "more.py"])
def test_a_copy_that_was_changed_is_not_taken(carried: Path, name: str) -> None:
    (carried / "bundle" / "scintikit" / name).write_text("x = 2\n")
    with pytest.raises(SystemExit, match=f"scintikit/{name} in bundle is not what was packed"):
        environment.find_scintikit(carried)
    assert str(carried / "bundle") not in sys.path
    shutil.rmtree(carried / "bundle")
    with pytest.raises(SystemExit, match="scintikit is not installed"):
        environment.find_scintikit(carried)


def test_the_model_folder_follows_the_sdks_conventions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.model_folder(["-i", "x"]) == Path("models")
    monkeypatch.setenv("HOLOSCAN_MODEL_PATH", "/opt/models")
    assert environment.model_folder(["-i", "x"]) == Path("/opt/models")
    assert environment.model_folder(["--model", "m", "-o", "y"]) == Path("m")
