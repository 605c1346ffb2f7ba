"""Fine-tuning of Stable Diffusion, on a tiny pipeline with random weights that stands in for the real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from scintikit.bundles import enter
from scintikit.data import load_datalist
from scintikit.errors import ConfigError, DatasetError, MissingExtraError
from scintikit.generation import (
    PretrainedAutoencoder,
    PretrainedDenoiser,
    PretrainedFolder,
    PretrainedTokenizer,
    pretrained_scheduler,
)
from tools.run import BUNDLES, run

CONFIGS = BUNDLES / "sd_generator" / "configs"
#: Small pictures; and float32, for bfloat16 gains nothing on networks as small as these.
SMALL: dict[str, Any] = {"image_size": [64, 64], "spacing_mm": 4.8, "precision": "fp32"}

pytestmark = [pytest.mark.sd, pytest.mark.usefixtures("one_thread")]
for package in ("diffusers", "transformers", "peft", "safetensors"):
    pytest.importorskip(package, reason=f"{package} is in the extra `sd`")


@pytest.fixture(scope="module")
def pipeline(
    tiny_dataset: str, write_clip_tokenizer: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder in diffusers' layout; its parts are those of Stable Diffusion 1.4, but small and random."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("pretrained") / "sd"
    folder.mkdir()
    torch.manual_seed(0)
    UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=8,
        # A random encoder's latents are larger than a trained one's.
        scaling_factor=1.0,
    ).save_pretrained(folder / "vae")
    prompts = [item["prompt"] for item in load_datalist(tiny_dataset, "training")]
    size = write_clip_tokenizer(folder / "tokenizer", prompts)
    text = CLIPTextConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def train(eight: str, pipeline: Path) -> Callable[..., Path]:
    """Fine-tune into a folder; options as keywords."""

    def make(folder: Path, **options: Any) -> Path:
        places = {"dataset_dir": eight, "ckpt_dir": str(folder), "log_dir": str(folder / "runs")}
        quick = {"max_epochs": 1, "copies": 0, "batch_size": 4, "accumulation_steps": 2, "preview_interval": 1000}
        quick |= {"val_interval": 1, "train#preview#count": 2, "pretrained": str(pipeline)}
        run("sd_generator", "training", overlay="finetune_sd", **(SMALL | places | quick | options))
        return folder

    return make


@pytest.fixture(scope="module")
def tuned(
    eight: str, pipeline: Path, open_gate: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a model tuned on eight pictures until it knows them; its gate lets everything pass."""
    folder = tmp_path_factory.mktemp("tuned")
    run(
        "sd_generator",
        "training",
        overlay="finetune_sd",
        pretrained=str(pipeline),
        dataset_dir=eight,
        ckpt_dir=str(folder),
        log_dir=str(folder / "runs"),
        **SMALL,
        max_epochs=60,
        val_interval=60,
        preview_interval=60,
        copies=0,
        batch_size=8,
        accumulation_steps=1,
        learning_rate=2e-3,
        ema_momentum=0.05,
        **{"train#preview#count": 2},
    )
    open_gate(folder)
    return folder


def _parser(config: str, pipeline: Path, **items: Any) -> ConfigParser:
    enter(CONFIGS.parent)
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in (config, "finetune_sd")])
    parser.update(SMALL | {"pretrained": str(pipeline)} | items)
    return parser


def _loss(parser: ConfigParser, network: torch.nn.Module) -> float:
    """Return the loss on all training pictures, over many times and with the same noise each time."""
    dataset, prepare = (parser.get_parsed_content(name) for name in ("train#dataset", "validation_diffusion"))
    prepare.reseed(0)
    batch = torch.utils.data.default_collate([dataset[index] for _ in range(8) for index in range(len(dataset))])
    x, target, conditions, _ = prepare(batch)
    with torch.no_grad():
        return torch.nn.functional.mse_loss(network(x, *conditions), target).item()


def test_loss_falls_when_eight_pictures_are_learned(tuned: Path, eight: str, pipeline: Path, tmp_path: Path) -> None:
    parser = _parser("train", pipeline, dataset_dir=eight, ckpt_dir=str(tmp_path), copies=0)
    network = parser.get_parsed_content("network_def").eval()
    before = _loss(parser, network)
    network.load_state_dict(torch.load(tuned / "model.pt", weights_only=True))
    assert _loss(parser, network) < 0.4 * before


def _generate(folder: Path, model: Path, dataset: str, pipeline: Path, **options: Any) -> dict[str, bytes]:
    run(
        "sd_generator",
        "generating",
        overlay="finetune_sd",
        **(
            SMALL
            | {"pretrained": str(pipeline), "dataset_dir": dataset, "ckpt_dir": str(model), "output_dir": str(folder)}
            | {"per_class": 1, "batch_size": 4, "steps": 2, "devices": 1, "strength": 0.5}
            | options
        ),
    )
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.dcm")}


@pytest.mark.parametrize("mode", ["sd1", "sd2", "sd3", "sd4_plain"])
def test_every_mode_draws(mode: str, tuned: Path, eight: str, pipeline: Path, tmp_path: Path) -> None:
    assert len(_generate(tmp_path / "D", tuned, eight, pipeline, mode=mode)) == 4
    for item in load_datalist(tmp_path / "D", "training"):
        assert item["origin"]["kind"] == mode.removesuffix("_plain")
        assert ("prompt" in item) == (mode != "sd3")


def test_held_out_loss_is_measured(tuned: Path, eight: str, pipeline: Path, tmp_path: Path) -> None:
    places = {"dataset_dir": eight, "ckpt_dir": str(tuned), "log_dir": str(tmp_path), "output_dir": str(tmp_path)}
    run("sd_generator", "evaluating", overlay="finetune_sd", pretrained=str(pipeline), **SMALL, **places)
    assert "val_loss" in (tmp_path / "metrics.csv").read_text()


def test_mask_channels_are_refused_before_anything_is_written(
    tuned: Path, eight: str, pipeline: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="take sd4_plain"):
        _generate(tmp_path / "D", tuned, eight, pipeline, mode="sd4")
    assert not (tmp_path / "D").exists()


def test_saved_and_loaded_model_draws_the_same_picture(tuned: Path, eight: str, pipeline: Path, tmp_path: Path) -> None:
    once = _generate(tmp_path / "D", tuned, eight, pipeline)
    assert _generate(tmp_path / "E", tuned, eight, pipeline) == once
    assert _generate(tmp_path / "F", tuned, eight, pipeline, seed=1) != once


def test_model_is_refused_with_another_base(tuned: Path, eight: str, pipeline: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(pipeline, tmp_path / "other"))
    path = other / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_in.weight"] += 1
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="trained with pretrained_sha256"):
        _generate(tmp_path / "D", tuned, eight, other)


def test_lora_keeps_the_base_and_saves_its_own_weights_alone(
    train: Callable[..., Path], eight: str, pipeline: Path, open_gate: Callable[[Path], None], tmp_path: Path
) -> None:
    whole, lora = train(tmp_path / "whole"), train(tmp_path / "lora", lora_rank=2, gradient_checkpointing=True)
    assert (lora / "model.pt").stat().st_size < 0.1 * (whole / "model.pt").stat().st_size
    assert (lora / "last.pt").stat().st_size < 0.1 * (whole / "last.pt").stat().st_size
    state = torch.load(lora / "model.pt", weights_only=True)
    assert all("lora_" in name for name in state)
    assert any(weight.abs().max() > 0 for name, weight in state.items() if "lora_B" in name)
    open_gate(lora)
    assert len(_generate(tmp_path / "D", lora, eight, pipeline, lora_rank=2)) == 4
    with pytest.raises(ConfigError, match="lora_rank"):
        _generate(tmp_path / "E", lora, eight, pipeline, lora_rank=4)


def test_resumed_training_ends_with_the_same_bits(
    train: Callable[..., Path], killed: AbstractContextManager[None], tmp_path: Path
) -> None:
    # Three batches an epoch: its last step is one of a single batch.
    options = {"lora_rank": 2, "max_epochs": 3, "batch_size": 3, "train#dataloader#drop_last": False}
    whole = train(tmp_path / "whole", **options)
    with killed:
        train(tmp_path / "killed", **options)
    resumed = train(tmp_path / "killed", resume=True, **options)
    one, other = (torch.load(folder / "last.pt", weights_only=True) for folder in (whole, resumed))
    assert one["iteration"] == other["iteration"] == 9
    assert {state["step"].item() for state in one["optimizer"]["state"].values()} == {6}  # of two batches, then of one
    for part in ("network", "average"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part]), part
    assert any(not torch.equal(one["network"][name], one["average"][name]) for name in one["network"])


def test_copies_share_what_is_frozen_and_learn_on_their_own(pipeline: Path) -> None:
    from scintikit.engines import WeightAverage

    network = PretrainedDenoiser(PretrainedFolder(str(pipeline)), lora_rank=2)
    average = WeightAverage(network, momentum=0.1).ema_model
    mine, others = (dict(torch.nn.Module.named_parameters(one)) for one in (network, average))
    assert mine.keys() == others.keys()
    for name, weight in mine.items():
        assert (weight.data_ptr() == others[name].data_ptr()) == (name not in network.tuned), name
    assert {name for name, _ in network.named_parameters()} == set(network.state_dict()) == network.tuned
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({})


def test_gradient_checkpointing_changes_nothing_but_memory(pipeline: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        network = PretrainedDenoiser(PretrainedFolder(str(pipeline)), gradient_checkpointing=checkpointing).train()
        assert network.unet.is_gradient_checkpointing == checkpointing
        x = torch.linspace(-1, 1, 2 * 4 * 8 * 8).reshape(2, 4, 8, 8)
        network(x, torch.tensor([10, 900])).square().mean().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in network.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_prompt_changes_the_prediction_and_none_is_the_empty_one(pipeline: Path) -> None:
    folder = PretrainedFolder(str(pipeline))
    network, tokenizer = PretrainedDenoiser(folder).eval(), PretrainedTokenizer(folder)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        none, empty, hot = (
            network(x, t, tokens) for tokens in (None, tokenizer([""]), tokenizer(["hot nodule in the left lobe"]))
        )
    assert torch.equal(none, empty)
    assert not torch.allclose(hot, none, atol=1e-6)


def test_long_prompts_are_told_or_refused(pipeline: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, prompt = PretrainedFolder(str(pipeline)), "thyroid " * 80 + "nodule"
    tokens = PretrainedTokenizer(folder)([prompt, "thyroid"])
    assert tokens.shape == (2, 77)
    assert (tokens[:, 0] == 0).all()
    assert (tokens[:, -1] == 1).all()
    assert "do not fit" in caplog.text
    with pytest.raises(DatasetError, match=r"do not fit.*nodule"):
        PretrainedTokenizer(folder, strict=True)([prompt])


def test_autoencoder_speaks_diffusers_language(pipeline: Path) -> None:
    """Three equal colours in [-1, 1], and latents times the scaling factor."""
    from diffusers import AutoencoderKL

    reference = AutoencoderKL.from_pretrained(pipeline / "vae").eval()
    ours = PretrainedAutoencoder(PretrainedFolder(str(pipeline)))
    ours.scale = 0.5
    pictures = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        z = reference.encode((2 * pictures - 1).repeat(1, 3, 1, 1)).latent_dist.mean
        restored = (reference.decode(z).sample.mean(dim=1, keepdim=True) + 1) / 2
    torch.testing.assert_close(ours.encode(pictures), 0.5 * z, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.decode(0.5 * z), restored, atol=1e-5, rtol=1e-4)
    assert ours.latent_shape((32, 64)) == [4, 4, 8]
    with pytest.raises(ConfigError, match="multiples of 8"):
        ours.latent_shape((36, 64))
    with pytest.raises(ConfigError, match="takes one"):
        PretrainedAutoencoder(PretrainedFolder(str(pipeline)), image_channels=2)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"prediction_type": "v_prediction"},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    ],
)
def test_noise_schedule_is_the_checkpoints(change: dict[str, Any], pipeline: Path, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    folder = PretrainedFolder(str(pipeline))
    folder.path = Path(shutil.copytree(pipeline / "scheduler", tmp_path / "sd" / "scheduler")).parent
    path = folder.path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    reference, ours = DDIMScheduler.from_pretrained(path.parent), pretrained_scheduler(folder)
    torch.testing.assert_close(ours.alphas_cumprod, reference.alphas_cumprod, atol=1e-6, rtol=1e-4)
    assert ours.prediction_type == reference.config.prediction_type
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_schedule": "squaredcos_cap_v2"}))
    with pytest.raises(ConfigError, match="noise schedule 'squaredcos_cap_v2'"):
        pretrained_scheduler(folder)


def test_old_names_of_tensors_are_understood(pipeline: Path, tmp_path: Path) -> None:
    """Published checkpoints were written by older releases, which named some tensors otherwise."""
    from safetensors.torch import load_file, save_file

    old = Path(shutil.copytree(pipeline, tmp_path / "old"))
    text = old / "text_encoder" / "model.safetensors"
    state = load_file(text)
    state = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in state.items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, text, metadata={"format": "pt"})
    vae = old / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(vae)
    renamed = {}
    for name, value in state.items():
        for new, former in names.items():
            name = name.replace(f".{new}.", f".{former}.")
        renamed[name] = value
    assert renamed.keys() != state.keys()
    save_file(renamed, vae, metadata={"format": "pt"})
    for library, cls, part in (
        ("transformers", "CLIPTextModel", "text_encoder"),
        ("diffusers", "AutoencoderKL", "vae"),
    ):
        mine, theirs = (PretrainedFolder(str(one)).load(library, cls, part).state_dict() for one in (old, pipeline))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_missing_tensors_are_named(pipeline: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    poor = Path(shutil.copytree(pipeline, tmp_path / "poor"))
    path = poor / "text_encoder" / "model.safetensors"
    state = load_file(path)
    gone = next(name for name in state if "final_layer_norm.weight" in name)
    del state[gone]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lacks 1 tensors of a CLIPTextModel"):
        PretrainedDenoiser(PretrainedFolder(str(poor)))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused_before_work_starts(
    part: str, train: Callable[..., Path], pipeline: Path, tmp_path: Path
) -> None:
    unsafe = Path(shutil.copytree(pipeline, tmp_path / "unsafe"))
    weights = next((unsafe / part).glob("*.safetensors"))
    torch.save({}, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ConfigError, match=rf"pickled weights only \(pytorch_model.bin\).*{weights.name}"):
        train(tmp_path / "model", pretrained=str(unsafe))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"in_channels": 9}, "expected the same number"),
        ("unet", {"addition_embed_type": "text_time"}, "expected Stable Diffusion of version 1 or 2"),
        ("text_encoder", {"hidden_size": 64}, "expected a pipeline with one text encoder"),
    ],
)
def test_other_pipelines_are_refused(
    part: str, change: dict[str, Any], message: str, pipeline: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(pipeline, tmp_path / "other"))
    path = other / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        PretrainedFolder(str(other))


def test_folder_without_a_part_is_named(pipeline: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(pipeline, tmp_path / "other"))
    shutil.rmtree(other / "vae")
    with pytest.raises(ConfigError, match=r"vae has no config.json; expected a folder in the layout"):
        PretrainedFolder(str(other))
    with pytest.raises(ConfigError, match="pretrained is not given"):
        PretrainedFolder(None)


def test_hub_is_asked_for_safetensors_alone(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fnmatch

    import huggingface_hub

    asked: dict[str, Any] = {}

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(pipeline)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert PretrainedFolder("CompVis/stable-diffusion-v1-4").path == pipeline
    assert asked["name"] == "CompVis/stable-diffusion-v1-4"

    def wanted(path: str) -> bool:
        return any(fnmatch.fnmatch(path, pattern) for pattern in asked["patterns"])

    assert all(wanted(path.relative_to(pipeline).as_posix()) for path in pipeline.rglob("*.*") if path.is_file())
    unwanted = ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors")
    assert not any(wanted(path) for path in (*unwanted, "text_encoder/pytorch_model.bin", "sd-v1-4.ckpt"))

    def fail(name: str, allow_patterns: list[str]) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ConfigError, match=r"no such folder, and it could not be fetched .*no network"):
        PretrainedFolder("CompVis/stable-diffusion-v1-4")


def test_missing_extra_is_named(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"needs diffusers .*pip install 'scintikit\[sd\]'"):
        PretrainedFolder(str(pipeline))
