"""Inference and evaluation of thyroid_cls, as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from scintikit.data import load_dataset
from scintikit.dicom import read_scintigram, write_scintigram
from scintikit.errors import ConfigError, DatasetError, ScintikitError
from tools.run import run


@pytest.fixture(scope="module")
def predictions(tiny_dataset: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions for one scintigram in three formats and for files that cannot be used."""
    inbox, output = tmp_path_factory.mktemp("inbox"), tmp_path_factory.mktemp("predictions")
    dataset = load_dataset(tiny_dataset)
    source = dataset.root / dataset.splits["test"][0]["image"]
    picture = read_scintigram(source)
    (inbox / "visit 1").mkdir()
    shutil.copy(source, inbox / "visit 1" / "anterior.dcm")
    for name in ("same.nii.gz", "same.png"):
        write_scintigram(
            inbox / name, picture.counts, spacing_mm=picture.spacing_mm, views=picture.views, uid_seed=name
        )
    (inbox / "notes.dcm").write_text("not DICOM")
    (inbox / "cut.dcm").write_bytes(source.read_bytes()[:-1000])
    Image.fromarray(picture.counts[0].astype(np.uint16)).save(inbox / "no_spacing.png")
    noise = np.random.default_rng(0).integers(0, 1000, (1, 128, 128)).astype(np.float32)
    write_scintigram(inbox / "noise.dcm", noise, spacing_mm=(2.0, 2.0), views=("ANT",), uid_seed="noise")
    write_scintigram(inbox / "empty.dcm", noise * 0, spacing_mm=(2.0, 2.0), views=("ANT",), uid_seed="empty")
    run(
        "thyroid_cls",
        "inference",
        dataset_dir=str(inbox),
        ckpt_dir=str(tiny_model),
        output_dir=str(output),
        gradcam=True,
        batch_size=3,
    )
    return output


def test_every_file_is_in_the_table_once(predictions: Path) -> None:
    table = pd.read_csv(predictions / "predictions.csv").set_index("id")
    good = {"visit 1/anterior.dcm", "same.nii.gz", "same.png", "noise.dcm"}
    assert set(table.index[table["error"].isna()]) == good
    assert set(table.index[table["error"].notna()]) == {"notes.dcm", "cut.dcm", "no_spacing.png", "empty.dcm"}
    assert "assumed_spacing_mm" in table.loc["no_spacing.png", "error"]
    assert "holds no counts" in table.loc["empty.dcm", "error"]
    probabilities = table.loc[sorted(good), [column for column in table if column.startswith("p_")]]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)


def test_a_picture_whose_counts_all_lie_outside_the_crop_is_no_picture(tiny_model: Path, tmp_path: Path) -> None:
    counts = np.zeros((1, 256, 256), np.uint16)
    counts[:, :8] = 50
    (tmp_path / "in").mkdir()
    write_scintigram(tmp_path / "in/a.dcm", counts, spacing_mm=(2.4, 2.4), views=("ANT",), uid_seed="a")
    folders = {"dataset_dir": str(tmp_path / "in"), "ckpt_dir": str(tiny_model), "output_dir": str(tmp_path / "out")}
    with pytest.raises(ScintikitError, match="none of the 1 files could be read"):
        run("thyroid_cls", "inference", **folders)
    assert "holds no counts where the network looks" in (tmp_path / "out/predictions.csv").read_text()


def test_formats_of_one_picture_agree(predictions: Path) -> None:
    table = pd.read_csv(predictions / "predictions.csv").set_index("id")
    columns = [column for column in table if column.startswith("p_")]
    for name in ("same.nii.gz", "same.png"):
        np.testing.assert_allclose(
            table.loc[name, columns].astype(float), table.loc["visit 1/anterior.dcm", columns].astype(float), atol=2e-3
        )


def test_one_json_per_image_says_all(predictions: Path) -> None:
    content = json.loads((predictions / "images" / "visit 1/anterior.dcm.json").read_text())
    assert content["prediction"] in content["probabilities"]
    assert set(content["conformal_set"]) <= set(content["probabilities"])
    assert content["conformal_coverage"] == pytest.approx(0.9)
    assert len(content["model_sha256"]) == 64
    assert "not a medical device" in content["notice"]
    failed = json.loads((predictions / "images" / "notes.dcm.json").read_text())
    assert "notes.dcm" in failed["error"]
    assert "prediction" not in failed


def test_grad_cam_overlay_is_drawn_for_readable_images_only(predictions: Path) -> None:
    with Image.open(predictions / "images" / "visit 1/anterior.dcm.png") as picture:
        assert picture.size == (768, 384)
    assert not (predictions / "images" / "notes.dcm.png").exists()


def test_noise_does_not_look_like_the_training_data(predictions: Path) -> None:
    noise = json.loads((predictions / "images" / "noise.dcm.json").read_text())
    assert noise["unlike_training_data"]
    assert "do not rely" in noise["warning"]


def test_folder_without_a_readable_file_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    arguments = {"dataset_dir": str(tmp_path / "in"), "ckpt_dir": str(tiny_model), "output_dir": str(tmp_path / "out")}
    with pytest.raises(DatasetError, match="no DICOM, NIfTI or PNG file"):
        run("thyroid_cls", "inference", **arguments)
    (tmp_path / "in" / "a.dcm").write_text("no")
    with pytest.raises(DatasetError, match="none of the 1 files could be read"):
        run("thyroid_cls", "inference", **arguments)
    assert (tmp_path / "out" / "predictions.csv").exists()


def test_missing_or_changed_model_is_a_clear_error(tiny_dataset: str, tiny_model: Path, tmp_path: Path) -> None:
    images = str(Path(tiny_dataset) / "images")
    with pytest.raises(ConfigError, match="run `training` first"):
        run("thyroid_cls", "inference", dataset_dir=images, ckpt_dir=str(tmp_path), output_dir=str(tmp_path / "out"))
    shutil.copy(tiny_model / "model.pt", tmp_path)
    calibration = (tiny_model / "calibration.pt").read_bytes()
    (tmp_path / "calibration.pt").write_bytes(calibration)
    (tmp_path / "model.pt").write_bytes((tmp_path / "model.pt").read_bytes() + b" ")
    with pytest.raises(ConfigError, match=r"measured for another model\.pt"):
        run("thyroid_cls", "inference", dataset_dir=images, ckpt_dir=str(tmp_path), output_dir=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("class_names", ["thyroiditis", "normal", "nodular goiter", "diffuse goiter"]), ("spacing_mm", 4.0)],
)
def test_inference_unlike_the_training_is_refused(
    name: str, value: object, tiny_dataset: str, tiny_model: Path, tmp_path: Path
) -> None:
    images = str(Path(tiny_dataset) / "images")
    with pytest.raises(ConfigError, match=f"was trained with {name} .*give --{name}"):
        run(
            "thyroid_cls",
            "inference",
            dataset_dir=images,
            ckpt_dir=str(tiny_model),
            output_dir=str(tmp_path),
            **{name: value},
        )


@pytest.mark.onnx
def test_onnx_gives_the_same_table(tiny_dataset: str, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra `onnx`")
    models = shutil.copytree(tiny_model, tmp_path / "models")
    tables = {}
    for runtime in ("torch", "onnx"):
        run(
            "thyroid_cls",
            "inference",
            dataset_dir=str(Path(tiny_dataset) / "images"),
            ckpt_dir=str(models),
            output_dir=str(tmp_path / runtime),
            precision="fp32" if runtime == "torch" else "bf16",  # which is torch's alone
            runtime=runtime,
        )
        tables[runtime] = pd.read_csv(tmp_path / runtime / "predictions.csv")
    # The threshold is the score of a validation picture, which rounding may put on either side.
    threshold = torch.load(models / "calibration.pt", weights_only=True)["ood"]["threshold"]
    clear = (tables["torch"]["ood_score"] - threshold).abs() > 1e-4
    assert (~clear).sum() <= 1
    for table in tables.values():
        table["unlike_training_data"] &= clear
    pd.testing.assert_frame_equal(tables["onnx"], tables["torch"], atol=1e-4, rtol=0)
    assert (models / "model.onnx").is_file()


@pytest.mark.onnx
def test_grad_cam_with_onnx_is_refused_before_the_work(tiny_dataset: str, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra `onnx`")
    with pytest.raises(ConfigError, match="leave out --gradcam, or give --runtime torch"):
        run(
            "thyroid_cls",
            "inference",
            dataset_dir=str(Path(tiny_dataset) / "images"),
            ckpt_dir=str(tiny_model),
            output_dir=str(tmp_path),
            runtime="onnx",
            gradcam=True,
        )
    assert not list(tmp_path.iterdir())


def test_evaluation_writes_numbers_and_a_report(tiny_dataset: str, tiny_model: Path, tmp_path: Path) -> None:
    run(
        "thyroid_cls",
        "evaluating",
        dataset_dir=tiny_dataset,
        ckpt_dir=str(tiny_model),
        output_dir=str(tmp_path),
        bootstrap=50,
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    dataset = load_dataset(tiny_dataset)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert metrics["n"] == len(table) == len(dataset.splits["test"])
    assert metrics["provenance"]["dataset_sha256"] == dataset.sha256
    assert set(metrics["per_centre"]) == {"F", "H", "I"}
    assert metrics["overall"]["accuracy"]["value"] == pytest.approx((table["label"] == table["prediction"]).mean())
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert len(list((tmp_path / "figures").glob("*.png"))) >= 5
