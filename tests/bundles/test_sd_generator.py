"""sd_generator: two stages of training, and four modes that draw from what they say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from scintikit.bundles import enter
from scintikit.data import label_names, load_datalist
from scintikit.dicom import read_scintigram
from scintikit.errors import ConfigError, DatasetError
from scintikit.generation import LatentDataset, LayoutLearning, PreviewSamples, generator_items
from tools.run import BUNDLES, run

CONFIGS = BUNDLES / "sd_generator" / "configs"
SMALL: dict[str, Any] = {"network_def#channels": [32, 32, 32]}


def _train(dataset: str, folder: Path, **options: Any) -> None:
    folders = {"dataset_dir": dataset, "ckpt_dir": str(folder), "log_dir": str(folder / "runs")}
    defaults = {
        "max_epochs": 1,
        "val_interval": 1,
        "batch_size": 8,
        "copies": 1,
        "layout_steps": 5,
        "train#preview#count": 4,
    }
    run("sd_generator", "training", **(SMALL | folders | defaults | options))


def _parser(dataset: str, folder: Path, config: str = "train", **items: Any) -> ConfigParser:
    enter(CONFIGS.parent)
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / f"{config}.json"))
    parser.update(SMALL | {"dataset_dir": dataset, "ckpt_dir": str(folder)} | items)
    return parser


@pytest.fixture(scope="module")
def model(tiny_dataset: str, tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what generating needs, of a denoiser trained for one epoch; its gate lets everything pass."""
    folder = tmp_path_factory.mktemp("sd")
    shutil.copy(tiny_autoencoder / "autoencoder.pt", folder)
    _train(tiny_dataset, folder)
    content = torch.load(folder / "generation.pt", weights_only=True)
    open_gate = {"gate": {}, "diversity": dict.fromkeys(content["diversity"], 1e-9)}
    torch.save(content | open_gate, folder / "generation.pt")
    return folder


@pytest.fixture
def generate(tiny_dataset: str, model: Path) -> Callable[..., Path]:
    """Generate into a folder; options as keywords."""

    def make(folder: Path, **options: Any) -> Path:
        few = {"per_class": 3, "batch_size": 5, "steps": 2, "devices": 1}
        places = {"dataset_dir": tiny_dataset, "ckpt_dir": str(model), "output_dir": str(folder)}
        run("sd_generator", "generating", **(SMALL | few | places | options))
        return folder

    return make


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_latents_have_mean_0_and_variance_1(tiny_dataset: str, tiny_autoencoder: Path) -> None:
    parser = _parser(tiny_dataset, tiny_autoencoder)
    autoencoder = parser.get_parsed_content("autoencoder")
    dataset = parser.get_parsed_content("train#dataset")
    pictures = torch.stack([item["image"] for item in dataset.pictures])
    latents = autoencoder.encode(pictures)
    assert latents.shape == (38, 4, 32, 32)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    restored = autoencoder.decode(latents)
    torch.testing.assert_close(restored, autoencoder.network(pictures), atol=1e-4, rtol=1e-4)
    assert (restored - pictures).abs().mean() < 0.75 * (pictures - pictures.mean()).abs().mean()


def test_training_without_an_autoencoder_says_what_to_do(tiny_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train the autoencoder first, with the overlay train_autoencoder"):
        _train(tiny_dataset, tmp_path)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("overlay", ["train_autoencoder", ()])
def test_measuring_without_a_trained_epoch_says_so(overlay: Any, tiny_dataset: str, tmp_path: Path) -> None:
    folders = {"dataset_dir": tiny_dataset, "ckpt_dir": str(tmp_path), "log_dir": str(tmp_path / "runs")}
    with pytest.raises(ConfigError, match=r"no .*model\.pt: no epoch was trained and validated; run `training` first"):
        run("sd_generator", "measuring", overlay=overlay, **folders)


def test_training_without_prompts_is_refused_before_it_starts(tiny_dataset: str, tmp_path: Path) -> None:
    poor = _without(tiny_dataset, tmp_path / "poor", "prompt")
    with pytest.raises(DatasetError, match=r"poor: no training item has a prompt.*column `prompt`.*tools index"):
        _train(poor, tmp_path / "model")
    assert not list((tmp_path / "model").glob("*.pt"))


def test_items_without_a_prompt_are_counted(
    tiny_dataset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_dataset, tmp_path / "d")
    content = json.loads((tmp_path / "d" / "dataset.json").read_text())
    for item in content["training"][:5]:
        del item["prompt"]
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(content))
    generator_items(str(tmp_path / "d"), "training", label_names(tiny_dataset), 3, prompts=True)
    assert "5 of 38 training items have no prompt" in caplog.text


def test_preview_takes_items_without_a_prompt() -> None:
    item = {"image": torch.zeros(1, 8, 8), "mask": torch.zeros(4, 8, 8), "label": 0, "level": 100.0}
    told: list[str] = []

    def tokenizer(prompts: Any) -> torch.Tensor:
        told.extend(prompts)
        return torch.zeros(len(prompts), 4, dtype=torch.int64)

    def sampler(noise: torch.Tensor, network: Any, **conditions: Any) -> torch.Tensor:
        return noise.abs()

    preview = PreviewSamples(None, torch.nn.Linear(1, 1), None, sampler, tokenizer=tokenizer)  # type: ignore[arg-type]
    assert preview._draw([item, item | {"prompt": "hot nodule"}]).shape == (2, 1, 8, 8)
    assert told == ["", "hot nodule"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_channels": 3}, "does not fit ScintigramAutoencoder: .* tensors"),
        ({"scale": 0}, "were not measured"),
    ],
)
def test_autoencoder_that_does_not_fit_is_named(
    change: dict[str, Any], message: str, tiny_dataset: str, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    state = torch.load(tiny_autoencoder / "autoencoder.pt", weights_only=True)
    if "scale" in change:
        state["scale"] *= change.pop("scale")
    torch.save(state, tmp_path / "autoencoder.pt")
    with pytest.raises(ConfigError, match=message):
        _train(tiny_dataset, tmp_path, **change)


def test_pictures_are_encoded_once(
    tiny_dataset: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    encode, encoded = LatentDataset._encode, []

    def count(self: LatentDataset) -> Any:
        encoded.append(self.name)
        return encode(self)

    monkeypatch.setattr(LatentDataset, "_encode", count)
    _train(tiny_dataset, folder)
    assert encoded == []
    _train(tiny_dataset, folder, copies=2)
    assert encoded == ["training_latents"]
    state = torch.load(folder / "autoencoder.pt", weights_only=True)
    torch.save(state | {"shift": state["shift"] + 1}, folder / "autoencoder.pt")
    _train(tiny_dataset, folder, copies=2)
    assert sorted(encoded[1:]) == ["training_latents", "validation_latents"]


def test_latents_are_known_by_masks_and_settings_too(tiny_dataset: str, model: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(tiny_dataset, tmp_path / "own"))

    def key(**changes: Any) -> str:
        return _parser(str(own), model, **changes).get_parsed_content("train#dataset")._key()

    before = key()
    assert key() == before
    assert key(assumed_spacing_mm=2.0) != before
    Path(load_datalist(own, "training")[0]["mask"]).write_bytes(b"another mask")
    assert key() != before


def test_mirrored_copies_have_mirrored_masks_and_prompts(tiny_dataset: str, model: Path) -> None:
    still = {"augmentation#rotate_deg": 0.0, "augmentation#shift": 0.0, "augmentation#scale": 0.0}
    parser = _parser(tiny_dataset, model, copies=1, **still)
    dataset = parser.get_parsed_content("train#dataset")
    vocabulary = parser.get_parsed_content("vocabulary")
    left, right = (3 + vocabulary.index(word) for word in ("left", "right"))
    sided = [k for k, item in enumerate(dataset.data) if " left " in item["prompt"] and " right " not in item["prompt"]]
    assert sided
    for index in sided:
        dataset.reseed(0, index)  # an even sum: as it is
        plain = dataset[index]
        dataset.reseed(0, index + 1)
        mirrored = dataset[index]
        torch.testing.assert_close(mirrored["mask"], plain["mask"].flip(-1), atol=0.02, rtol=0)
        assert left in plain["tokens"]
        assert right not in plain["tokens"]
        assert torch.equal(torch.where(plain["tokens"] == left, right, plain["tokens"]), mirrored["tokens"])
        assert not torch.equal(mirrored["image"], plain["image"])


@pytest.mark.parametrize("mode", ["sd1", "sd2", "sd3", "sd4", "sd4_plain"])
def test_every_mode_keeps_the_contract(
    mode: str, generate: Callable[..., Path], model: Path, tiny_dataset: str, tmp_path: Path
) -> None:
    made = generate(tmp_path / "D", mode=mode, strength=0.5)
    assert len(load_datalist(made, "training")) == 12
    sources = {item["id"]: item for item in load_datalist(tiny_dataset, "training")}
    for item in load_datalist(made, "training"):
        origin, settings = item["origin"], item["origin"]["settings"]
        source = sources[origin["source"]]
        assert origin["kind"] == mode.removesuffix("_plain")
        assert (settings["mode"], settings["steps"], settings["strength"]) == (mode, 2, 0.5)
        assert (item["patient"], item["label"]) == (source["patient"], source["label"])
        assert item.get("prompt") == (None if mode == "sd3" else source["prompt"])
        assert ("mask" in item) == (mode == "sd4")
        assert (settings["deformation"] is not None) == mode.startswith("sd4")
        counts = read_scintigram(item["image"]).counts
        assert counts.shape == read_scintigram(source["image"]).counts.shape
        assert counts.max() > 0


def test_any_division_of_the_work_gives_the_same_bytes(generate: Callable[..., Path], tmp_path: Path) -> None:
    whole = _files(generate(tmp_path / "D", mode="sd1"))
    assert _files(generate(tmp_path / "E", mode="sd1", devices=2)) == whole
    generate(tmp_path / "F", mode="sd1", shards=2, shard=1)
    assert not (tmp_path / "F" / "dataset.json").exists()
    assert _files(generate(tmp_path / "F", mode="sd1", shards=2, shard=0)) == whole
    other = _files(generate(tmp_path / "G", mode="sd1", strength=0.3))
    assert other["dataset.json"] != whole["dataset.json"]


def test_low_strength_stays_near_the_source(tiny_dataset: str, model: Path) -> None:
    distances = {}
    for strength in (0.1, 0.9):
        items = {"mode": "sd1", "strength": strength, "per_class": 4, "batch_size": 16, "steps": 5, "guidance": 1.0}
        parser = _parser(tiny_dataset, model, "inference", **items)
        network = parser.get_parsed_content("network_def").eval()
        network.load_state_dict(torch.load(model / "model.pt", weights_only=True))
        batch = parser.get_parsed_content("dataset")[0]
        autoencoder, sampler = (parser.get_parsed_content(name) for name in ("autoencoder", "sampler"))
        with torch.no_grad():
            drawn = sampler(batch["image"], network, **batch["conditions"])
        kept = autoencoder.decode(autoencoder.encode(batch["conditions"]["start"]))
        distances[strength] = (drawn - kept).abs().mean().item()
    assert distances[0.1] < 0.3 * distances[0.9]


def test_pictures_of_own_words(generate: Callable[..., Path], tmp_path: Path) -> None:
    wish = {"prompt": "anterior scan, hot nodule", "only": "normal", "per_class": 2}
    items = load_datalist(generate(tmp_path / "D", **wish), "training")
    assert [(item["prompt"], item["label"]) for item in items] == [("anterior scan, hot nodule", 2)] * 2
    with pytest.raises(DatasetError, match="made with other settings"):
        generate(tmp_path / "D", **(wish | {"prompt": "anterior scan"}))


def _without(tiny_dataset: str, folder: Path, key: str) -> str:
    shutil.copytree(tiny_dataset, folder)
    content = json.loads((folder / "dataset.json").read_text())
    content["training"] = [{name: item[name] for name in item if name != key} for item in content["training"]]
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize(
    ("mode", "key"), [("sd1", "prompt"), ("sd2", "prompt"), ("sd4", "mask"), ("sd4_plain", "mask")]
)
def test_what_a_mode_needs_and_the_data_lack_is_said_before_anything_is_written(
    mode: str, key: str, generate: Callable[..., Path], tiny_dataset: str, tmp_path: Path
) -> None:
    poor = _without(tiny_dataset, tmp_path / "poor", key)
    options = {"mask_labels": 3} if key == "prompt" else {}
    with pytest.raises((DatasetError, ConfigError), match=key):
        generate(tmp_path / "D", mode=mode, dataset_dir=poor, **options)
    assert not (tmp_path / "D").exists()


def test_unknown_mode_is_named(generate: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no mode 'sd5'; choose one of sd1, sd2, sd3, sd4, sd4_plain"):
        generate(tmp_path / "D", mode="sd5")


def test_strict_refuses_words_that_the_model_has_not_learned(
    generate: Callable[..., Path], tiny_dataset: str, tmp_path: Path
) -> None:
    shutil.copytree(tiny_dataset, tmp_path / "other")
    content = json.loads((tmp_path / "other" / "dataset.json").read_text())
    for item in content["training"]:
        item["prompt"] += ", photographed by moonlight"
    (tmp_path / "other" / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="has not learned 'photographed', 'by', 'moonlight'"):
        generate(tmp_path / "D", strict=True, dataset_dir=str(tmp_path / "other"))
    assert not (tmp_path / "D").exists()
    generate(tmp_path / "D", strict=False, dataset_dir=str(tmp_path / "other"))


def test_prompt_and_mask_change_what_is_drawn() -> None:
    enter(CONFIGS.parent)
    from scripts.network import DiffusionNetwork

    torch.manual_seed(0)
    network = DiffusionNetwork(channels=(32, 32, 32), text_width=32).eval()
    for weight in network.parameters():  # a new UNet ends in zeros and would ignore its conditions
        weight.data += 0.02 * torch.randn_like(weight)
    x, t = torch.randn(2, 4, 32, 32), torch.tensor([10, 900])
    tokens = torch.zeros(2, 64, dtype=torch.int64)
    tokens[:, 0] = 1
    mask = network.no_mask(x)
    with torch.no_grad():
        null = network(x, t)
        torch.testing.assert_close(network(x, t, tokens, mask), null)
        tokens[0, 1:3] = torch.tensor([5, 6])
        swapped = tokens.clone()
        swapped[0, 1:3] = torch.tensor([6, 5])
        told, order = network(x, t, tokens, mask), network(x, t, swapped, mask)
        mask[1, 0, 8:16, 8:16] = 1
        large = torch.nn.functional.interpolate(mask, scale_factor=4)
        drawn = network(x, t, tokens, large)
    assert not torch.allclose(told[0], null[0], atol=1e-4)
    assert not torch.allclose(order[0], told[0], atol=1e-6)  # the order of the words matters
    torch.testing.assert_close(told[1], null[1])
    assert not torch.allclose(drawn[1], null[1], atol=1e-4)
    torch.testing.assert_close(drawn[0], told[0])
    with pytest.raises(ConfigError, match="masks have 2 channels; expected 4"):
        network(x, t, tokens, mask[:, :2])
    with pytest.raises(ConfigError, match="multiples of 4"):
        network(x[..., :30], t)


def test_built_in_text_encoder_is_the_first_that_draws_random_numbers() -> None:
    """Another one can take its place; models that were trained with it must load, and trainings repeat."""
    enter(CONFIGS.parent)
    from scripts.network import DiffusionNetwork, PromptEncoder

    torch.manual_seed(0)
    state = DiffusionNetwork(channels=(32, 32, 32)).state_dict()
    torch.manual_seed(0)
    alone = PromptEncoder(256, 64, 96, 2).state_dict()
    assert {name.removeprefix("text.") for name in state if name.startswith("text.")} == alone.keys()
    assert all(torch.equal(state[f"text.{name}"], value) for name, value in alone.items())


def _sides(items: list[dict[str, Any]]) -> Any:
    """Pictures of a nodule on the left (words 5, 7) or the right (words 6, 7), in one version and mirrored."""
    tokens = torch.ones(2, 8, 3, dtype=torch.int64)
    tokens[..., 2] = 7
    tokens[0, :, 1] = torch.tensor([5, 6] * 4)
    tokens[1, :, 1] = torch.tensor([6, 5] * 4)
    masks = torch.zeros(2, 8, 2, 32, 32, dtype=torch.uint8)
    masks[0, 0::2, 0, 8:16, 16:24] = masks[0, 1::2, 0, 8:16, 8:16] = 255
    masks[1] = masks[0].flip(-1)
    return SimpleNamespace(data=items, tokens=tuple(tokens), encoded={"masks": masks})


def test_the_words_of_a_side_are_laid_out_on_that_side() -> None:
    enter(CONFIGS.parent)
    from scripts.network import DiffusionNetwork

    torch.manual_seed(0)
    network = DiffusionNetwork(mask_labels=1, channels=(32, 32, 32), text_width=32, context_length=3)
    dataset = _sides([{"mask": "m"}] * 8)
    explained = LayoutLearning(network, dataset, steps=80, batch_size=16, learning_rate=3e-3).run()
    assert explained is not None
    assert explained > 0.8
    with torch.no_grad():
        left, right = network.structures(dataset.tokens[0][:2])[:, 0]
    assert left[:, 4:].sum() > left[:, :4].sum() + 1
    assert right[:, :4].sum() > right[:, 4:].sum() + 1


def test_nothing_is_laid_out_without_masks() -> None:
    enter(CONFIGS.parent)
    from scripts.network import DiffusionNetwork

    network = DiffusionNetwork(mask_labels=1, channels=(32, 32, 32), text_width=32, context_length=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert LayoutLearning(network, _sides([{}] * 8), steps=2).run() is None
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_adversary_joins_after_the_warm_up_and_sees_grain(tiny_dataset: str, tmp_path: Path) -> None:
    """Its verdict must not ask for grain: what it sees of a reconstruction has the grain of the picture's level."""
    enter(CONFIGS.parent)
    from scripts.autoencoder import ScintigramAutoencoder

    from scintikit.generation import AutoencoderStep
    from scintikit.generation.counts import grain_deviation

    class Watching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(1, 1, 3)
            self.seen: list[torch.Tensor] = []

        def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
            self.seen.append(pictures.detach())
            return [self.convolution(pictures)]

    class Engine:
        def __init__(self, network: torch.nn.Module) -> None:
            self.network, self.optimizer = network, torch.optim.SGD(network.parameters(), 1e-3)
            self.state = type("State", (), {"device": torch.device("cpu"), "epoch": 1, "output": None})()

        def fire_event(self, event: Any) -> None:
            assert torch.isfinite(self.state.output["loss"])

    watching, engine = Watching(), Engine(ScintigramAutoencoder())
    before = watching.convolution.weight.clone()
    optimizer = torch.optim.SGD(watching.parameters(), 0.1)
    step = AutoencoderStep(watching, optimizer, adversarial_weight=0.1, warmup_epochs=1, precision="fp32")
    batch = {"image": torch.rand(4, 1, 32, 32), "level": torch.tensor([50.0, 50.0, 400.0, 400.0])}
    step(engine, batch)  # type: ignore[arg-type]
    assert watching.seen == []
    engine.state.epoch = 2
    drawn = step(engine, batch)["pred"]  # type: ignore[arg-type]
    grain = (watching.seen[0] - drawn).flatten(1).std(dim=1)
    np.testing.assert_allclose(grain, grain_deviation(batch["level"]), rtol=0.1)
    assert torch.equal(watching.seen[2], batch["image"])
    assert not torch.equal(watching.convolution.weight, before)


def test_resumed_autoencoder_ends_with_the_same_bits_and_the_same_adversary(
    eight: str, killed: AbstractContextManager[None], tmp_path: Path
) -> None:
    def train(name: str, **options: Any) -> Any:
        folders = {"dataset_dir": eight, "ckpt_dir": str(tmp_path / name), "log_dir": str(tmp_path / "runs")}
        small = {"image_size": [64, 64], "spacing_mm": 4.8, "batch_size": 4, "max_epochs": 3, "adversarial_warmup": 0}
        run("sd_generator", "training", overlay="train_autoencoder", **folders, **small, **options)
        return torch.load(tmp_path / name / "autoencoder" / "last.pt", weights_only=True)

    whole = train("whole")
    with killed:
        train("killed")
    torch.testing.assert_close(train("killed", resume=True), whole, rtol=0, atol=0)

    del whole["further"]  # as an older version wrote it
    torch.save(whole, tmp_path / "whole" / "autoencoder" / "last.pt")
    with pytest.raises(ConfigError, match=r"last\.pt lacks discriminator, discriminator_optimizer.*without --resume"):
        train("whole", resume=True)
