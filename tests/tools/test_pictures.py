"""A bundle's own preprocessing and trained network, and pictures read with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scintikit.bundles import enter
from scintikit.data import load_datalist
from scintikit.errors import ConfigError, ImageReadError
from scintikit.files import file_sha256
from tools.pictures import classifier, load_pictures, pick_extractor
from tools.run import find_bundle


@pytest.fixture
def trained(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the trained model that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def untrained_bundle(tmp_path: Path) -> Path:
    """A copy of the bundle without weights: this checkout's may be trained."""
    source = find_bundle("thyroid_cls")
    return Path(shutil.copytree(source, tmp_path / "thyroid_cls", ignore=shutil.ignore_patterns("models")))


def test_an_untrained_bundle_has_preprocessing_but_no_network(untrained_bundle: Path, tiny_dataset: str) -> None:
    source = classifier(str(untrained_bundle))
    assert (source.network, source.model_sha256, source.feature_layer) == (None, None, "fc")
    assert source.settings["spacing_mm"] == 2.0
    assert load_pictures(load_datalist(tiny_dataset, "validation"), source.preprocessing).shape == (10, 1, 128, 128)


def test_a_trained_bundle_has_its_weights_in_evaluation_mode(tiny_model: Path) -> None:
    source = classifier(ckpt_dir=tiny_model)
    assert source.network is not None
    assert not source.network.training
    assert source.model_sha256 == file_sha256(tiny_model / "model.pt")
    state = torch.load(tiny_model / "model.pt", weights_only=True)
    for name, tensor in source.network.state_dict().items():
        assert torch.equal(tensor.cpu(), state[name]), name


def test_a_network_of_the_bundle_s_own_is_found_after_another_bundle(tiny_bone_model: Path) -> None:
    enter(find_bundle("fm_generator"))  # whose `scripts.network` is another
    assert classifier("spect_bone_cls", tiny_bone_model).feature_layer == "pooled"


def test_the_model_decides_the_settings(trained: Path) -> None:
    calibration = torch.load(trained / "calibration.pt", weights_only=True)
    calibration["settings"] |= {"spacing_mm": 3.0, "image_size": [64, 64]}
    torch.save(calibration, trained / "calibration.pt")
    source = classifier(ckpt_dir=trained)
    assert (source.settings["spacing_mm"], source.settings["image_size"]) == (3.0, [64, 64])
    with pytest.raises(ConfigError, match=r"trained with spacing_mm 3.0, but spacing_mm is 2.0 here"):
        classifier(ckpt_dir=trained, spacing_mm=2.0)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no trained model"):
        classifier(ckpt_dir=tmp_path)


def test_items_of_the_config_can_be_replaced(untrained_bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 9, np.uint8)).save(tmp_path / "a.png")  # states no spacing
    item = {"image": str(tmp_path / "a.png")}
    with pytest.raises(ImageReadError, match="assumed_spacing_mm"):
        load_pictures([item], classifier(str(untrained_bundle)).preprocessing)
    source = classifier(str(untrained_bundle), assumed_spacing_mm=2.0, image_size=[32, 32])
    assert load_pictures([item], source.preprocessing).shape == (1, 1, 32, 32)


def test_pictures_are_the_bundles_own_in_the_order_of_the_items(tiny_dataset: str) -> None:
    items, preprocessing = load_datalist(tiny_dataset, "test"), classifier().preprocessing
    pictures = load_pictures(items, preprocessing, workers=3)
    assert pictures.dtype == np.float32
    assert len(pictures) == 24
    for item, picture in zip(items, pictures, strict=True):
        np.testing.assert_array_equal(picture, np.asarray(preprocessing(item)["image"]))


def test_a_bundle_s_own_model_of_other_settings_is_left_aside(
    untrained_bundle: Path, tiny_model: Path, tiny_dataset: str
) -> None:
    shutil.copytree(tiny_model, untrained_bundle / "models", dirs_exist_ok=True)
    source = classifier(str(untrained_bundle), image_size=[64, 64], spacing_mm=4.0)
    assert source.network is None
    assert load_pictures(load_datalist(tiny_dataset, "validation"), source.preprocessing).shape == (10, 1, 64, 64)
    assert classifier(str(untrained_bundle), image_size=[128, 128]).network is not None
    with pytest.raises(ConfigError, match="trained with image_size"):
        classifier(ckpt_dir=tiny_model, image_size=[64, 64])


def test_a_bundle_s_own_model_need_not_be_looked_at(untrained_bundle: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, untrained_bundle / "models", dirs_exist_ok=True)
    (untrained_bundle / "models" / "calibration.pt").write_bytes(b"being written")
    source = classifier(str(untrained_bundle), own_model=False)
    assert source.network is None
    assert source.settings["spacing_mm"] == 2.0
    assert classifier(str(untrained_bundle), tiny_model, own_model=False).network is not None


def test_an_unknown_option_is_refused(untrained_bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"no option --spacing_m.*spacing_mm.*inference\.json"):
        classifier(str(untrained_bundle), spacing_m=2.0)


def test_a_bad_file_is_named(tiny_dataset: str, tmp_path: Path) -> None:
    (tmp_path / "bad.dcm").write_bytes(b"no" * 200)
    items = [*load_datalist(tiny_dataset, "validation")[:2], {"image": str(tmp_path / "bad.dcm")}]
    with pytest.raises(ImageReadError, match=r"bad\.dcm"):
        load_pictures(items, classifier().preprocessing)


def test_what_another_library_raises_names_the_file_too() -> None:
    def fail(item: object) -> dict[str, np.ndarray]:
        raise KeyError("grid")

    with pytest.raises(ImageReadError, match=r"some\.dcm cannot be preprocessed: 'grid'"):
        load_pictures([{"image": "some.dcm"}], fail)


def test_pictures_of_different_shapes_are_refused() -> None:
    items = [{"image": "a", "side": 4}, {"image": "b", "side": 5}]
    with pytest.raises(ImageReadError, match="different shapes"):
        load_pictures(items, lambda item: {"image": np.zeros((1, item["side"], 4))})


def test_automatic_choice_of_the_extractor_is_said(
    untrained_bundle: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pick_extractor("auto", classifier(str(untrained_bundle))).name == "random"
    assert "no trained classifier" in capsys.readouterr().out
    source = classifier(ckpt_dir=tiny_model)
    chosen = pick_extractor("auto", source)
    assert (chosen.name, chosen.sha256) == ("classifier", source.model_sha256)
    assert "no trained classifier" not in capsys.readouterr().out
    assert pick_extractor("random", source).name == "random"


def test_extractors_by_path_or_wrong_name(untrained_bundle: Path, tmp_path: Path) -> None:
    source = classifier(str(untrained_bundle))
    torch.jit.script(torch.nn.Flatten()).save(str(tmp_path / "own.pt"))
    assert pick_extractor(str(tmp_path / "own.pt"), source).name == "own.pt"
    with pytest.raises(ConfigError, match="there is no extractor 'incepton'"):
        pick_extractor("incepton", source)
    with pytest.raises(ConfigError, match="needs a trained model"):
        pick_extractor("classifier", source)


def test_a_bundle_without_captured_features_is_an_error(untrained_bundle: Path) -> None:
    path = untrained_bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["handlers"] = [handler for handler in config["handlers"] if "CaptureFeatures" not in handler["_target_"]]
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="CaptureFeatures"):
        classifier(str(untrained_bundle))
