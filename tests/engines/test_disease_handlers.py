"""The files that evaluation and inference of several diseases write, by MONAI's own evaluator."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Activationsd, Compose
from PIL import Image

from scintikit.data import DatasetWriter
from scintikit.engines import CaptureFeatures, DiseaseReport, PrepareImages, WriteDiseases
from scintikit.errors import ConfigError, DatasetError
from scintikit.files import file_sha256, write_atomic
from scintikit.metrics import fit_ood

DISEASES = ["metastasis", "arthritis"]
SETTINGS = {"class_names": DISEASES}
SIZE = (32, 16)


class Fake(torch.nn.Module):
    """Calls metastasis what is hot in the upper half, arthritis what is hot in the lower half."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(8 * torch.eye(2))
            self.fc.bias.fill_(-4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.nn.functional.adaptive_max_pool2d(x.amax(1, keepdim=True), (2, 1)).flatten(1))


class Seeing(Fake):
    """The same with heat maps: a pixel for 4 x 4 of the picture."""

    def heat_maps(self, x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        heat = torch.nn.functional.max_pool2d(x, 4)
        upper = torch.arange(heat.shape[-2])[:, None] < heat.shape[-2] // 2
        return torch.stack([heat * upper, heat * ~upper], dim=1)


def _item(number: int) -> dict[str, Any]:
    """Give a patient with a spot for each disease: none, metastasis, arthritis, both in turn."""
    label = [number % 2, number // 2 % 2]
    image, mask = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(number)) / 4, torch.zeros(2, *SIZE)
    for disease, row in enumerate((9, 25)):
        if label[disease]:
            image[0, row, 5] = 0.9
            mask[0, row, 5] = disease + 1
    centre = "GH"[number // 4 % 2]
    identity = {"id": f"{centre}_{number:04d}", "patient": f"{centre}_{number:04d}", "centre": centre}
    return {"image": image, "mask": mask, "label": torch.tensor(label)} | identity


@pytest.fixture(scope="module")
def ckpt_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.save(Fake().state_dict(), folder / "model.pt")
    features = np.random.default_rng(0).random((40, 2))
    ood = {name: torch.as_tensor(value) for name, value in fit_ood(features, features).items()}
    content = {"model_sha256": file_sha256(folder / "model.pt"), "settings": SETTINGS, "target_sensitivity": 0.9}
    ood["threshold"] = 1e9
    torch.save(content | {"thresholds": [0.5, 0.5], "ood": ood}, folder / "calibration.pt")
    return folder


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of the items' names; nothing reads its pictures."""
    writer = DatasetWriter(
        tmp_path_factory.mktemp("dataset"), name="bones", description="d", labels=DISEASES, licence="none", recipe={}
    )
    splits: dict[str, list[Any]] = {"training": [_record("A_1", [1, 0])], "test": []}
    for item in map(_item, range(16)):
        splits["test"].append(_record(item["id"], item["label"].tolist()))
    for record in splits["training"] + splits["test"]:
        write_atomic(writer.folder / record["image"], b"x")
    return str(writer.finish(**splits).parent)


def _record(identifier: str, label: list[int]) -> dict[str, Any]:
    image = f"images/{identifier}.dcm"
    origin = {"kind": "simulated", "generator": "0" * 64, "seed": 0}
    return {"image": image, "label": label, "patient": identifier, "centre": identifier[0], "origin": origin}


@pytest.fixture(scope="module")
def reported(ckpt_dir: Path, dataset_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an evaluation of 16 patients."""
    folder = tmp_path_factory.mktemp("report")
    _evaluate(folder, ckpt_dir, dataset_dir, [_item(number) for number in range(16)], Seeing())
    return folder


def _evaluate(
    folder: Path, ckpt_dir: Path, dataset_dir: str, items: list[Any], network: torch.nn.Module
) -> DiseaseReport:
    handler = DiseaseReport(
        output_dir=str(folder),
        dataset_dir=dataset_dir,
        split="test",
        settings=SETTINGS,
        ckpt_dir=str(ckpt_dir),
        spacing_mm=5.0,
        bootstrap=20,
    )
    _run(items, network, handler)
    return handler


def _run(items: list[dict[str, Any]], network: torch.nn.Module, handler: Any) -> None:
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=3),
        network=network,
        prepare_batch=PrepareImages(),
        postprocessing=Compose([Activationsd("pred", sigmoid=True)]),
        val_handlers=[handler, CaptureFeatures(network, "fc")],
    )
    evaluator.run()


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_evaluation_writes_metrics_table_and_report(reported: Path, dataset_dir: str, ckpt_dir: Path) -> None:
    metrics = json.loads((reported / "metrics.json").read_text())
    assert metrics["provenance"]["split"] == "test"
    assert metrics["provenance"]["checkpoint_sha256"] == file_sha256(ckpt_dir / "model.pt")
    assert metrics["overall"]["exact_match"]["value"] == 1
    assert metrics["per_class"]["normal"]["support"] == 4
    assert metrics["label_sets"]["counts"] == (4 * np.eye(4, dtype=int)).tolist()
    assert list(metrics["per_centre"]) == ["G", "H"]
    found = metrics["localisation"]["per_disease"]["arthritis"]
    assert found["lesions"] == 8
    assert found["sensitivity"]["value"] == 1
    assert metrics["intervals"]["resamples"] == 20
    rows = _rows(reported)
    assert list(rows[0]) == ["id", "centre", "label", "called", "p_metastasis", "p_arthritis", "ood_score"]
    assert [row["label"] for row in rows[:4]] == ["normal", "metastasis", "arthritis", "metastasis | arthritis"]
    assert [row["called"] for row in rows] == [row["label"] for row in rows]
    text = (reported / "report.html").read_text()
    assert "bones: test on unseen centres" in text
    assert "Simulated data. Research use only; not a medical device." in text
    assert sorted(path.stem for path in (reported / "figures").iterdir()) == [
        "centres", "examples", "froc", "label_sets", "precision_recall", "reliability_0", "reliability_1", "roc",
    ]  # fmt: skip


def test_probabilities_are_written_to_the_last_bit(ckpt_dir: Path, dataset_dir: str, tmp_path: Path) -> None:
    """What is above a threshold, and which of two is larger, must be the same in the table, however sure a network."""
    sure = Fake()
    with torch.no_grad():
        sure.fc.bias.copy_(torch.tensor([-30.0, 6.0]))
    handler = _evaluate(tmp_path, ckpt_dir, dataset_dir, [_item(number) for number in range(16)], sure)
    expected = torch.stack([output["pred"] for output in handler.outputs]).double()
    written = [[float(row[f"p_{disease}"]) for disease in DISEASES] for row in _rows(tmp_path)]
    np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize("place", ["outputs.write_atomic", "diseases.diseases_report"])
def test_metrics_are_there_only_when_all_is(
    place: str, ckpt_dir: Path, dataset_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError("no space left")

    items = [_item(number) for number in range(8)]
    _evaluate(tmp_path, ckpt_dir, dataset_dir, items, Fake())
    assert (tmp_path / "metrics.json").is_file()
    monkeypatch.setattr(f"scintikit.engines.{place}", full)
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(OSError, match="no space left"):
            _evaluate(folder, ckpt_dir, dataset_dir, items, Fake())
        assert not (folder / "metrics.json").exists()


def test_evaluation_without_masks_or_heat_maps_measures_no_localisation(
    ckpt_dir: Path, dataset_dir: str, tmp_path: Path
) -> None:
    items = [_item(number) for number in range(8)]
    _evaluate(tmp_path / "blind", ckpt_dir, dataset_dir, items, Fake())
    for item in items:
        del item["mask"]
    _evaluate(tmp_path / "plain", ckpt_dir, dataset_dir, items, Seeing())
    for name in ("blind", "plain"):
        assert "localisation" not in json.loads((tmp_path / name / "metrics.json").read_text())
        assert (tmp_path / name / "figures" / "examples.png").is_file()
        assert not (tmp_path / name / "figures" / "froc.png").exists()


def _inference_items(count: int = 5) -> list[dict[str, Any]]:
    """Give items as inference has them: the third cannot be read, the fourth has one view."""
    items = [{"image": _item(n)["image"], "id": f"folder/p{n}", "error": "", "warning": ""} for n in range(count)]
    items[2] |= {"image": torch.zeros(2, *SIZE), "error": "p2 is a thyroid scan"}
    items[3] |= {"warning": "Only the anterior view was given."}
    return items


def _infer(folder: Path, ckpt_dir: Path, items: list[Any], network: torch.nn.Module, **options: Any) -> None:
    handler = WriteDiseases(output_dir=str(folder), settings=SETTINGS, ckpt_dir=str(ckpt_dir), **options)
    _run(items, network, handler)


def test_inference_writes_a_json_per_image_and_a_table(ckpt_dir: Path, tmp_path: Path) -> None:
    _infer(tmp_path, ckpt_dir, _inference_items(), Seeing(), heat=True)
    said = [json.loads((tmp_path / "images" / "folder" / f"p{n}.json").read_text()) for n in range(5)]
    assert [record.get("called") for record in said] == [[], ["metastasis"], None, DISEASES, []]
    assert said[1]["probabilities"]["metastasis"] > 0.9
    assert said[1]["thresholds"] == {"metastasis": 0.5, "arthritis": 0.5}
    assert said[1]["unlike_training_data"] is False
    assert "warning" not in said[1]
    assert said[1]["notice"] == "Research use only; not a medical device."
    assert said[2]["error"] == "p2 is a thyroid scan"
    assert said[3]["warning"] == "Only the anterior view was given."
    rows = {row["id"]: row for row in _rows(tmp_path)}
    assert list(rows["folder/p1"]) == [
        "id", "called", "p_metastasis", "p_arthritis", "ood_score", "warning", "unlike_training_data", "error",
    ]  # fmt: skip
    assert [rows[f"folder/p{n}"]["called"] for n in (0, 1, 3)] == ["normal", "metastasis", "metastasis | arthritis"]
    assert rows["folder/p2"]["error"] == "p2 is a thyroid scan"
    assert rows["folder/p3"]["warning"] == "Only the anterior view was given."
    assert rows["folder/p1"]["warning"] == ""
    pictures = sorted(path.name for path in (tmp_path / "images" / "folder").glob("*.png"))
    assert pictures == ["p0.png", "p1.png", "p3.png", "p4.png"]
    picture = np.asarray(Image.open(tmp_path / "images" / "folder" / "p1.png").convert("RGB")).astype(int)
    assert picture.shape[1] == 2 * 3 * 2 * SIZE[1]  # zoom, panels, views, columns
    panels = np.split(picture, 3, axis=1)
    red = [((panel[..., 0] - panel[..., 2]) > 60).any() for panel in panels]
    assert red == [False, True, False]


def test_image_unlike_the_training_data_is_flagged_beside_the_items_own_warning(ckpt_dir: Path, tmp_path: Path) -> None:
    content = torch.load(ckpt_dir / "calibration.pt", weights_only=True)
    content["ood"]["threshold"] = -1.0
    (tmp_path / "model").mkdir()
    torch.save(content, tmp_path / "model" / "calibration.pt")
    (tmp_path / "model" / "model.pt").write_bytes((ckpt_dir / "model.pt").read_bytes())
    _infer(tmp_path, tmp_path / "model", _inference_items(), Fake())
    said = json.loads((tmp_path / "images" / "folder" / "p3.json").read_text())
    assert said["unlike_training_data"] is True
    assert said["warning"].startswith("Only the anterior view was given. The image does not look like the training")
    assert not list(tmp_path.rglob("*.png"))


def test_what_cannot_be_done_is_said(ckpt_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Fake has no heat maps to draw; leave out --heat"):
        _infer(tmp_path / "heat", ckpt_dir, _inference_items(), Fake(), heat=True)
    with pytest.raises(DatasetError, match="none of the 1 files could be read"):
        _infer(tmp_path / "none", ckpt_dir, _inference_items()[2:3], Fake())
