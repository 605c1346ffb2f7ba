"""MONAI Label serves both classifiers; its answers are those of inference. Needs `.venv-label` (`make label-env`)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from scintikit.dicom import read_scintigram, write_scintigram
from tools.run import BUNDLES, run

ROOT = BUNDLES.parent
ENVIRONMENT = Path(os.environ.get("SCINTIKIT_LABEL_ENV", ROOT / ".venv-label"))

pytestmark = [
    pytest.mark.label,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ENVIRONMENT / "bin" / "python").is_file(),
        reason="no environment of MONAI Label: run `make label-env`, or set SCINTIKIT_LABEL_ENV",
    ),
]

#: What is asked of which bundle.
IMAGES = {"thyroid_cls": "static thyroid.dcm", "spect_bone_cls": "whole_body.dcm"}


@pytest.fixture(scope="module")
def models(tiny_model: Path, tiny_bone_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with weights."""
    bone = tmp_path_factory.mktemp("bone")
    folders = {"dataset_dir": tiny_bone_dataset, "ckpt_dir": str(bone), "log_dir": str(bone / "runs")}
    run("spect_bone_cls", "training", max_epochs=1, batch_size=4, **folders)
    return {"thyroid_cls": tiny_model, "spect_bone_cls": bone}


@pytest.fixture(scope="module")
def studies(tiny_dataset: str, tiny_bone_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a static and a two-frame whole-body scintigram, and a file that is neither."""
    folder = tmp_path_factory.mktemp("studies")
    for name, dataset in zip(IMAGES.values(), (tiny_dataset, tiny_bone_dataset), strict=True):
        shutil.copy(min(Path(dataset, "images").iterdir()), folder / name)
    (folder / "notes.dcm").write_text("not DICOM")
    return folder


@pytest.fixture(scope="module")
def server(models: dict[str, Path], studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    checkout = tmp_path_factory.mktemp("checkout")  # MONAI Label writes into the app's folder
    app = shutil.copytree(ROOT / "deploy" / "monailabel", checkout / "deploy" / "monailabel")
    for name in ("scintikit", "tools"):
        (checkout / name).symlink_to(ROOT / name)
    weights = [word for name, folder in models.items() for word in ("--conf", name, str(folder))]
    command = [ENVIRONMENT / "bin" / "python", "-m", "monailabel.main", "start_server", "--app", app]
    places = ["--studies", studies, "--host", "127.0.0.1", "--port", str(port)]
    own = ["--conf", "python", sys.executable, "--conf", "bundles", str(BUNDLES)]
    log = checkout / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen([*command, *places, *own, *weights], stdout=file, stderr=file)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(address, process, log)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            requests.get(address, timeout=10)
            return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def _infer(server: str, model: str, image: str, **others: Any) -> requests.Response:
    query = urllib.parse.urlencode({"image": image, "output": "json"})
    return requests.post(f"{server}/infer/{model}?{query}", timeout=300, **others)


def test_both_classifiers_are_offered_with_their_labels(server: str) -> None:
    info = requests.get(f"{server}/info/", timeout=60).json()
    assert set(info["models"]) == set(IMAGES)  # the generators are not
    assert info["models"]["spect_bone_cls"]["labels"] == {"metastasis": 0, "arthritis": 1}
    assert set(info["models"]["thyroid_cls"]["labels"]) == {"diffuse goiter", "nodular goiter", "normal", "thyroiditis"}
    assert info["datastore"]["total"] == 3
    assert all("Research use only" in model["description"] for model in info["models"].values())


@pytest.mark.parametrize("model", IMAGES)
def test_label_and_score_are_those_of_inference(
    model: str, server: str, models: dict[str, Path], studies: Path, tmp_path: Path
) -> None:
    image = IMAGES[model]
    answer = _infer(server, model, image).json()
    folders = {"dataset_dir": str(studies / image), "ckpt_dir": str(models[model]), "output_dir": str(tmp_path)}
    run(model, "inference", **folders)
    expected = json.loads((tmp_path / "images" / f"{image}.json").read_text())
    assert answer["inference"] == expected
    assert {each["label"]: each["score"] for each in answer["prediction"]} == expected["probabilities"]
    assert {each["label"]: each["idx"] for each in answer["prediction"]} == answer["label_names"]
    assert ("conformal_set" if model == "thyroid_cls" else "called") in answer["inference"]
    assert answer["inference"]["notice"] == "Research use only; not a medical device."


def test_an_uploaded_file_is_answered(server: str, studies: Path) -> None:
    with (studies / IMAGES["thyroid_cls"]).open("rb") as file:
        answer = _infer(server, "thyroid_cls", "", files={"file": ("scan.dcm", file)}).json()
    assert sum(each["score"] for each in answer["prediction"]) == pytest.approx(1, abs=1e-4)


def test_two_views_in_a_folder_are_one_study(server: str, studies: Path, tmp_path: Path) -> None:
    scan = read_scintigram(studies / IMAGES["spect_bone_cls"], views=("ANT", "POST"))
    for counts, view in zip(scan.counts, scan.views, strict=True):
        path = tmp_path / f"scan_{view}.png"
        write_scintigram(path, counts[None], spacing_mm=scan.spacing_mm, views=(view,), uid_seed=view)
    found = _infer(server, "spect_bone_cls", str(tmp_path)).json()["prediction"]
    expected = _infer(server, "spect_bone_cls", IMAGES["spect_bone_cls"]).json()["prediction"]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in expected], abs=1e-3)


@pytest.mark.parametrize(
    ("model", "image", "status", "message"),
    [
        ("thyroid_cls", "notes.dcm", 422, "cannot read notes.dcm: it is not DICOM"),
        ("spect_bone_cls", IMAGES["thyroid_cls"], 422, "a whole-body scan is 1000 to 4000 mm long"),
        ("thyroid_cls", "nowhere.dcm", 404, "no such image"),
    ],
)
def test_what_cannot_be_answered_says_why(model: str, image: str, status: int, message: str, server: str) -> None:
    answer = _infer(server, model, image)
    assert answer.status_code == status
    assert message in answer.json()["detail"]


def test_options_of_a_request_reach_the_bundle_and_are_never_evaluated(server: str) -> None:
    params = {"params": json.dumps({"assumed_spacing_mm": "$1/0"})}
    answer = _infer(server, "thyroid_cls", IMAGES["thyroid_cls"], data=params)
    assert answer.status_code == 422
    assert "expected a number or a word" in answer.json()["detail"]
