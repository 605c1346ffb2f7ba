"""Every bundle keeps what the model zoo, MONAI's tools and federated learning ask of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_metadata, verify_net_in_out
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from scintikit.bundles import enter
from tools.run import BUNDLES

NAMES = sorted(path.parent.parent.name for path in BUNDLES.glob("*/configs/metadata.json"))
CLASSIFIER = BUNDLES / "thyroid_cls" / "configs"
REPOSITORY = BUNDLES.parent
SCHEMA = REPOSITORY / "scintikit" / "packing" / "meta_schema_20240725.json"


@pytest.fixture(params=NAMES)
def configs(request: pytest.FixtureRequest) -> Path:
    """The folder `configs` of each bundle in turn, whose `scripts` can be imported as in a run of the bundle."""
    enter(BUNDLES / request.param)
    return BUNDLES / request.param / "configs"


@pytest.fixture
def dataset(configs: Path, request: pytest.FixtureRequest) -> str:
    """A tiny dataset of what the bundle is for."""
    return request.getfixturevalue("tiny_bone_dataset" if configs.parent.name == "spect_bone_cls" else "tiny_dataset")


@pytest.fixture
def earlier_stage(configs: Path, request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Put what `training` builds upon, if the bundle trains in two stages, into a folder of weights."""

    def put(folder: Path) -> None:
        if (configs / "train_autoencoder.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(request.getfixturevalue("tiny_autoencoder") / "autoencoder.pt", folder)
            enter(configs.parent)  # training the stage may have been another bundle's run

    return put


def _metadata_but(configs: Path, tmp_path: Path, **change: object) -> str:
    metadata = json.loads((configs / "metadata.json").read_text()) | change
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    return str(tmp_path / "metadata.json")


def test_metadata_fits_the_schema_of_the_zoo(configs: Path, tmp_path: Path) -> None:
    verify_metadata(meta_file=str(configs / "metadata.json"), filepath=str(SCHEMA))
    with pytest.raises(ValueError, match="is not of type 'string'"):  # the check does look
        verify_metadata(meta_file=_metadata_but(configs, tmp_path, version=1), filepath=str(SCHEMA))


def test_metadata_is_a_known_version_with_exact_pins(configs: Path) -> None:
    metadata = json.loads((configs / "metadata.json").read_text())
    constraints = (REPOSITORY / "constraints.txt").read_text().lower()
    pins = metadata["required_packages_version"] | {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    assert metadata["version"] in metadata["changelog"]
    for package, version in pins.items():
        assert f"\n{package}=={version}" in "\n" + constraints, f"{package} {version} is not what was run"


@pytest.mark.parametrize("path", ["LICENSE", "docs/README.md", "docs/data_license.txt", "configs/inference.json"])
def test_files_of_the_zoo_are_there(configs: Path, path: str) -> None:
    assert (configs.parent / path).stat().st_size > 0


def test_network_has_the_declared_input_and_output(configs: Path, tmp_path: Path) -> None:
    settings = {"net_id": "network_def", "config_file": str(configs / "inference.json"), "device": "cpu"}
    verify_net_in_out(meta_file=str(configs / "metadata.json"), **settings)
    formats = json.loads((configs / "metadata.json").read_text())["network_data_format"]
    formats["outputs"]["pred"]["num_channels"] = 5
    with pytest.raises(ValueError, match="channel"):  # the check does look
        verify_net_in_out(meta_file=_metadata_but(configs, tmp_path, network_data_format=formats), **settings)


@pytest.mark.parametrize(("config", "kind"), [("train", "train"), ("inference", "infer")])
def test_no_property_is_missing_or_misnamed(
    configs: Path, config: str, kind: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # look-ups work from any folder
    workflow = ConfigWorkflow(
        str(configs / f"{config}.json"), workflow_type=kind, dataset_dir=dataset, log_dir=str(tmp_path)
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_configs_have_no_lambda_and_no_absolute_path(configs: Path) -> None:
    for path in configs.glob("*.json"):
        text = path.read_text()
        assert "lambda" not in text, path.name
        assert '"/' not in text.replace("'/", ""), path.name


def test_training_validation_and_inference_prepare_images_alike(configs: Path) -> None:
    parser = {name: ConfigParser() for name in ("train", "inference")}
    for name, one in parser.items():
        one.read_config(str(configs / f"{name}.json"))
    assert parser["train"]["train#preprocessing"] == parser["train"]["validate#preprocessing"] == "@preprocessing"
    settings = [reference.removeprefix("@") for reference in parser["train"]["settings"].values()]
    for item in ("preprocessing", "network_def", "settings", *settings):
        assert parser["train"][item] == parser["inference"][item], item


def _network(weights: Path) -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config(str(CLASSIFIER / "inference.json"))
    parser.read_meta(str(CLASSIFIER / "metadata.json"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


def test_torchscript_export_gives_the_same_output(tiny_model: Path, tmp_path: Path) -> None:
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tiny_model / "model.pt"),
        meta_file=str(CLASSIFIER / "metadata.json"),
        config_file=str(CLASSIFIER / "inference.json"),
        key_in_ckpt="",
    )
    image = torch.rand(2, 1, 128, 128)
    with torch.no_grad():
        expected = _network(tiny_model / "model.pt")(image)
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), expected)


@pytest.mark.onnx
def test_onnx_export_agrees_with_torch(tiny_model: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra `onnx`")
    onnx_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.onnx"),
        ckpt_file=str(tiny_model / "model.pt"),
        meta_file=str(CLASSIFIER / "metadata.json"),
        config_file=str(CLASSIFIER / "inference.json"),
        key_in_ckpt="",
        use_ort=False,
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    image = torch.rand(1, 1, 128, 128)
    got = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(got, _network(tiny_model / "model.pt")(image).numpy(), atol=1e-4)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_train_one_epoch(
    configs: Path, earlier_stage: Callable[[Path], None], dataset: str, tmp_path: Path
) -> None:
    earlier_stage(tmp_path)
    files = [str(configs / "train.json"), str(configs / "multi_gpu_train.json")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["monai.bundle", "run", "training", "--config_file", str(files), "--max_epochs", "1"]
    command += ["--dataset_dir", dataset, "--ckpt_dir", str(tmp_path), "--log_dir", str(tmp_path / "runs")]
    if "layout_steps" in json.loads((configs / "train.json").read_text()):
        command += ["--layout_steps", "5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--batch_size", "4", "--val_interval", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    items = len(json.loads((Path(dataset) / "dataset.json").read_text())["training"])
    assert state["epoch"] == 1
    assert state["iteration"] == -(-items // 2) // 4  # each process sees half of the items
    assert not any(name.startswith("module.") for name in torch.load(tmp_path / "model.pt", weights_only=True))


def test_federated_client_trains_one_round(
    configs: Path, earlier_stage: Callable[[Path], None], dataset: str, tmp_path: Path
) -> None:
    earlier_stage(tmp_path / "app" / "models")
    shutil.copytree(
        configs.parent, tmp_path / "app", ignore=shutil.ignore_patterns("models", "runs", "eval"), dirs_exist_ok=True
    )
    train = tmp_path / "app" / "configs" / "train.json"
    config = json.loads(train.read_text())
    train.write_text(json.dumps(config | {"dataset_dir": dataset, "batch_size": 8}))
    algo = MonaiAlgo(bundle_root=str(tmp_path / "app"), local_epochs=1, send_weight_diff=True)
    algo.initialize(extra={ExtraItems.CLIENT_NAME: "centre A"})
    weights = algo.trainer.network.state_dict()
    algo.train(ExchangeObject(weights={name: value.clone() for name, value in weights.items()}), extra={})
    update = algo.get_weights(extra={})
    assert set(update.weights) == set(weights)
    assert any(float(torch.as_tensor(change).abs().max()) > 0 for change in update.weights.values())
    algo.finalize(extra={})
