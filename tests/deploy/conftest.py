"""A model folder with both classifiers, and studies as a clinic sends them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid

from scintikit.classifier import Classifier
from tools.run import BUNDLES

SECRETS = {"PatientName": "Nobody^Secret", "PatientID": "ID-4711", "PatientBirthDate": "19610203"}
VISIT = {"StudyDate": "20240229", "StudyTime": "101112", "StudyID": "S-88", "AccessionNumber": "ACC-99"}


@pytest.fixture(scope="session")
def model_folder(
    tiny_model: Path, tiny_bone_model: Path, small_bone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two bundle folders with tiny models."""
    folder = tmp_path_factory.mktemp("models")
    for name, weights, options in (("thyroid_cls", tiny_model, {}), ("spect_bone_cls", tiny_bone_model, small_bone)):
        shutil.copytree(BUNDLES / name, folder / name, ignore=shutil.ignore_patterns("models", "runs", "eval"))
        (folder / name / "models").mkdir()
        for file in ("model.pt", "calibration.pt"):
            shutil.copy(weights / file, folder / name / "models")
        config = folder / name / "configs" / "inference.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | options))
    return folder


@pytest.fixture(scope="session")
def classifiers(model_folder: Path) -> dict[str, Classifier]:
    from deploy.app.models import load_classifiers

    return load_classifiers(model_folder, {"thyroid_cls", "spect_bone_cls"}, "cpu")


@pytest.fixture
def send(tiny_dataset: str, tiny_bone_dataset: str, tmp_path: Path) -> Callable[..., Path]:
    """Write an instance of the study "thyroid" or "bone" of a patient; header values as keywords."""

    def write(name: str, kind: str, number: int = 0, **values: Any) -> Path:
        dataset = tiny_dataset if kind == "thyroid" else tiny_bone_dataset
        instance = pydicom.dcmread(sorted(Path(dataset, "images").glob("*.dcm"))[number])
        del instance.SyntheticData
        for keyword, value in (SECRETS | VISIT | values).items():
            setattr(instance, keyword, value)
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
        folder = tmp_path / "study"
        folder.mkdir(exist_ok=True)
        instance.save_as(folder / name)
        return folder / name

    return write


@pytest.fixture
def split(send: Callable[..., Path]) -> Callable[..., list[Path]]:
    """Write a two-frame whole-body scan as two files of one frame each."""

    def write(number: int = 0) -> list[Path]:
        whole = pydicom.dcmread(send("whole.dcm", "bone", number))
        Path(whole.filename).unlink()
        paths, pixels = [], whole.pixel_array
        detectors = list(whole.DetectorInformationSequence)
        for frame, detector in enumerate(detectors):
            whole.SOPInstanceUID = generate_uid(entropy_srcs=["split", str(number), str(frame)])
            whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID
            whole.NumberOfFrames, whole.DetectorVector, whole.EnergyWindowVector = 1, 1, 1
            whole.NumberOfDetectors, whole.DetectorInformationSequence = 1, [detector]
            whole.PixelData = pixels[frame].tobytes()
            paths.append(Path(whole.filename).with_name(f"frame{1 - frame}.dcm"))  # the names are no hint
            whole.save_as(paths[-1])
        return paths

    return write
