"""The ONNX file of a classifier: what is in it, whose weights it has, and that it gives what torch gives."""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from scintikit.engines import CaptureFeatures, export_onnx, grad_cam, prepare_inference
from scintikit.engines.onnx import OnnxNetwork
from scintikit.errors import ConfigError, MissingExtraError

pytestmark = pytest.mark.onnx
for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason=f"{package} is in the extra `onnx`")

Networks = Callable[[], tuple[nn.Module, nn.Module]]


class Small(nn.Module):
    """A classifier with a batch norm, whose heat maps share their layers with the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))

    def heat_maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).sigmoid()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `model.pt`."""
    tmp_path = tmp_path / "models"
    tmp_path.mkdir()
    torch.manual_seed(0)
    network = Small()
    network(torch.rand(8, 1, 16, 12))  # batch statistics worth the name
    torch.save(network.state_dict(), tmp_path / "model.pt")
    return tmp_path


@pytest.fixture
def networks(folder: Path) -> Networks:
    """The trained network, and how inference with onnxruntime prepares an untrained one and loads its weights."""

    def make() -> tuple[nn.Module, nn.Module]:
        weights = torch.load(folder / "model.pt", weights_only=True)
        network = Small()
        network.load_state_dict(weights)
        prepared = prepare_inference(Small(), torch.device("cpu"), "onnx", str(folder), "head")
        prepared.load_state_dict(weights)
        return network.eval(), prepared

    return make


def test_pred_features_and_heat_are_those_of_torch_for_any_batch(
    networks: Networks,
) -> None:
    network, prepared = networks()
    captured = CaptureFeatures(prepared, "head")
    for batch in (1, 2, 5):
        images = torch.rand(batch, 1, 16, 12).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            torch.testing.assert_close(prepared(images), network(images), atol=1e-5, rtol=0)
            torch.testing.assert_close(captured.features, network.body(images).mean((2, 3)), atol=1e-5, rtol=0)
            torch.testing.assert_close(prepared.heat_maps(images), network.heat_maps(images), atol=1e-5, rtol=0)


def test_bytes_depend_on_neither_folder_nor_state_of_the_network(tmp_path: Path) -> None:
    import onnx

    torch.manual_seed(0)
    network = Small()
    paths = [tmp_path / "here.onnx", tmp_path / "another folder" / "there.onnx"]
    export_onnx(network.eval(), paths[0], torch.rand(1, 1, 16, 12), "head", "0" * 64)
    network.train().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):  # as inference does on a CPU with such units
        export_onnx(network, paths[1], torch.rand(7, 1, 16, 12), "head", "0" * 64)
    assert network.training
    assert paths[0].read_bytes() == paths[1].read_bytes()
    model = onnx.load(paths[0])
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == ["pred", "features", "heat"]
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 1, "logits and heat maps share no work"
    assert "esearch use only" in model.doc_string
    del model.graph.initializer[:]  # in the bytes of weights any letters may stand
    text = model.SerializeToString().decode("latin-1")
    found = re.findall(r"/\w+/|\\\w|\.py\b|File \"|stack_trace|site-packages", text)
    assert not found, f"{found} tell of the machine that exported the file"


def test_a_file_of_other_weights_is_never_run(
    folder: Path, networks: Networks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    images = torch.rand(2, 1, 16, 12)
    networks()[1](images)
    first = (folder / "model.onnx").read_bytes()
    caplog.clear()
    networks()[1](images)
    assert not caplog.records, "a file that fits is not made anew"
    weights = torch.load(folder / "model.pt", weights_only=True)
    torch.save({name: 2 * tensor for name, tensor in weights.items()}, folder / "model.pt")
    network, prepared = networks()
    torch.testing.assert_close(prepared(images), network(images), atol=1e-4, rtol=1e-5)
    assert (folder / "model.onnx").read_bytes() != first
    for other in (first, b"damaged"):
        (folder / "model.onnx").write_bytes(other)
        torch.testing.assert_close(networks()[1](images), network(images), atol=1e-4, rtol=1e-5)


def test_the_file_of_a_package_stays_as_its_manifest_says(
    folder: Path, networks: Networks, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "model.onnx").write_bytes(b"of another version")
    (folder.parent / "manifest.json").touch()
    network, prepared = networks()
    images = torch.rand(1, 1, 16, 12)
    torch.testing.assert_close(prepared(images), network(images), atol=1e-5, rtol=0)
    assert (folder / "model.onnx").read_bytes() == b"of another version"
    assert "of a package does not fit" in caplog.text


def test_images_of_another_size_get_another_file(networks: Networks) -> None:
    networks()[1](torch.rand(1, 1, 16, 12))
    network, prepared = networks()
    images = torch.rand(1, 1, 24, 20)
    torch.testing.assert_close(prepared(images), network(images), atol=1e-5, rtol=0)


def test_a_folder_that_may_only_be_read_still_works(
    folder: Path, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("scintikit.engines.onnx.write_atomic", refuse)
    network, prepared = networks()
    images = torch.rand(1, 1, 16, 12)
    torch.testing.assert_close(prepared(images), network(images), atol=1e-5, rtol=0)
    assert not (folder / "model.onnx").exists()


def test_weights_are_those_of_the_file_beside_it(folder: Path, networks: Networks) -> None:
    images = torch.rand(1, 1, 16, 12)
    never_loaded = prepare_inference(Small(), torch.device("cpu"), "onnx", str(folder), "head")
    torch.testing.assert_close(never_loaded(images), networks()[0](images), atol=1e-5, rtol=0)
    (folder / "model.pt").unlink()
    with pytest.raises(ConfigError, match=r"no trained model .*model\.pt"):
        prepare_inference(Small(), torch.device("cpu"), "onnx", str(folder), "head")(images)


def test_gradients_need_torch(networks: Networks) -> None:
    images = torch.rand(2, 1, 16, 12)
    with pytest.raises(ConfigError, match="--runtime torch"):
        grad_cam(networks()[1], "body.0", images, torch.zeros(2, dtype=torch.int64))


def test_heat_maps_by_gradients_need_torch(folder: Path) -> None:
    drawn_by_gradients = Small()
    drawn_by_gradients.cam_layer = "body.0"
    with pytest.raises(ConfigError, match="--heat False"):
        OnnxNetwork(drawn_by_gradients, folder / "model.onnx", "head").heat_maps(torch.rand(1, 1, 16, 12))


def test_a_mistyped_runtime_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        prepare_inference(Small(), torch.device("cpu"), "onxx", str(folder), "head")


def test_a_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*scintikit\[onnx\]"):
        OnnxNetwork(Small(), folder / "model.onnx", "head")
    with pytest.raises(MissingExtraError, match=r"onnxscript.*scintikit\[onnx\]"):
        export_onnx(Small(), folder / "model.onnx", torch.rand(1, 1, 16, 12), "head", "0" * 64)


def test_the_file_states_whose_weights_it_has(folder: Path, networks: Networks) -> None:
    import onnx

    networks()[1](torch.rand(1, 1, 16, 12))
    stated = {prop.key: prop.value for prop in onnx.load(folder / "model.onnx").metadata_props}
    assert stated["model_sha256"] == hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
