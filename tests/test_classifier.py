"""A classifier held in memory says what the bundle's inference run writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scintikit.classifier import Classifier
from scintikit.data import find_images, find_studies
from scintikit.engines import calibration
from scintikit.errors import ConfigError
from tools.run import BUNDLES, run


def _folder(dataset: str, folder: Path) -> Path:
    """Three pictures, and between them a file that is none."""
    for file in sorted(Path(dataset, "images").glob("*.dcm"))[:3]:
        shutil.copy(file, folder)
    (folder / "A_0001x.dcm").write_text("not DICOM")
    return folder


def _check(classifier: Classifier, items: list[Any], written: Path) -> None:
    predictions = classifier.classify(items)
    assert [prediction.id for prediction in predictions] == [item["id"] for item in items]
    for prediction in predictions:
        assert json.loads((written / f"{prediction.id}.json").read_text()) == prediction.content
        picture = written / f"{prediction.id}.png"
        assert prediction.picture == (picture.read_bytes() if picture.exists() else None)
    assert [bool(prediction.picture) for prediction in predictions] == [True, False, True, True]
    assert "not DICOM" in predictions[1].content["error"]


def test_both_bundles_in_one_process_say_what_their_inference_runs_write(
    tiny_dataset: str,
    tiny_model: Path,
    tiny_bone_dataset: str,
    tiny_bone_model: Path,
    small_bone: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thyroid = {"ckpt_dir": str(tiny_model), "batch_size": 3}
    bone = {"ckpt_dir": str(tiny_bone_model), "batch_size": 3, **small_bone}
    folders = [tmp_path / name for name in ("thyroid", "bone", "thyroid_out", "bone_out")]
    for folder in folders:
        folder.mkdir()
    _folder(tiny_dataset, folders[0])
    _folder(tiny_bone_dataset, folders[1])
    run("thyroid_cls", "inference", dataset_dir=str(folders[0]), output_dir=str(folders[2]), gradcam=True, **thyroid)
    run("spect_bone_cls", "inference", dataset_dir=str(folders[1]), output_dir=str(folders[3]), **bone)
    classifiers = [Classifier(BUNDLES / "thyroid_cls", **thyroid), Classifier(BUNDLES / "spect_bone_cls", **bone)]
    monkeypatch.setattr(calibration, "file_sha256", None)  # weights are not looked at again
    for _ in range(2):
        _check(classifiers[0], find_images(folders[0]), folders[2] / "images")
        _check(classifiers[1], find_studies(folders[1]), folders[3] / "images")
    assert classifiers[0].name == "thyroid_cls"
    assert classifiers[0].version == classifiers[0].metadata["version"]
    assert classifiers[1].class_names == ("metastasis", "arthritis")
    assert len(classifiers[1].model_sha256) == 64
    assert classifiers[1].classify([]) == []


def test_without_pictures_none_are_drawn(tiny_dataset: str, tiny_model: Path) -> None:
    classifier = Classifier(BUNDLES / "thyroid_cls", "cpu", pictures=False, ckpt_dir=str(tiny_model))
    (prediction,) = classifier.classify(find_images(next(Path(tiny_dataset, "images").glob("*.dcm"))))
    assert prediction.picture is None
    assert prediction.content["prediction"]


def test_what_cannot_be_loaded_is_said(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no classifier bundle: there is no configs"):
        Classifier(tmp_path)
    with pytest.raises(ConfigError, match="is no classifier bundle: none of its handlers"):
        Classifier(BUNDLES / "fm_generator")
    with pytest.raises(ConfigError, match="no item 'batch_sizze' to override, did you mean 'batch_size'"):
        Classifier(BUNDLES / "thyroid_cls", ckpt_dir=str(tiny_model), batch_sizze=2)
    with pytest.raises(ConfigError, match="run `training` first"):
        Classifier(BUNDLES / "thyroid_cls", ckpt_dir=str(tmp_path))
