"""spect_bone_cls: its networks, and training, evaluation and inference on tiny whole-body scans."""

from __future__ import annotations

import importlib
import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from scintikit.bundles import enter
from scintikit.data import UNKNOWN, TwoViewAugmentation, load_dataset, mirror_posterior
from scintikit.dicom import read_scintigram, write_scintigram
from scintikit.errors import ConfigError, DatasetError
from tools.run import BUNDLES, run

ARCHITECTURES = ("two_view", "alexnet", "resnet18", "densenet121")


@pytest.fixture
def networks() -> ModuleType:
    enter(BUNDLES / "spect_bone_cls")
    return importlib.import_module("scripts.network")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_logits_and_heat_maps(networks: ModuleType, architecture: str) -> None:
    network = networks.build(architecture, 3).eval()
    scans = torch.rand(2, 2, 128, 32)
    with torch.no_grad():
        logits, heat = network(scans), network.heat_maps(scans)
    assert logits.shape == (2, 3)
    assert heat.shape[:3] == (2, 3, 2)
    assert heat.min() >= 0
    assert heat.max() <= 1


def test_an_unknown_architecture_is_named(networks: ModuleType) -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        networks.build("resnet")


def test_both_views_are_read_alike(networks: ModuleType) -> None:
    torch.manual_seed(0)
    network = networks.build().eval()
    anterior = torch.rand(2, 1, 64, 32)
    same = mirror_posterior(torch.cat([anterior, anterior], 1))
    with torch.no_grad():
        heat = network.heat_maps(same)
        torch.testing.assert_close(heat[:, :, 1], heat[:, :, 0].flip(-1))
        swapped = mirror_posterior(torch.cat([torch.rand(2, 1, 64, 32), anterior], 1))
        assert not torch.allclose(network.heat_maps(swapped)[:, :, 1], heat[:, :, 1]), "a view ignores the other one"


def test_an_absent_view_counts_for_nothing(networks: ModuleType) -> None:
    torch.manual_seed(0)
    network = networks.build().eval()
    scans = torch.rand(2, 2, 64, 32)
    scans[:, 1] = 0
    logits = network(scans)
    logits.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)
    assert network.heat_maps(scans)[:, :, 1].max() == 0
    deepest = []
    network.lateral[-1].register_forward_pre_hook(lambda _, inputs: deepest.append(inputs[0]))
    _, found, whole = network.read(scans)
    assert torch.allclose(whole, deepest[0][::2].mean((2, 3)), atol=1e-6)
    evidence = found[:, :, 0].flatten(2)
    pooled = (logits - network.whole(whole) - network.offset) / network.scale
    assert (pooled >= evidence.amin(2)).all()
    assert (pooled <= evidence.amax(2)).all()


def test_each_place_sees_the_other_view_and_the_opposite_side(networks: ModuleType) -> None:
    views = torch.rand(2, 3, 4, 6)  # one patient's
    around = networks._around(views, torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))
    own, other, opposite, opposite_other = around.split(3, dim=1)
    assert torch.equal(own, views)
    assert torch.equal(opposite, views.flip(3))
    assert torch.equal(other[1], views[0])
    assert torch.equal(opposite_other[1], views[0].flip(2))
    assert not other[0].any()  # the second view was not acquired


def test_any_size_fits_its_lesion_map(networks: ModuleType) -> None:
    lesions = importlib.import_module("scripts.lesions")
    scans, mask = torch.rand(2, 2, 203, 51), torch.zeros(2, 2, 203, 51, dtype=torch.uint8)
    batch = {"image": scans, "mask": mask, "label": torch.zeros(2, 2), "id": ["a", "b"]}
    images, labels, _, how = lesions.PrepareLesions(2)(batch, "cpu")
    assert networks.build()(images, **how).shape == labels.shape


def test_eight_scans_are_learned_by_heart(networks: ModuleType) -> None:
    torch.manual_seed(0)
    network, scans = networks.build(), torch.rand(8, 2, 64, 32)
    labels = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).repeat(2, 1)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(scans), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_masks_teach_where_lesions_are_and_unknown_ones_do_not(networks: ModuleType) -> None:
    lesions = importlib.import_module("scripts.lesions")
    torch.manual_seed(0)
    network, scans = networks.build(), torch.rand(4, 2, 64, 32)
    mask = torch.zeros(4, 2, 64, 32, dtype=torch.uint8)
    mask[:2, 0, 8:16, 8:16] = 1
    mask[3] = UNKNOWN
    label = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    batch = {"image": scans, "mask": mask, "label": label, "id": list("abcd")}
    images, labels, _, how = lesions.PrepareLesions(2)(batch, "cpu")
    places = labels[:, 2:].unflatten(1, (2, 2, 16, 8))
    assert places[0, 0, 0, 2:4, 2:4].min() == 1
    assert places[:2].sum() == 2 * 4
    assert places[3].unique().tolist() == [-1]
    loss = lesions.DiseaseLoss(2)
    pred = network(images, **how)
    assert pred.shape == labels.shape
    blind = pred.detach().clone()
    blind[3, 2:] = 5.0  # whatever is said where nobody looked
    assert loss(blind, labels) == pytest.approx(loss(pred, labels).item())
    wrong = pred.detach().clone()
    wrong[2, 2:] = 5.0
    assert loss(wrong, labels) > loss(pred, labels) + 1
    assert loss(pred[:, :2], labels[:, :2]) < loss(pred, labels)


def test_a_scan_without_a_mask_stays_unknown_however_it_is_moved(networks: ModuleType) -> None:
    lesions = importlib.import_module("scripts.lesions")
    mask = torch.full((8, 2, 64, 32), UNKNOWN, dtype=torch.uint8)
    mask[0] = 0
    mask[0, :, 20:40, 8:20] = 1
    batch = {"image": torch.rand(8, 2, 64, 32), "mask": mask, "label": torch.zeros(8, 2), "id": list("abcdefgh")}
    augmentation = TwoViewAugmentation(rotate_deg=20, shift=0.3, one_view=0.5)
    _, labels, _, _ = lesions.PrepareLesions(2, augmentation=augmentation)(batch, "cpu")
    assert labels[1:, 2:].unique().tolist() == [-1]
    assert labels[0, 2:].unique().tolist() == [0, 1]


def test_a_mask_with_the_number_of_no_disease_is_refused(networks: ModuleType) -> None:
    lesions = importlib.import_module("scripts.lesions")
    mask = torch.zeros(2, 2, 64, 32, dtype=torch.uint8)
    mask[1, 0, 0, 0] = 3
    batch = {"image": torch.rand(2, 2, 64, 32), "mask": mask, "label": torch.zeros(2, 2), "id": ["A_1", "A_2"]}
    with pytest.raises(DatasetError, match=r"mask of 'A_2' holds the value 3; expected .* 1 to 2"):
        lesions.PrepareLesions(2)(batch, "cpu")


@pytest.mark.parametrize("epoch_length", [None, 2], ids=["whole epochs", "shorter epochs"])
def test_resumed_training_with_dropout_ends_with_the_same_bits(
    epoch_length: int | None,
    tiny_bone_dataset: str,
    small_bone: dict[str, Any],
    killed: AbstractContextManager[None],
    tmp_path: Path,
) -> None:
    def train(name: str, **options: Any) -> Any:
        folder = tmp_path / name
        folders = {"dataset_dir": tiny_bone_dataset, "ckpt_dir": str(folder), "log_dir": str(folder / "runs")}
        few = {"architecture": "alexnet", "max_epochs": 2, "batch_size": 4, "epoch_length": epoch_length}
        run("spect_bone_cls", "training", **folders, **few, **small_bone, **options)
        return torch.load(folder / "last.pt", weights_only=True)

    whole = train("whole")
    with killed:
        train("killed")
    torch.testing.assert_close(train("killed", resume=True), whole, rtol=0, atol=0)


def test_evaluation_measures_diseases_and_lesions(
    tiny_bone_dataset: str, tiny_bone_model: Path, small_bone: dict[str, Any], tmp_path: Path
) -> None:
    run(
        "spect_bone_cls",
        "evaluating",
        dataset_dir=tiny_bone_dataset,
        ckpt_dir=str(tiny_bone_model),
        log_dir=str(tmp_path),
        output_dir=str(tmp_path / "eval"),
        bootstrap=20,
        **small_bone,
    )
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    test = load_dataset(tiny_bone_dataset).splits["test"]
    assert metrics["patients"] == len(test)
    assert metrics["provenance"]["split"] == "test"
    assert "localisation" in metrics
    table = pd.read_csv(tmp_path / "eval" / "predictions.csv", dtype={"id": str})
    truth = ["metastasis" in str(label) for label in table["label"]]
    assert sum(truth) == sum(item["label"][0] for item in test)
    assert (tmp_path / "eval" / "report.html").stat().st_size > 10_000


def test_inference_takes_two_frames_pairs_and_single_views_and_names_the_rest(
    tiny_bone_dataset: str, tiny_bone_model: Path, small_bone: dict[str, Any], tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    root = load_dataset(tiny_bone_dataset).root
    source = root / load_dataset(tiny_bone_dataset).splits["test"][0]["image"]
    scan = read_scintigram(source)
    shutil.copy(source, inbox / "whole.dcm")
    facts = {"spacing_mm": scan.spacing_mm, "image_type": "WHOLE BODY", "uid_seed": "x"}
    write_scintigram(inbox / "turned.dcm", scan.counts[::-1], views=("POST", "ANT"), **facts)
    write_scintigram(inbox / "posterior.dcm", scan.counts[1:], views=("POST",), **facts)
    write_scintigram(inbox / "upside_down.dcm", scan.counts[:, ::-1], views=scan.views, **facts)
    for name, counts in zip(("scan_ant", "scan_post"), scan.counts, strict=True):
        view = "ANT" if name == "scan_ant" else "POST"
        write_scintigram(inbox / f"{name}.png", counts[None], spacing_mm=scan.spacing_mm, views=(view,), uid_seed=name)
    output = tmp_path / "predictions"
    run(
        "spect_bone_cls",
        "inference",
        dataset_dir=str(inbox),
        ckpt_dir=str(tiny_bone_model),
        output_dir=str(output),
        batch_size=2,
        precision="fp32",
        **small_bone,
    )
    table = pd.read_csv(output / "predictions.csv").set_index("id")
    assert set(table.index) == {"whole.dcm", "turned.dcm", "posterior.dcm", "upside_down.dcm", "scan_ant.png"}
    columns = ["p_metastasis", "p_arthritis"]
    for same in ("turned.dcm", "scan_ant.png"):
        np.testing.assert_allclose(
            table.loc[same, columns].astype(float), table.loc["whole.dcm", columns].astype(float), atol=2e-3
        )
    assert "only the posterior view" in table.loc["posterior.dcm", "warning"]
    assert "upside_down.dcm" in table.loc["upside_down.dcm", "error"]
    both, one = (Image.open(output / "images" / f"{name}.dcm.png").size for name in ("whole", "posterior"))
    assert both == (2 * one[0], one[1]), "a view that was not acquired is drawn"


@pytest.mark.onnx
def test_onnx_gives_the_same_table_and_heat_maps(
    tiny_bone_dataset: str, tiny_bone_model: Path, small_bone: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra `onnx`")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    dataset = load_dataset(tiny_bone_dataset)
    for item in dataset.splits["test"][:3]:  # with batches of two, a last one of one
        shutil.copy(dataset.root / item["image"], inbox)
    models = shutil.copytree(tiny_bone_model, tmp_path / "models", ignore=shutil.ignore_patterns("runs"))
    outputs = {}
    for runtime in ("torch", "onnx"):
        folders = {"dataset_dir": str(inbox), "ckpt_dir": str(models), "output_dir": str(tmp_path / runtime)}
        run("spect_bone_cls", "inference", batch_size=2, precision="fp32", runtime=runtime, **folders, **small_bone)
        pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / runtime / "images").glob("*.png"))]
        outputs[runtime] = pd.read_csv(tmp_path / runtime / "predictions.csv"), np.stack(pictures).astype(int)
    pd.testing.assert_frame_equal(outputs["onnx"][0], outputs["torch"][0], atol=1e-4, rtol=1e-4)
    assert abs(outputs["onnx"][1] - outputs["torch"][1]).max() <= 2


def test_a_model_of_another_architecture_is_refused(
    tiny_bone_dataset: str, tiny_bone_model: Path, small_bone: dict[str, Any], tmp_path: Path
) -> None:
    options = {
        "dataset_dir": tiny_bone_dataset,
        "ckpt_dir": str(tiny_bone_model),
        "output_dir": str(tmp_path),
        **small_bone,
    }
    with pytest.raises(ConfigError, match="architecture"):
        run("spect_bone_cls", "inference", architecture="resnet18", **options)
