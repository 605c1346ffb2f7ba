"""Training: exact resume, early stop, what stops it with a clear error."""

from __future__ import annotations

import json
import operator
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, State
from monai.engines import SupervisedEvaluator

from scintikit.engines import Checkpoints, SeedEpoch, ValidateEpochs, load_pretrained, prepare_network
from scintikit.errors import ConfigError, DatasetError, ScintikitError
from tools.run import BUNDLES


def _train(dataset: str, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tools", "run", "thyroid_cls", "training", "--dataset_dir", dataset]
    command += ["--ckpt_dir", str(folder), "--log_dir", str(folder / "runs"), "--max_epochs", "4", "--batch_size", "8"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *more], cwd=BUNDLES.parent, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _equal(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    return first == second


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(), ("--epoch_length", "3")], ids=["whole epochs", "shorter epochs"])
def test_killed_and_resumed_training_ends_with_the_same_bits(
    steps: tuple[str, ...], tiny_dataset: str, tmp_path: Path
) -> None:
    whole = _train(tiny_dataset, tmp_path / "whole", *steps)
    assert whole.wait(300) == 0

    killed = _train(tiny_dataset, tmp_path / "killed", *steps)
    last = tmp_path / "killed" / "last.pt"
    while not last.exists():
        assert killed.poll() is None, "training ended before it could be killed"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    assert torch.load(last, weights_only=True)["epoch"] < 4
    assert _train(tiny_dataset, tmp_path / "killed", *steps, "--resume", "True").wait(300) == 0

    for name in ("last.pt", "model.pt", "calibration.pt"):
        expected, got = (torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "killed"))
        expected.pop("model_sha256", None), got.pop("model_sha256", None)
        assert _equal(expected, got), name


def test_resume_without_a_checkpoint_is_a_clear_error(train: Callable[..., None]) -> None:
    with pytest.raises(ConfigError, match=r"no .*last\.pt; train without --resume"):
        train(resume=True)


def test_resume_with_other_batches_is_a_clear_error(train: Callable[..., None]) -> None:
    train(max_epochs=1, batch_size=8)
    with pytest.raises(ConfigError, match="had 4 batches an epoch, here there are 9; resume with the dataset"):
        train(max_epochs=2, batch_size=4, resume=True)


def test_loss_that_is_not_finite_names_the_items(train: Callable[..., None]) -> None:
    with pytest.raises(ScintikitError, match=r"the loss is nan .* items of the batch: \['"):
        train(learning_rate=1e30, warmup_epochs=0, batch_size=8, max_epochs=2)


def test_dataset_with_other_labels_is_refused(train: Callable[..., None], tiny_dataset: str, tmp_path: Path) -> None:
    content = json.loads((Path(tiny_dataset) / "dataset.json").read_text())
    content["labels"]["0"] = "Graves' disease"
    for name in ("images", "masks"):
        shutil.copytree(Path(tiny_dataset) / name, tmp_path / name)
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"Graves' disease.*give the dataset's as --class_names"):
        train(dataset_dir=str(tmp_path))


def test_random_numbers_of_an_epoch_follow_from_seed_epoch_and_rank() -> None:
    def drawn(seed: int, epoch: int, rank: int) -> torch.Tensor:
        state = State(epoch=epoch, rank=rank, epoch_length=1, dataloader=[0])
        SeedEpoch(None, seed)(SimpleNamespace(state=state))  # type: ignore[arg-type]
        return torch.nn.functional.dropout(torch.ones(64))

    one = drawn(0, 1, 0)
    assert torch.equal(drawn(0, 1, 0), one)
    for other in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
        assert not torch.equal(drawn(*other), one), other


@pytest.mark.parametrize(("interval", "epochs"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (5, [3])])
def test_last_epoch_is_validated_whatever_the_interval(
    interval: int, epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[int] = []
    validator = object.__new__(SupervisedEvaluator)
    monkeypatch.setattr(SupervisedEvaluator, "run", lambda self, epoch: validated.append(epoch))
    engine = Engine(lambda engine, batch: None)
    ValidateEpochs(validator, interval).attach(engine)
    engine.run([0], max_epochs=3)
    assert validated == epochs


@pytest.mark.parametrize("bundle", ["thyroid_cls", "fm_generator", "sd_generator"])
def test_bundles_validate_in_their_last_epoch(bundle: str) -> None:
    handlers = json.loads((BUNDLES / bundle / "configs" / "train.json").read_text())["train"]["handlers"]
    validation = [handler for handler in handlers if "validator" in handler]
    assert [handler["_target_"] for handler in validation] == ["scintikit.engines.ValidateEpochs"]


class _Validation:
    """Stands for an evaluator with a metric per epoch."""

    metric_cmp_fn = staticmethod(operator.gt)

    def __init__(self, metrics: list[float]) -> None:
        self.metrics = metrics
        self.state = State(key_metric_name="auc", epoch=0, metrics={})

    def run(self, epoch: int) -> None:
        self.state.epoch = epoch
        self.state.metrics["auc"] = self.metrics[epoch - 1]


def _engine_with(folder: Path, metrics: list[float], patience: int = 0) -> tuple[Engine, Checkpoints]:
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    validation = _Validation(metrics)

    def step(engine: Engine, batch: int) -> None:
        with torch.no_grad():
            network.weight.fill_(float(engine.state.epoch))
        validation.run(engine.state.epoch)

    engine = Engine(step)
    engine.state.rank = 0
    checkpoints = Checkpoints(str(folder), network, optimizer, scheduler, validation, patience)
    checkpoints.attach(engine)
    return engine, checkpoints


def _run(engine: Engine, epochs: int) -> None:
    engine.state.rank = 0
    engine.run([0], max_epochs=epochs)


def test_best_epoch_is_kept_and_a_stale_training_stops(tmp_path: Path) -> None:
    engine, checkpoints = _engine_with(tmp_path, [0.5, 0.7, 0.6, 0.7, 0.8], patience=2)
    _run(engine, 5)
    assert engine.state.epoch == 4  # two epochs after the best one
    assert checkpoints.best_epoch == 2
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 2.0
    assert torch.load(tmp_path / "last.pt", weights_only=True)["network"]["weight"].item() == 4.0


def test_metric_that_is_no_number_stops_with_the_reason(tmp_path: Path) -> None:
    engine, _ = _engine_with(tmp_path, [float("nan")])
    with pytest.raises(ScintikitError, match="each class must occur in the validation split"):
        _run(engine, 1)


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    engine, _ = _engine_with(tmp_path, [0.5])
    _run(engine, 1)
    other, checkpoints = _engine_with(tmp_path, [0.5])
    checkpoints.network, checkpoints.resume = torch.nn.Linear(3, 1), True
    with pytest.raises(ConfigError, match="does not belong to this configuration"):
        _run(other, 1)


def _resnet(classes: int = 4) -> torch.nn.Module:
    from monai.networks.nets import resnet18

    return resnet18(spatial_dims=2, n_input_channels=1, num_classes=classes, conv1_t_stride=2)


def test_imagenet_weights_are_folded_to_one_channel(tmp_path: Path) -> None:
    from monai.networks.nets import resnet18

    colour = resnet18(spatial_dims=2, n_input_channels=3, num_classes=1000, conv1_t_stride=2).eval()
    torch.save(colour.state_dict(), tmp_path / "imagenet.pt")
    network = _resnet().eval()
    left = load_pretrained(network, str(tmp_path / "imagenet.pt"))
    assert left == ["fc.bias", "fc.weight"]
    grey = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(network.conv1(grey), colour.conv1(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    assert torch.equal(network.layer4[1].conv2.weight, colour.layer4[1].conv2.weight)


@pytest.mark.parametrize("content", [{}, {"conv1.weight": torch.zeros(1)}])
def test_weights_of_another_network_are_refused(content: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="does not fit ResNet"):
        load_pretrained(_resnet(), str(tmp_path / "other.pt"))


def test_missing_pretrained_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*absent\.pt"):
        prepare_network(_resnet(), torch.device("cpu"), str(tmp_path / "absent.pt"))


def test_training_writes_images_and_scores_for_tensorboard(tiny_model: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tiny_model / "runs"))
    events.Reload()
    assert "train/images" in events.Tags()["images"]
    assert {"val_macro_auc", "train_loss"} <= set(events.Tags()["scalars"])
