"""A tiny simulated dataset and a tiny trained model, made once for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# matplotlib and torch read these when they are imported.
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest


@pytest.fixture(scope="session", autouse=True)
def scintikit_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep the user's cache out of the tests."""
    folder = tmp_path_factory.mktemp("home")
    os.environ["SCINTIKIT_HOME"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(scintikit_home: Path) -> str:
    """72 simulated patients of nine cameras."""
    from scintikit.phantoms import simulated_dataset

    return simulated_dataset("tiny")


@pytest.fixture(scope="session")
def tiny_bone_dataset(scintikit_home: Path) -> str:
    """27 simulated whole-body scans of nine cameras."""
    from scintikit.phantoms.skeleton import simulated_bone_dataset

    return simulated_bone_dataset("bone_tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.pt` and `calibration.pt` of a thyroid_cls trained for two epochs."""
    from tools.run import run

    folder = tmp_path_factory.mktemp("model")
    run(
        "thyroid_cls",
        "training",
        dataset_dir=tiny_dataset,
        ckpt_dir=str(folder),
        log_dir=str(folder / "runs"),
        max_epochs=2,
        batch_size=8,
    )
    return folder


@pytest.fixture(scope="session")
def small_bone() -> dict[str, Any]:
    """Options of spect_bone_cls for a sixteenth of the pixels."""
    return {"image_size": [128, 32], "spacing_mm": 18.4}


@pytest.fixture(scope="session")
def tiny_bone_model(
    tiny_bone_dataset: str, small_bone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with `model.pt` and `calibration.pt` of a spect_bone_cls trained for two epochs."""
    from tools.run import run

    folder = tmp_path_factory.mktemp("bone")
    folders = {"dataset_dir": tiny_bone_dataset, "ckpt_dir": str(folder), "log_dir": str(folder / "runs")}
    run("spect_bone_cls", "training", max_epochs=2, batch_size=4, **folders, **small_bone)
    return folder


@pytest.fixture(scope="session")
def tiny_autoencoder(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `autoencoder.pt` of an sd_generator's autoencoder trained for three epochs, one with adversary."""
    from tools.run import run

    folder = tmp_path_factory.mktemp("autoencoder")
    run(
        "sd_generator",
        "training",
        overlay="train_autoencoder",
        dataset_dir=tiny_dataset,
        ckpt_dir=str(folder),
        log_dir=str(folder / "runs"),
        max_epochs=3,
        adversarial_warmup=2,
        batch_size=8,
    )
    return folder


@pytest.fixture
def train(tiny_dataset: str, tmp_path: Path) -> Callable[..., None]:
    """Train thyroid_cls on the tiny dataset into `tmp_path`; options as keywords."""
    from tools.run import run

    folders = {"dataset_dir": tiny_dataset, "ckpt_dir": str(tmp_path), "log_dir": str(tmp_path / "runs")}
    return lambda **options: run("thyroid_cls", "training", **(folders | options))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):  # type: ignore[type-arg]
    """In continuous integration everything is installed: a test that skips there has lost what it tests."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
