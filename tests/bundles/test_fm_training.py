"""Training fm_generator: the network, what a training leaves, exact resume, learning, clear errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scintikit.bundles import enter
from scintikit.data import load_dataset
from scintikit.errors import ConfigError, DatasetError
from tools.run import BUNDLES, run

SMALL: dict[str, Any] = {
    "image_size": [32, 32],
    "spacing_mm": 9.6,
    "batch_size": 16,
    "val_interval": 1,
    "network_def#channels": [32, 64],
    "network_def#attention_levels": [False, True],
}


@pytest.fixture
def train_flow(tiny_dataset: str, tmp_path: Path) -> Callable[..., None]:
    """Train a small fm_generator on the tiny dataset into `tmp_path`; options as keywords."""
    folders = {"dataset_dir": tiny_dataset, "ckpt_dir": str(tmp_path), "log_dir": str(tmp_path / "runs")}
    return lambda **options: run("fm_generator", "training", **(folders | SMALL | options))


@pytest.fixture
def network_class() -> Any:
    enter(BUNDLES / "fm_generator")
    from scripts.network import FlowNetwork

    return FlowNetwork


def _randomised(network: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for weight in network.parameters():  # a new UNet ends in zeros and would ignore its conditions
        weight.data += 0.02 * torch.randn_like(weight)
    return network.eval()


@pytest.mark.parametrize("places", [False, True])
def test_network_can_be_told_where_a_place_is(network_class: Any, places: bool) -> None:
    network = _randomised(network_class(unshuffle=2, channels=(32,), attention_levels=(False,), places=places))
    answer = network(torch.zeros(1, 1, 128, 32))[0, 0, :, 16]
    assert bool((answer[48] - answer[80]).abs() > 1e-4) == places  # far from the edges all else is equal


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("mask_labels", [0, 3])
@pytest.mark.parametrize("unshuffle", [2, 4])
def test_network_answers_a_velocity_of_the_pictures_shape(
    network_class: Any, views: int, mask_labels: int, unshuffle: int
) -> None:
    network = network_class(views, 4, mask_labels, unshuffle, (32, 64), (False, True))
    x = torch.randn(3, views, 32, 64)
    assert network(x).shape == x.shape
    assert network(x, torch.rand(3), torch.tensor([0, 3, -1]), torch.rand(3, mask_labels + 1, 32, 64)).shape == x.shape


def test_conditions_matter_and_missing_ones_are_the_null_ones(network_class: Any) -> None:
    network = _randomised(network_class(channels=(32, 64), attention_levels=(False, True)))
    x, t = torch.randn(2, 1, 32, 32), torch.full((2,), 0.5)
    mask = network.no_mask(x)
    nothing = network(x, t)
    torch.testing.assert_close(network(x, t, torch.tensor([-1, -1]), mask), nothing)
    torch.testing.assert_close(network(x, t, torch.full((2, 4), -1.0)), nothing)
    torch.testing.assert_close(network(x, t, torch.eye(4)[[1, 2]]), network(x, t, torch.tensor([1, 2])))
    structures = mask.clone()
    structures[:, 0, :16] = 1
    field = mask.clone()
    field[:, -1, :16] = 0
    for other in (network(x, t, torch.tensor([1, 2])), network(x, t, None, structures), network(x, t, None, field)):
        assert (other - nothing).abs().amax() > 1e-4
    assert (network(x, t + 0.1) - nothing).abs().amax() > 1e-4


def test_new_network_predicts_a_picture_not_noise(network_class: Any) -> None:
    network = network_class(channels=(32, 64), attention_levels=(False, True)).eval()
    x, t = torch.randn(2, 1, 32, 32), torch.tensor([0.2, 0.9])
    picture = x + (1 - t)[:, None, None, None] * network(x, t)
    assert float(picture.detach().abs().max()) < 1e-5


def test_network_refuses_what_does_not_divide_and_other_masks(network_class: Any) -> None:
    network = network_class(channels=(32, 64), attention_levels=(False, True))
    with pytest.raises(ConfigError, match=r"pictures are \(30, 32\); expected sides that are multiples of 8"):
        network(torch.zeros(1, 1, 30, 32))
    with pytest.raises(ConfigError, match="class number 7 is asked for; known are 0 to 3, or -1"):
        network(torch.zeros(1, 1, 32, 32), y=torch.tensor([7]))
    with pytest.raises(ConfigError, match="masks have 2 channels; expected 4"):
        network(torch.zeros(1, 1, 32, 32), mask=torch.zeros(1, 2, 32, 32))


def test_training_keeps_the_average_and_what_generation_needs(train_flow: Callable[..., None], tmp_path: Path) -> None:
    train_flow(max_epochs=2, preview_interval=2)
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert model.keys() == last["network"].keys()
    differ = [name for name in model if not torch.equal(last["network"][name], last["average"][name])]
    assert len(differ) > len(model) / 2
    generation = torch.load(tmp_path / "generation.pt", weights_only=True)
    assert set(generation["levels"]) == {"0", "1", "2", "3"}
    events = EventAccumulator(str(tmp_path / "runs"), size_guidance={"scalars": 0})
    events.Reload()
    assert {"train_loss", "val_loss", "samples/kid_random_features"} <= set(events.Tags()["scalars"])
    assert any(tag.startswith("samples/real_then_drawn") for tag in events.Tags()["images"])


def test_evaluating_tells_what_it_measured(
    train_flow: Callable[..., None], tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_flow(max_epochs=1, preview_interval=99)
    folders = {"dataset_dir": tiny_dataset, "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "eval")}
    run("fm_generator", "evaluating", **(SMALL | folders))
    value = (tmp_path / "eval" / "metrics.csv").read_text().replace(",", " ").split()[-1]
    assert f"wrote {tmp_path / 'eval' / 'metrics.csv'}: val_loss {float(value):.5g}" in capsys.readouterr().err


def test_best_model_is_the_one_of_lowest_validation_loss(train_flow: Callable[..., None], tmp_path: Path) -> None:
    train_flow(max_epochs=4, preview_interval=99)
    events = EventAccumulator(str(tmp_path / "runs"), size_guidance={"scalars": 0})
    events.Reload()
    losses = [event.value for event in events.Scalars("val_loss")]
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert last["best_metric"] == pytest.approx(min(losses), rel=1e-5)
    assert losses[-1] < losses[0]


def test_resumed_training_ends_with_the_same_bits(
    train_flow: Callable[..., None], killed: AbstractContextManager[None], tmp_path: Path
) -> None:
    train_flow(max_epochs=3, preview_interval=99)
    whole = {name: torch.load(tmp_path / name, weights_only=True) for name in ("model.pt", "last.pt")}
    shutil.rmtree(tmp_path / "runs")

    with killed:
        train_flow(max_epochs=3, preview_interval=99)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 1
    train_flow(max_epochs=3, preview_interval=99, resume=True)
    for name, expected in whole.items():
        got = torch.load(tmp_path / name, weights_only=True)
        for part in ("network", "average") if name == "last.pt" else (None,):
            one, other = (expected, got) if part is None else (expected[part], got[part])
            assert all(torch.equal(one[key], other[key]) for key in one), (name, part)


def test_resume_with_more_epochs_keeps_to_the_longer_schedule(train_flow: Callable[..., None], tmp_path: Path) -> None:
    train_flow(max_epochs=1, preview_interval=99)
    before = torch.load(tmp_path / "last.pt", weights_only=True)["lr_scheduler"]
    train_flow(max_epochs=4, preview_interval=99, resume=True)
    after = torch.load(tmp_path / "last.pt", weights_only=True)["lr_scheduler"]
    assert after["t_total"] == 4 * before["t_total"]
    assert after["_last_lr"][0] < 1e-4  # it ends near 0, as a training of four epochs does


def _without(dataset: str, folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Copy a dataset and change its dataset.json."""
    shutil.copytree(dataset, folder)
    content = json.loads((folder / "dataset.json").read_text())
    change(content)
    (folder / "dataset.json").write_text(json.dumps(content))
    load_dataset(folder)
    return str(folder)


def test_dataset_without_masks_needs_a_generator_without_masks(
    train_flow: Callable[..., None], tiny_dataset: str, tmp_path: Path
) -> None:
    def drop_masks(content: dict[str, Any]) -> None:
        for split in ("training", "validation", "test"):
            for item in content[split]:
                del item["mask"]

    dataset = _without(tiny_dataset, tmp_path / "d", drop_masks)
    with pytest.raises(DatasetError, match="no training item has a mask, but mask_labels is 3; give --mask_labels 0"):
        train_flow(dataset_dir=dataset)
    assert not (tmp_path / "last.pt").exists()
    train_flow(dataset_dir=dataset, mask_labels=0, max_epochs=1)
    assert (tmp_path / "generation.pt").is_file()


def test_class_without_examples_is_a_clear_error(
    train_flow: Callable[..., None], tiny_dataset: str, tmp_path: Path
) -> None:
    def drop_normal(content: dict[str, Any]) -> None:
        content["training"] = [item for item in content["training"] if item["label"] != 2]

    with pytest.raises(DatasetError, match="no training item shows 'normal'; a generator needs examples of every"):
        train_flow(dataset_dir=_without(tiny_dataset, tmp_path / "d", drop_normal))
    assert not (tmp_path / "last.pt").exists()


def test_synthetic_items_teach_nothing(train_flow: Callable[..., None], tiny_dataset: str, tmp_path: Path) -> None:
    def mark_half(content: dict[str, Any]) -> None:
        for item in content["training"][::2]:
            item["origin"] = {"kind": "fm"}

    dataset = _without(tiny_dataset, tmp_path / "d", mark_half)
    train_flow(dataset_dir=dataset, max_epochs=1)
    levels = torch.load(tmp_path / "generation.pt", weights_only=True)["levels"]
    count = sum(len(values) for centres in levels.values() for values in centres.values())
    assert count == len(load_dataset(dataset).splits["training"]) // 2


def test_images_of_other_sizes_are_refused_unless_resampled(train_flow: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="pixels, expected 32 x 32; give the common --image_size, or resample"):
        train_flow(spacing_mm=None)
    assert not (tmp_path / "last.pt").exists()


def test_checkpoint_of_another_network_is_named(train_flow: Callable[..., None]) -> None:
    train_flow(max_epochs=1)
    with pytest.raises(ConfigError, match="does not belong to this configuration"):
        train_flow(**{"network_def#channels": [32, 96]}, max_epochs=2, resume=True)
