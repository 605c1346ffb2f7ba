"""A pretrained text encoder for sd_generator, on tiny ones with random weights that stand in for CLIP and BERT."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from scintikit.bundles import enter
from scintikit.data import load_datalist
from scintikit.errors import ConfigError, DatasetError, MissingExtraError
from scintikit.generation import FrozenTextEncoder, LatentDataset, SubwordTokenizer, TextCheckpoint
from scintikit.generation.diffusion import without_prompt
from scintikit.generation.text import NO_TOKEN
from tools.run import BUNDLES, run

CONFIGS = BUNDLES / "sd_generator" / "configs"
#: Small pictures and networks; and float32, for bfloat16 gains nothing on networks as small as these.
SMALL: dict[str, Any] = {
    "image_size": [64, 64],
    "spacing_mm": 4.8,
    "precision": "fp32",
    "network_def#channels": [32, 32, 32],
    "text_width": 32,
}
SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS = ("clip", "bert")
PROMPTS = ["hot nodule in the left lobe", "anterior thyroid scintigram, cold nodule", ""]

pytestmark = [pytest.mark.sd, pytest.mark.usefixtures("one_thread")]
for package in ("transformers", "safetensors"):
    pytest.importorskip(package, reason=f"{package} is in the extra `sd`")


@pytest.fixture(scope="module")
def encoders(
    tiny_dataset: str, write_clip_tokenizer: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders of a CLIP with both towers and of a language model BERT, which has a head and no pooler."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer, CLIPConfig, CLIPModel

    folders = {kind: tmp_path_factory.mktemp("encoders") / kind for kind in KINDS}
    prompts = [item["prompt"] for item in load_datalist(tiny_dataset, "training")]
    torch.manual_seed(0)
    special = {"vocab_size": write_clip_tokenizer(folders["clip"], prompts), "bos_token_id": 0, "eos_token_id": 1}
    CLIPModel(
        CLIPConfig(
            text_config=SIZE | special | {"pad_token_id": 1},
            vision_config=SIZE | {"image_size": 32, "patch_size": 16},
            projection_dim=16,
        )
    ).save_pretrained(folders["clip"])
    words = sorted({word for prompt in prompts for word in prompt.lower().replace(",", " , ").split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, "in", "the"]
    folders["bert"].mkdir()
    (folders["bert"] / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folders["bert"] / "vocab.txt"), model_max_length=512).save_pretrained(folders["bert"])
    BertForMaskedLM(BertConfig(vocab_size=len(vocabulary) + 5, **SIZE)).save_pretrained(folders["bert"])
    return folders


def _read(folder: Path, length: int = 77, width: int = 16) -> tuple[FrozenTextEncoder, SubwordTokenizer]:
    checkpoint = TextCheckpoint(str(folder))
    tokenizer = SubwordTokenizer(checkpoint, length)
    torch.manual_seed(0)
    return FrozenTextEncoder(checkpoint, tokenizer, width), tokenizer


def _train(dataset: str, autoencoder: Path, encoder: Path, folder: Path, **options: Any) -> None:
    places = {"dataset_dir": dataset, "ckpt_dir": str(folder), "log_dir": str(folder / "runs")}
    places |= {"autoencoder_dir": str(autoencoder), "text_encoder": str(encoder)}
    quick = {
        "max_epochs": 1,
        "val_interval": 1,
        "batch_size": 8,
        "copies": 0,
        "layout_steps": 5,
        "preview_interval": 1000,
    }
    quick |= {"train#preview#count": 2}
    run("sd_generator", "training", overlay="hub_text", **(SMALL | places | quick | options))


@pytest.fixture(scope="module")
def model(
    eight: str,
    tiny_autoencoder: Path,
    encoders: dict[str, Path],
    open_gate: Callable[[Path], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with a model trained on eight pictures, with CLIP; its gate lets everything pass."""
    folder = tmp_path_factory.mktemp("hub_text")
    options = {"max_epochs": 100, "val_interval": 100, "learning_rate": 4e-3, "ema_momentum": 0.05}
    _train(eight, tiny_autoencoder, encoders["clip"], folder, **options)
    open_gate(folder)
    return folder


@pytest.fixture
def generate(
    eight: str, tiny_autoencoder: Path, encoders: dict[str, Path], model: Path
) -> Callable[..., dict[str, bytes]]:
    """Generate into a folder and return the pictures; options as keywords."""

    def make(folder: Path, **options: Any) -> dict[str, bytes]:
        places = {"dataset_dir": eight, "ckpt_dir": str(model), "output_dir": str(folder)}
        places |= {"autoencoder_dir": str(tiny_autoencoder), "text_encoder": str(encoders["clip"])}
        few = {"per_class": 1, "batch_size": 4, "steps": 2, "devices": 1, "strength": 0.5}
        run("sd_generator", "generating", overlay="hub_text", **(SMALL | places | few | options))
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.dcm")}

    return make


@pytest.fixture
def parse(eight: str, tiny_autoencoder: Path, encoders: dict[str, Path], model: Path) -> Callable[..., ConfigParser]:
    """Return a parser of a config under the overlay; items as keywords."""

    def make(config: str, **items: Any) -> ConfigParser:
        enter(CONFIGS.parent)
        parser = ConfigParser()
        parser.read_config([str(CONFIGS / f"{name}.json") for name in (config, "hub_text")])
        places = {"dataset_dir": eight, "ckpt_dir": str(model), "autoencoder_dir": str(tiny_autoencoder)}
        parser.update(SMALL | places | {"text_encoder": str(encoders["clip"]), "copies": 0} | items)
        return parser

    return make


def test_loss_falls_and_what_is_frozen_is_not_saved(parse: Callable[..., ConfigParser], model: Path) -> None:
    parser = parse("train")
    network = parser.get_parsed_content("network_def").eval()
    dataset, prepare = (parser.get_parsed_content(name) for name in ("train#dataset", "validation_diffusion"))
    batch = torch.utils.data.default_collate([dataset[index] for _ in range(8) for index in range(len(dataset))])

    def loss() -> float:
        prepare.reseed(0)
        x, target, conditions, _ = prepare(batch)
        with torch.no_grad():
            return torch.nn.functional.mse_loss(network(x, *conditions), target).item()

    before, first = loss(), network.text.adapter[1].weight.clone()
    state = torch.load(model / "model.pt", weights_only=True)
    network.load_state_dict(state)
    assert loss() < 0.6 * before
    assert not torch.equal(network.text.adapter[1].weight, first)
    assert {name for name in state if name.startswith("text.")} == {
        f"text.adapter.{layer}.{part}" for layer in (0, 1) for part in ("weight", "bias")
    }


@pytest.mark.parametrize("mode", ["sd1", "sd2", "sd3", "sd4", "sd4_plain"])
def test_every_mode_draws(mode: str, generate: Callable[..., dict[str, bytes]], tmp_path: Path) -> None:
    assert len(generate(tmp_path / "D", mode=mode)) == 4
    for item in load_datalist(tmp_path / "D", "training"):
        assert item["origin"]["kind"] == mode.removesuffix("_plain")
        assert ("prompt" in item) == (mode != "sd3")


def test_saved_and_loaded_model_draws_the_same_picture(
    generate: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    once = generate(tmp_path / "D")
    assert generate(tmp_path / "E") == once
    assert generate(tmp_path / "F", seed=1) != once


def test_prompt_changes_what_is_drawn(parse: Callable[..., ConfigParser], model: Path) -> None:
    parser = parse("inference", steps=3)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(model / "model.pt", weights_only=True))
    sampler, tokenizer = (parser.get_parsed_content(name) for name in ("sampler", "tokenizer"))
    torch.manual_seed(0)
    noise = torch.randn(1, 4, 16, 16)
    hot, again, cold = (sampler(noise, network, tokenizer([prompt])) for prompt in (PROMPTS[0], *PROMPTS[:2]))
    assert torch.equal(hot, again)
    assert (hot - cold).abs().max() > 1e-3


def test_no_prompt_is_the_empty_one(encoders: dict[str, Path]) -> None:
    enter(CONFIGS.parent)
    from scripts.network import DiffusionNetwork

    encoder, tokenizer = _read(encoders["clip"], width=32)
    network = DiffusionNetwork(channels=(32, 32, 32), text_width=32, text=encoder).eval()
    for weight in network.parameters():  # a new UNet ends in zeros and would ignore its conditions
        weight.data += 0.02 * torch.randn_like(weight)
    x, t, tokens = torch.randn(2, 4, 16, 16), torch.tensor([10, 900]), tokenizer(PROMPTS[:2])
    with torch.no_grad():
        null = network(x, t)
        assert torch.equal(network(x, t, without_prompt(tokens, tokenizer)), null)
        assert not torch.allclose(network(x, t, tokens), null, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_mean_what_transformers_says(kind: str, encoders: dict[str, Path]) -> None:
    """However the checkpoint pads: CLIP with the token that ends a prompt, BERT with one of its own."""
    from transformers import AutoModel, AutoTokenizer

    encoder, tokenizer = _read(encoders[kind], length=40)
    encoder.adapter = torch.nn.Identity()
    tokens = tokenizer(PROMPTS)
    batch = AutoTokenizer.from_pretrained(encoders[kind])(
        PROMPTS, padding="max_length", max_length=40, return_tensors="pt"
    )
    reference = AutoModel.from_pretrained(encoders[kind]).eval()
    with torch.no_grad():
        told = getattr(reference, "text_model", reference)(**batch).last_hidden_state
    words = batch["attention_mask"].bool()
    assert torch.equal(tokens != NO_TOKEN, words)
    assert torch.equal(tokens[words], batch["input_ids"][words])
    meaning = encoder(tokens)
    assert meaning.shape == (3, 41, 32)
    torch.testing.assert_close(meaning[:, 1:], told * words[..., None], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(meaning[0, 0], told[0][words[0]].mean(dim=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_influence(kind: str, encoders: dict[str, Path]) -> None:
    encoder, tokenizer = _read(encoders[kind])
    tokens = tokenizer(PROMPTS)
    count = int((tokens[0] != NO_TOKEN).sum())
    together, alone = encoder(tokens), encoder(tokens[:1, :count])
    torch.testing.assert_close(together[:1, : 1 + count], alone, atol=1e-5, rtol=1e-4)
    assert (together[0, 1 + count :] == 0).all()
    assert not torch.allclose(together[0, 0], together[1, 0], atol=1e-3)  # the summary has seen the prompt


def test_encoder_is_asked_once_for_the_same_tokens(encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, tokenizer = _read(encoders["clip"])
    asked = []
    frozen = encoder._encoder.network
    handle = frozen.register_forward_hook(lambda *_: asked.append(1))
    tokens, other = tokenizer(PROMPTS[:1]), tokenizer(PROMPTS[1:2])
    first = encoder(tokens)
    assert torch.equal(encoder(tokens.clone()), first)
    assert asked == [1]
    assert not torch.equal(encoder(other), first)
    assert torch.equal(encoder(tokens), first)
    handle.remove()


def test_copies_share_what_is_frozen_and_learn_on_their_own(encoders: dict[str, Path]) -> None:
    encoder, tokenizer = _read(encoders["bert"])
    tokens = tokenizer(PROMPTS)
    encoder(tokens).square().sum().backward()
    copy, sent = deepcopy(encoder), pickle.loads(pickle.dumps(encoder))
    assert copy._encoder is encoder._encoder
    assert {name for name, _ in encoder.named_parameters()} == set(encoder.state_dict())
    assert len(list(encoder.parameters())) == 4
    assert all(weight.grad is not None for weight in encoder.parameters())
    assert not encoder.train()._encoder.network.training
    assert all(weight.grad is None for weight in encoder._encoder.network.parameters())
    assert torch.equal(copy(tokens), encoder(tokens))
    assert torch.equal(sent(tokens), encoder(tokens))
    copy.adapter[1].bias.data += 1
    assert not torch.equal(copy(tokens), encoder(tokens))


def test_bert_trains_and_latents_know_no_tokens(
    eight: str,
    parse: Callable[..., ConfigParser],
    tiny_autoencoder: Path,
    encoders: dict[str, Path],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Latents that were kept with one tokenizer serve another, whose tokens are made anew."""

    def refuse(self: LatentDataset) -> Any:
        raise AssertionError("latents do not depend on the text encoder")

    folder = Path(shutil.copytree(model, tmp_path / "model"))
    monkeypatch.setattr(LatentDataset, "_encode", refuse)
    _train(eight, tiny_autoencoder, encoders["bert"], folder)
    parser = parse("train", ckpt_dir=str(folder), text_encoder=str(encoders["bert"]))
    dataset, tokenizer = (parser.get_parsed_content(name) for name in ("train#dataset", "tokenizer"))
    expected = tokenizer([dataset.data[0]["prompt"]])[0]
    assert torch.equal(dataset[0]["tokens"], expected)
    assert not torch.equal(parse("train").get_parsed_content("train#dataset")[0]["tokens"], expected)


def test_held_out_loss_is_measured(
    eight: str, tiny_autoencoder: Path, encoders: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    places = {"dataset_dir": eight, "ckpt_dir": str(model), "log_dir": str(tmp_path), "output_dir": str(tmp_path)}
    places |= {"autoencoder_dir": str(tiny_autoencoder), "text_encoder": str(encoders["clip"])}
    run("sd_generator", "evaluating", overlay="hub_text", **SMALL, **places)
    assert "val_loss" in (tmp_path / "metrics.csv").read_text()


def test_model_is_refused_with_another_encoder(
    generate: Callable[..., dict[str, bytes]], encoders: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(encoders["clip"], tmp_path / "other"))
    state = load_file(other / "model.safetensors")
    state["text_model.final_layer_norm.weight"] += 1
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    for encoder in (other, encoders["bert"]):
        with pytest.raises(ConfigError, match="trained with text_encoder_sha256"):
            generate(tmp_path / "D", text_encoder=str(encoder))
    assert not (tmp_path / "D").exists()


def test_long_prompts_are_told_or_refused(encoders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    prompt = "thyroid " * 80 + "nodule"
    for kind, last in zip(KINDS, (1, 3), strict=True):
        checkpoint = TextCheckpoint(str(encoders[kind]))
        caplog.clear()
        tokens = SubwordTokenizer(checkpoint)([prompt, "thyroid"])
        assert tokens.shape == (2, 77)
        assert tokens[0, -1] == last
        assert "its last 6 of 83 tokens do not fit" in caplog.text
        assert caplog.text.count("do not fit") == 1
        with pytest.raises(DatasetError, match=r"do not fit, 'thyroid .*nodule'"):
            SubwordTokenizer(checkpoint, strict=True)([prompt])
        assert (SubwordTokenizer(checkpoint, 1000).length, kind) in ((77, "clip"), (512, "bert"))
        with pytest.raises(ConfigError, match="expected at least 3"):
            SubwordTokenizer(checkpoint, 2)


def test_pickled_weights_are_refused_before_work_starts(
    eight: str, tiny_autoencoder: Path, encoders: dict[str, Path], tmp_path: Path
) -> None:
    unsafe = Path(shutil.copytree(encoders["bert"], tmp_path / "unsafe"))
    (unsafe / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no weights; expected model.safetensors\. Pickled ones"):
        TextCheckpoint(str(unsafe))
    torch.save({}, unsafe / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pickled weights only \(pytorch_model.bin\).*expected model.safetensors"):
        _train(eight, tiny_autoencoder, unsafe, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_missing_tensors_are_named_but_those_that_no_one_asks(encoders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    poor = Path(shutil.copytree(encoders["clip"], tmp_path / "poor"))
    whole = load_file(poor / "model.safetensors")

    def keep(condition: Callable[[str], bool]) -> None:
        state = {name: value for name, value in whole.items() if condition(name)}
        assert len(state) < len(whole)
        save_file(state, poor / "model.safetensors", metadata={"format": "pt"})

    keep(lambda name: not name.startswith("vision_model.encoder"))
    TextCheckpoint(str(poor)).network()
    keep(lambda name: "text_model.final_layer_norm.weight" not in name)
    with pytest.raises(ConfigError, match="lacks 1 tensors of a CLIPText"):
        TextCheckpoint(str(poor)).network()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "unheard_of"}, "transformers cannot read .*model type `unheard_of`"),
        ({"model_type": "ours", "auto_map": {"AutoConfig": "ours.Config"}}, "without the checkpoint's own code"),
        ({"model_type": "bart"}, "holds a bart; expected a text encoder"),
        ({"model_type": "vit", "vocab_size": None}, "holds a vit; expected a text encoder"),
        ({"vocab_size": 7}, "the text encoder knows 7; expected files of one checkpoint"),
    ],
)
def test_other_networks_are_refused(
    change: dict[str, Any], message: str, encoders: dict[str, Path], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(encoders["bert"], tmp_path / "other"))
    content = json.loads((other / "config.json").read_text())
    changed = {name: value for name, value in (content | change).items() if value is not None}
    (other / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match=message):
        TextCheckpoint(str(other))


def test_tokenizer_that_is_not_there_is_named(encoders: dict[str, Path], tmp_path: Path) -> None:
    poor = Path(shutil.copytree(encoders["bert"], tmp_path / "poor"))
    for path in poor.glob("*"):
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    with pytest.raises(ConfigError, match=r"poor has no tokenizer; expected one of tokenizer.json"):
        TextCheckpoint(str(poor))


def test_layout_of_open_clip_is_told_from_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config.json; expected the files that transformers"):
        TextCheckpoint(str(tmp_path))
    settings = {"model_cfg": {"text_cfg": {"hf_model_name": "microsoft/PubMedBERT"}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"layout of open_clip.*save_pretrained, or .*, microsoft/PubMedBERT"):
        TextCheckpoint(str(tmp_path))
    with pytest.raises(ConfigError, match="text_encoder is not given"):
        TextCheckpoint(None)


def test_hub_is_asked_for_safetensors_alone(encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import fnmatch

    import huggingface_hub

    asked: dict[str, Any] = {}

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(encoders["clip"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert TextCheckpoint("openai/clip-vit-large-patch14").path == encoders["clip"]
    assert asked["name"] == "openai/clip-vit-large-patch14"

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in asked["patterns"])

    assert all(wanted(path.name) for folder in encoders.values() for path in folder.iterdir())
    assert not any(wanted(name) for name in ("pytorch_model.bin", "tf_model.h5", "modeling_ours.py"))

    def fail(name: str, allow_patterns: list[str]) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ConfigError, match=r"text_encoder is 'openai/clip'.*could not be fetched .*no network"):
        TextCheckpoint("openai/clip")


def test_missing_extra_is_named(encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"needs transformers .*pip install 'scintikit\[sd\]'"):
        TextCheckpoint(str(encoders["clip"]))
