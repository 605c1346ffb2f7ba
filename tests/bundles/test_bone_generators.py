"""Generators of whole-body scans: fm_generator with its overlay, and the GAN of spect_bone_cls."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from scintikit.bundles import enter
from scintikit.data import body_frame, compose, load_dataset, mirror_posterior
from scintikit.dicom import read_scintigram
from scintikit.errors import ConfigError, ScintikitError
from scintikit.generation import stabilise, unstabilise
from scintikit.generation.writing import SyntheticFiles
from tools.run import BUNDLES, run

FLOW: dict[str, Any] = {
    "image_size": [128, 32],
    "spacing_mm": 18.4,
    "unshuffle": 2,
    "network_def#channels": [32, 32],
    "network_def#attention_levels": [False, False],
}
GAN: dict[str, Any] = {
    "image_size": [64, 16],
    "spacing_mm": 36.8,
    "latent": 8,
    "unshuffle": 2,
    "network_def#channels": [16, 16],
}
TRAIN_GAN: dict[str, Any] = {**GAN, "discriminator_def#channels": [16, 16], "batch_size": 4, "preview_interval": 100}


@pytest.fixture(scope="module")
def flow(tiny_bone_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a flow network trained for one epoch through the overlay."""
    folder = tmp_path_factory.mktemp("flow")
    options = {"dataset_dir": tiny_bone_dataset, "ckpt_dir": str(folder), "log_dir": str(folder / "runs")}
    run("fm_generator", "training", overlay="bone", max_epochs=1, batch_size=4, **FLOW, **options)
    _accept_everything(folder)
    return folder


@pytest.fixture(scope="module")
def gan(tiny_bone_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GAN trained for two epochs."""
    folder = tmp_path_factory.mktemp("gan")
    _train_gan(tiny_bone_dataset, folder, max_epochs=2)
    _accept_everything(folder)
    return folder


def _train_gan(dataset: str, folder: Path, **options: Any) -> None:
    folders = {"dataset_dir": dataset, "ckpt_dir": str(folder), "log_dir": str(folder / "runs")}
    run("spect_bone_cls", "training_gan", **(TRAIN_GAN | folders | options))


def _accept_everything(folder: Path) -> None:
    """Widen the limits in `generation.pt`: a network of a few steps draws nothing plausible."""
    content = torch.load(folder / "generation.pt", weights_only=True)
    content |= {"gate": {}, "diversity": dict.fromkeys(content["diversity"], 1e-9)}
    torch.save(content, folder / "generation.pt")


@pytest.fixture(params=["fm", "gan"])
def generate(request: pytest.FixtureRequest, tiny_bone_dataset: str) -> Callable[..., Path]:
    """Generate into a folder with each of the two generators, and return it."""
    model = request.getfixturevalue("flow" if request.param == "fm" else "gan")

    def generate(folder: Path, **options: Any) -> Path:
        shared = {"dataset_dir": tiny_bone_dataset, "ckpt_dir": str(model), "output_dir": str(folder)}
        shared |= {"per_class": 2, "batch_size": 3, "devices": 1}
        if request.param == "fm":
            run("fm_generator", "generating", overlay="bone", **(shared | FLOW | {"steps": 2} | options))
        else:
            run("spect_bone_cls", "generating_gan", **(shared | GAN | options))
        return folder

    generate.kind = request.param  # type: ignore[attr-defined]
    return generate


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_set_of_labels_becomes_whole_body_scans(
    generate: Callable[..., Path], tiny_bone_dataset: str, tmp_path: Path
) -> None:
    dataset, original = load_dataset(generate(tmp_path / "D")), load_dataset(tiny_bone_dataset)
    sources = {Path(item["image"]).stem: item for item in original.splits["training"]}
    items = dataset.splits["training"]
    assert Counter(tuple(item["label"]) for item in items) == {(0, 0): 2, (0, 1): 2, (1, 0): 2, (1, 1): 2}
    assert dataset.labels == original.labels
    for item in items:
        source = sources[item["origin"]["source"]]
        assert item["origin"]["kind"] == generate.kind  # type: ignore[attr-defined]
        assert all(item[key] == source[key] for key in ("label", "centre", "patient"))
        picture, lent = read_scintigram(dataset.root / item["image"]), read_scintigram(original.root / source["image"])
        assert (picture.image_type, picture.body_part, picture.synthetic) == ("WHOLE BODY", "WHOLEBODY", True)
        assert picture.views == lent.views == ("ANT", "POST")
        assert picture.counts.shape == lent.counts.shape
        assert picture.spacing_mm == pytest.approx(lent.spacing_mm)
        assert "mask" not in item or read_scintigram(dataset.root / item["mask"]).views == lent.views
    # Each label was drawn from its own patients: nothing else would make the counts those of the label's scans.
    levels = {tuple(item["label"]): item["origin"]["settings"]["count_level"] for item in items}
    assert len(set(levels.values())) == 4


def test_generated_scans_train_the_classifier_beside_the_original_ones(
    generate: Callable[..., Path], tiny_bone_dataset: str, tmp_path: Path
) -> None:
    """Even those of networks that have learned nothing, whatever stands on its head."""
    merged = compose([tiny_bone_dataset, generate(tmp_path / "D")], tmp_path / "merged")
    folders = {"dataset_dir": str(merged), "ckpt_dir": str(tmp_path / "model"), "log_dir": str(tmp_path / "runs")}
    small = {"image_size": [128, 32], "spacing_mm": 18.4}
    run("spect_bone_cls", "training", max_epochs=1, batch_size=8, **folders, **small)
    calibration = torch.load(tmp_path / "model" / "calibration.pt", weights_only=True)
    assert (tmp_path / "model" / "model.pt").is_file()
    assert calibration["settings"]["class_names"] == ["metastasis", "arthritis"]


def test_stopped_generation_goes_on_to_the_same_bytes(
    generate: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _files(generate(tmp_path / "D"))
    acquire, calls = SyntheticFiles.write, []

    def stop(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return acquire(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SyntheticFiles, "write", stop)
        with pytest.raises(ScintikitError, match="goes on where it stopped"):
            generate(tmp_path / "E")
    assert not (tmp_path / "E" / "dataset.json").exists()
    assert _files(generate(tmp_path / "E")) == whole


def test_masks_lie_in_each_view_where_their_source_has_them(flow: Path, tiny_bone_dataset: str, tmp_path: Path) -> None:
    folders = {"dataset_dir": tiny_bone_dataset, "ckpt_dir": str(flow), "output_dir": str(tmp_path / "D")}
    run("fm_generator", "generating", overlay="bone", per_class=3, mask_variation=0, devices=1, **FLOW, **folders)
    dataset = load_dataset(tmp_path / "D")
    overlap = []
    for item in dataset.splits["training"]:
        mask = read_scintigram(dataset.root / item["mask"]).counts
        source = read_scintigram(Path(tiny_bone_dataset) / "masks" / f"{item['origin']['source']}.nii.gz").counts
        assert set(np.unique(mask)) <= {0, *np.flatnonzero(item["label"]) + 1}
        assert mask.any() <= any(item["label"])
        for one, other, mirrored in zip(mask > 0, source > 0, source[::-1] > 0, strict=True):
            if other.sum() > 2000:  # what survives 18 mm pixels
                overlap.append([(one & shown).sum() / one.sum() for shown in (other, other[:, ::-1], mirrored)])
    here, *elsewhere = np.mean(overlap, axis=0)
    assert here > 0.5
    assert here > max(elsewhere) + 0.1


def test_scan_comes_back_as_displayed_from_the_frame_of_the_body(
    flow: Path, tiny_bone_dataset: str, tmp_path: Path
) -> None:
    configs = BUNDLES / "fm_generator" / "configs"
    enter(configs.parent)
    parser = ConfigParser()
    parser.read_config([str(configs / "inference.json"), str(configs / "bone.json")])
    parser.update({"dataset_dir": tiny_bone_dataset, "ckpt_dir": str(flow), "per_class": 1} | FLOW)
    batches = parser.get_parsed_content("dataset")
    batch = batches[0]
    request = batch["requests"][0]
    item = parser.get_parsed_content("preprocessing")(dict(request.source))
    recipe = {
        "seed": 0, "kind": "fm", "format": "nii.gz", "body_part": "", "image_type": "WHOLE BODY", "generator": "0",
    }  # fmt: skip
    files = SyntheticFiles(tmp_path, recipe, parser.get_parsed_content("settings"))
    written = files.write(request, unstabilise(item["image"], item["level"]), 0)
    assert not isinstance(written, str)
    again, original = (read_scintigram(path).counts for path in (tmp_path / written["image"], request.source["image"]))
    assert again.sum() == pytest.approx(original.sum(), rel=0.05)
    small, real = ([_coarse(view) for view in counts] for counts in (again, original))
    for view in range(2):
        alike = np.corrcoef(small[view].ravel(), real[view].ravel())[0, 1]
        assert alike > 0.98
        assert alike > np.corrcoef(small[view].ravel(), real[view][:, ::-1].ravel())[0, 1] + 0.005


def _coarse(counts: np.ndarray) -> np.ndarray:
    rows, columns = counts.shape
    return counts.reshape(rows // 8, 8, columns // 8, 8).sum(axis=(1, 3))


def test_posterior_is_mirrored_and_back() -> None:
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    mirrored = mirror_posterior(x)
    assert torch.equal(mirrored[0, 0], x[0, 0])
    assert mirrored[0, 1, 0].tolist() == [15, 14, 13, 12]
    assert torch.equal(mirror_posterior(mirrored), x)
    assert torch.equal(body_frame(x[0], ("ANT", "POST")), mirrored[0])
    assert torch.equal(body_frame(x[0, :1], ("ANT",)), x[0, :1])


def test_resumed_gan_training_goes_on_exactly(gan: Path, tiny_bone_dataset: str, tmp_path: Path) -> None:
    _train_gan(tiny_bone_dataset, tmp_path, max_epochs=1, save_interval=1)
    first = torch.load(tmp_path / "model.pt", weights_only=True)
    _train_gan(tiny_bone_dataset, tmp_path, max_epochs=2, resume=str(tmp_path / "checkpoint_epoch=1.pt"))
    resumed, straight = (torch.load(folder / "model.pt", weights_only=True) for folder in (tmp_path, gan))
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    assert not all(torch.equal(first[name], straight[name]) for name in straight)


def test_state_of_the_gan_is_kept_whole_and_a_stopped_training_leaves_the_model_of_before(tmp_path: Path) -> None:
    enter(BUNDLES / "spect_bone_cls")
    from scripts.gan import KeepState

    network = torch.nn.Linear(1, 1)
    keep = KeepState(str(tmp_path), {"network": network}, network, interval=2)
    (tmp_path / "model.pt").write_bytes(b"of before")

    def stop(engine: Engine) -> None:
        raise KeyboardInterrupt

    stopped, whole = (Engine(lambda engine, batch: None) for _ in range(2))
    stopped.add_event_handler(Events.EPOCH_STARTED(once=5), stop)
    keep.attach(stopped)
    keep.attach(whole)
    with pytest.raises(KeyboardInterrupt):
        stopped.run([1], max_epochs=6)
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint_epoch=4.pt"]
    assert (tmp_path / "model.pt").read_bytes() == b"of before"
    whole.run([1], max_epochs=6)
    assert torch.load(tmp_path / "model.pt", weights_only=True).keys() == network.state_dict().keys()
    with pytest.raises(ConfigError, match="an interval is 0"):
        KeepState(str(tmp_path), {}, network, interval=0)


def test_gan_says_which_labels_and_precision_it_needs() -> None:
    enter(BUNDLES / "spect_bone_cls")
    from scripts.gan import Adversary, PrepareScans

    image = torch.rand(2, 2, 8, 4)
    batch = {"image": image, "label": torch.tensor([0, 1]), "mask": image[:, :1], "level": torch.ones(2)}
    with pytest.raises(ConfigError, match=r"labels are class numbers.*--multi_label"):
        PrepareScans()(batch, "cpu")
    with pytest.raises(ConfigError, match="no scaled loss for fp16"):
        Adversary(torch.nn.Identity(), precision="fp16")


def test_gan_learns_from_the_training_split_alone(gan: Path, tiny_bone_dataset: str) -> None:
    content = torch.load(gan / "generation.pt", weights_only=True)
    assert sum(len(levels) for centres in content["levels"].values() for levels in centres.values()) == len(
        load_dataset(tiny_bone_dataset).splits["training"]
    )


def _networks(**options: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    enter(BUNDLES / "spect_bone_cls")
    from scripts.gan import Discriminator, Generator

    torch.manual_seed(0)
    shared: dict[str, Any] = {"image_size": (64, 16), "channels": (16, 16), "unshuffle": 2} | options
    return Generator(latent=8, **shared), Discriminator(**shared)


def test_drawn_picture_follows_noise_label_and_field() -> None:
    generator, discriminator = _networks()
    noise, other = torch.randn(2, 1, 8)
    disease, healthy = torch.tensor([[1, 0]]), torch.tensor([[0, 0]])
    field = torch.ones(1, 1, 64, 16)
    field[..., 8:] = 0
    picture = generator(noise, disease, field)
    assert picture.shape == (1, 2, 64, 16)
    assert float(picture.min()) >= 0
    assert not picture[..., 8:].any()
    assert picture[..., :8].all()
    torch.testing.assert_close(generator(noise[..., None, None], disease, field), picture)  # as RequestBatches gives it
    torch.testing.assert_close(generator(noise), generator(noise, healthy, torch.ones_like(field)))
    assert not torch.allclose(generator(noise, healthy, field), picture)
    assert not torch.allclose(generator(other, disease, field), picture)
    assert not torch.allclose(discriminator(picture, disease), discriminator(picture, healthy))
    with pytest.raises(ConfigError, match=r"image_size is \[60, 16\].*multiples of 8, see"):
        _networks(image_size=(60, 16))


def test_discriminator_sees_the_grain_of_real_scans() -> None:
    _, discriminator = _networks()
    from scripts.gan import Adversary, Scans

    seen: list[torch.Tensor] = []
    discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    level = torch.tensor([30.0, 300.0])
    pictures = torch.full((2, 2, 64, 16), 0.7, requires_grad=True)
    scans = Scans(pictures, torch.zeros(2, 2), torch.ones(2, 1, 64, 16), level)
    adversary = Adversary(discriminator, precision="fp32")
    adversary.generator_loss(scans).backward()
    expected = unstabilise(torch.full((2, 2, 64, 16), 0.7), level[:, None, None, None])
    real = stabilise(torch.poisson(expected), level[:, None, None, None])
    for drawn, acquired in zip(seen[0], real, strict=True):
        assert float(drawn.mean()) == pytest.approx(0.7, abs=0.01)
        assert float(drawn.std()) == pytest.approx(float(acquired.std()), rel=0.1)
    assert pictures.grad is not None  # and yet the generator is told how to change its picture
    assert bool(pictures.grad.any())
    assert not any(weight.grad is not None for weight in discriminator.parameters())
    with pytest.raises(ScintikitError, match=r"picture of the generator is not finite.*learning_rate"):
        adversary.generator_loss(scans._replace(x=pictures * torch.nan))


@pytest.mark.slow
def test_gan_learns_what_a_label_means(tmp_path: Path) -> None:
    """A disease that is a bright patch is drawn where, and only where, it is asked for."""
    generator, discriminator = _networks()
    from scripts.gan import Adversary, Scans

    rng = torch.Generator().manual_seed(0)
    adversary = Adversary(discriminator, precision="fp32")
    optimizers = [torch.optim.Adam(n.parameters(), 1e-3, (0.0, 0.9)) for n in (generator, discriminator)]
    for _ in range(200):
        y = torch.randint(0, 2, (16, 2), generator=rng).float()
        real = torch.full((16, 2, 64, 16), 0.3)
        real[:, :, 8:24] += 0.6 * y[:, :1, None, None]
        real[:, :, 40:56] += 0.6 * y[:, 1:, None, None]
        level = torch.full((16,), 100.0)
        reals = Scans(real, y, torch.ones(16, 1, 64, 16), level)
        fakes = reals._replace(x=generator(torch.randn(16, 8, generator=rng), y))
        for optimizer, loss, scans in (
            (optimizers[1], adversary.discriminator_loss, (fakes, reals)),
            (optimizers[0], adversary.generator_loss, (fakes,)),
        ):
            optimizer.zero_grad()
            loss(*scans).backward()
            optimizer.step()
    y = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).repeat(8, 1)
    with torch.no_grad():
        drawn = generator(torch.randn(32, 8, generator=rng), y)
    for disease, place in enumerate((slice(8, 24), slice(40, 56))):
        patch, shown = drawn[:, :, place].mean(dim=(1, 2, 3)), y[:, disease] == 1
        assert patch[shown].mean() > patch[~shown].mean() + 0.2


def test_configs_of_training_and_generation_agree() -> None:
    for name, pair in {"spect_bone_cls": ("train_gan", "generate_gan"), "fm_generator": ("train", "inference")}.items():
        one, other = (
            json.loads((BUNDLES / name / "configs" / f"{config}.json").read_text(encoding="utf-8")) for config in pair
        )
        for item in ("preprocessing", "network_def", "settings", "views", "spacing_mm", "image_size"):
            assert one[item] == other[item], (name, item)
