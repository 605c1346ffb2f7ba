"""What MONAI Label's app asks of scintikit's own environment; MONAI Label itself is not needed here."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.monailabel.bridge import Bridge
from tools.run import BUNDLES, run

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    bridge = Bridge(sys.executable)
    yield bridge
    bridge.close()
    assert bridge._process.returncode == 0, "the worker does not end when its input does"


@pytest.fixture
def ask(bridge: Bridge, tiny_model: Path) -> Ask:
    """Ask for an image, with options as keywords."""
    bundle, models = str(BUNDLES / "thyroid_cls"), str(tiny_model)
    return lambda image, **options: bridge.ask(bundle=bundle, image=str(image), ckpt_dir=models, options=options)


@pytest.fixture(scope="module")
def scintigram(tiny_dataset: str) -> Path:
    return min(Path(tiny_dataset, "images").iterdir())


def test_the_answer_is_what_inference_writes(ask: Ask, scintigram: Path, tiny_model: Path, tmp_path: Path) -> None:
    folders = {"dataset_dir": str(scintigram), "ckpt_dir": str(tiny_model), "output_dir": str(tmp_path)}
    run("thyroid_cls", "inference", **folders)
    written = json.loads((tmp_path / "images" / f"{scintigram.name}.json").read_text())
    assert ask(scintigram) == written
    assert {"prediction", "probabilities", "conformal_set", "unlike_training_data", "notice"} <= set(written)


def test_a_file_that_is_no_picture_is_an_answer_without_the_folder(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "notes.dcm").write_text("no")
    answer = ask(tmp_path / "notes.dcm")
    assert "cannot read notes.dcm: it is not DICOM" in answer["error"]
    assert "probabilities" not in answer


def test_options_reach_the_bundle(ask: Ask, scintigram: Path) -> None:
    assert "assumed_spacing_mm" in ask(scintigram, assumed_spacing_mm=-1)["error"]
    assert "prediction" in ask(scintigram, assumed_spacing_mm=2.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"assumed_spacing_mm": "$open('evaluated', 'w')"}, "expected a number or a word"),
        ({"assumed_spacing_mm": ["@bundle_root"]}, "expected a number or a word"),
        ({"network_def": 1}, "unknown option 'network_def'; known are assumed_spacing_mm"),
    ],
)
def test_clients_cannot_change_a_config_otherwise(
    ask: Ask, scintigram: Path, options: dict[str, Any], message: str
) -> None:
    assert message in ask(scintigram, **options)["error"]


def test_a_folder_of_many_studies_is_refused_before_any_work(ask: Ask, scintigram: Path, tmp_path: Path) -> None:
    for name in "abc":
        shutil.copy(scintigram, tmp_path / f"{name}.dcm")
    assert f"{tmp_path.name} holds 3 pictures" in ask(tmp_path)["error"]


def test_a_worker_that_died_is_said_and_replaced(bridge: Bridge, ask: Ask, scintigram: Path, tmp_path: Path) -> None:
    bridge._process.stdin.write("not JSON\n")  # type: ignore[union-attr]
    assert "stopped with exit code 1" in ask(scintigram)["error"]
    (tmp_path / "notes.dcm").write_text("no")
    assert "it is not DICOM" in ask(tmp_path / "notes.dcm")["error"]


def test_an_answer_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    assert "exit code -9" in Bridge(sleeper, timeout_s=0.2).ask()["error"]
