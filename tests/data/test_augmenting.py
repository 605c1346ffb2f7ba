"""Offline augmentation: what a copy keeps of its source, and what moves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scintikit.data import DatasetWriter, augment, augmenting, compose, load_datalist, load_dataset, mirrored_prompt
from scintikit.dicom import read_scintigram, write_scintigram
from scintikit.errors import ConfigError, DatasetError, ImageWriteError

STILL = {"flip": 0.0, "rotate_deg": 0.0, "shift": 0.0, "scale": 0.0}


def make(
    folder: Path,
    counts: Any,
    suffix: str = ".dcm",
    prompt: str = "",
    mask: Any = None,
    mask_views: Any = None,
    **options: Any,
) -> Path:
    """Write a dataset of one acquired training scintigram and one for validation."""
    writer = DatasetWriter(folder, name="own", description="own", labels=["a", "b"], licence="none", recipe={})
    settings: dict[str, Any] = {"spacing_mm": (2.0, 2.0), "views": ("ANT",), "synthetic": False} | options
    items = []
    for name in ("A_1", "A_2"):
        item = {"image": f"images/{name}{suffix}", "label": 0, "patient": name, "centre": "A"}
        write_scintigram(folder / item["image"], np.asarray(counts), uid_seed=name, **settings)
        if mask is not None:
            item["mask"] = f"masks/{name}.nii.gz"
            views = mask_views or settings["views"]
            write_scintigram(folder / item["mask"], np.asarray(mask), uid_seed=name, **settings | {"views": views})
        items.append(item | ({"prompt": prompt} if prompt else {}) | {"origin": {"kind": "acquired"}})
    writer.finish(training=items[:1], validation=items[1:])
    return folder


def copied(dataset: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Return the only copy, its path absolute."""
    (item,) = load_datalist(augment(dataset, folder, progress=False, **options), "training")
    return item


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def gland() -> np.ndarray:
    """A bright rectangle in the upper left of a faint field, (1, 64, 48)."""
    counts = np.ones((1, 64, 48), np.uint16)
    counts[0, 20:30, 10:16] = 400
    return counts


@pytest.fixture(scope="module")
def thyroid(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve copies of each class."""
    return augment(tiny_dataset, tmp_path_factory.mktemp("thyroid") / "CA", per_class=12, seed=3, progress=False)


def test_only_training_is_copied_and_copies_inherit(thyroid: Path, tiny_dataset: str) -> None:
    made, original = load_dataset(thyroid), load_dataset(tiny_dataset)
    sources = {item["id"]: item for item in load_datalist(tiny_dataset, "training")}
    assert Counter(item["label"] for item in made.splits["training"]) == dict.fromkeys(range(4), 12)
    assert not made.splits["validation"]
    assert not made.splits["test"]
    assert made.labels == original.labels
    assert made.licence == original.licence
    for item in load_datalist(thyroid, "training"):
        source = sources[item["origin"]["source"]]
        assert (item["origin"]["kind"], item["origin"]["seed"]) == ("augmented", 3)
        assert all(item[key] == source[key] for key in ("label", "patient", "centre"))
        copy, before = read_scintigram(item["image"]), read_scintigram(source["image"])
        for key in ("views", "spacing_mm", "body_part", "image_type", "duration_s", "energy_windows_kev"):
            assert getattr(copy, key) == getattr(before, key), key
        assert copy.synthetic
        assert copy.counts.shape == before.counts.shape == read_scintigram(item["mask"]).counts.shape
        assert not np.array_equal(copy.counts, before.counts)


def test_sources_take_turns_and_fewer_copies_are_among_more(thyroid: Path, tiny_dataset: str, tmp_path: Path) -> None:
    def told(folder: Path) -> set[str]:
        return {str(item["origin"]) for item in load_dataset(folder).splits["training"]}

    sources = load_dataset(tiny_dataset).splits["training"]
    used = Counter(item["origin"]["source"] for item in load_dataset(thyroid).splits["training"])
    for label in range(4):
        turns = [used[Path(item["image"]).stem] for item in sources if item["label"] == label]
        assert max(turns) - min(turns) <= 1
    fewer = augment(tiny_dataset, tmp_path / "few", per_class=5, seed=3, progress=False)
    assert told(fewer) < told(thyroid)
    # A part that `compose` takes is of all sources, not of the first ones.
    part = load_dataset(compose([thyroid], tmp_path / "part", per_class=5)).splits["training"]
    assert {str(item["origin"]) for item in part} == told(fewer)
    assert not told(augment(tiny_dataset, tmp_path / "other", per_class=5, seed=4, progress=False)) & told(thyroid)


def test_merged_with_the_original_it_is_a_dataset(thyroid: Path, tiny_dataset: str, tmp_path: Path) -> None:
    merged = load_dataset(compose([tiny_dataset, thyroid], tmp_path / "O+CA"))
    kinds = Counter(item["origin"]["kind"] for item in merged.splits["training"])
    assert kinds == {"simulated": 38, "augmented": 48}
    # Nothing is copied twice.
    again = augment(merged.root, tmp_path / "CA", copies=2, progress=False)
    assert len(load_dataset(again).splits["training"]) == 2 * 38


def test_a_flip_mirrors_picture_and_mask_and_nothing_else(gland: np.ndarray, tmp_path: Path) -> None:
    mask = (gland > 100) * 3
    dataset = make(tmp_path / "O", gland, mask=mask)
    for flip in (0.0, 1.0):
        item = copied(dataset, tmp_path / f"CA{flip}", geometry=STILL | {"flip": flip})
        picture, moved = (read_scintigram(item[key]).counts for key in ("image", "mask"))
        assert np.array_equal(picture, gland[..., ::-1] if flip else gland)
        assert np.array_equal(moved, mask[..., ::-1] if flip else mask)


def test_mask_stays_on_its_structure_and_keeps_its_numbers(gland: np.ndarray, tmp_path: Path) -> None:
    dataset = make(tmp_path / "O", gland, mask=(gland > 100) * 3, spacing_mm=(2.0, 3.0))
    for seed in range(4):
        item = copied(dataset, tmp_path / f"CA{seed}", seed=seed)
        bright, mask = read_scintigram(item["image"]).counts > 200, read_scintigram(item["mask"]).counts
        assert set(np.unique(mask)) == {0, 3}
        assert (bright & (mask > 0)).sum() > 0.8 * (bright | (mask > 0)).sum()


def test_rotation_keeps_angles_where_pixels_are_not_square(tmp_path: Path) -> None:
    """A square of 40 mm in pixels of 1 x 2 mm stays one: its spread along both axes of the turned square is alike."""
    counts = np.zeros((1, 96, 48), np.uint16)
    counts[0, 28:68, 14:34] = 1000
    geometry = STILL | {"rotate_deg": 45.0}
    item = copied(make(tmp_path / "O", counts, spacing_mm=(1.0, 2.0)), tmp_path / "CA", geometry=geometry)
    turned = read_scintigram(item["image"]).counts[0]
    places = np.argwhere(turned > 500) * [1.0, 2.0]
    spread = np.cov(places.T)
    assert abs(item["origin"]["settings"]["rotate_deg"]) > 5
    assert np.linalg.eigvalsh(spread) == pytest.approx([40**2 / 12] * 2, rel=0.05)


@pytest.mark.parametrize("level", [0.3, 2.0, 50.0])
def test_counts_are_kept_whatever_the_size_and_however_faint(level: float, tmp_path: Path) -> None:
    counts = np.zeros((1, 128, 128), np.uint16)
    counts[0, 30:98, 30:98] = np.random.default_rng(0).poisson(level, (68, 68))
    dataset = make(tmp_path / "O", counts)
    for seed in range(3):
        item = copied(dataset, tmp_path / f"CA{seed}", geometry={"scale": 0.3}, seed=seed)
        assert abs(item["origin"]["settings"]["scale"] - 1) > 0.02
        copy = read_scintigram(item["image"]).counts
        assert copy.sum() == pytest.approx(counts.sum(), abs=4 * np.sqrt(counts.sum()) + 1)


def test_full_pictures_are_scaled_rather_than_cut_off(tmp_path: Path) -> None:
    ramp = np.linspace(20_000, 65_535, 64 * 64).reshape(1, 64, 64).astype(np.uint16)
    item = copied(make(tmp_path / "O", ramp), tmp_path / "CA", geometry=STILL | {"scale": 0.4}, seed=6)
    assert item["origin"]["settings"]["scale"] < 0.95  # smaller and so brighter
    counts = read_scintigram(item["image"]).counts
    assert counts.max() <= 65_535
    assert (counts > 65_000).sum() < 64


def test_whole_body_moves_as_a_patient_and_hardly_turns(tiny_bone_dataset: str, tmp_path: Path) -> None:
    folder = augment(tiny_bone_dataset, tmp_path / "CA", per_class=2, progress=False, geometry={"flip": 0.0})
    sources = {item["id"]: item for item in load_datalist(tiny_bone_dataset, "training")}
    items = load_datalist(folder, "training")
    assert Counter(str(item["label"]) for item in items) == dict.fromkeys(["[0, 0]", "[0, 1]", "[1, 0]", "[1, 1]"], 2)
    assert max(abs(item["origin"]["settings"]["rotate_deg"]) for item in items) <= 3
    for item in items:
        copy, before = (read_scintigram(path) for path in (item["image"], sources[item["origin"]["source"]]["image"]))
        assert (copy.image_type, copy.views) == ("WHOLE BODY", ("ANT", "POST"))
        columns = np.arange(copy.counts.shape[2])
        anterior, posterior = (
            (after.sum(axis=0) * columns).sum() / after.sum() - (view.sum(axis=0) * columns).sum() / view.sum()
            for after, view in zip(copy.counts, before.counts, strict=True)
        )
        assert anterior == pytest.approx(-posterior, abs=1.5)
        if abs(item["origin"]["settings"]["shift"][0]) > 0.01:
            assert abs(anterior) > 1
    turned = augment(tiny_bone_dataset, tmp_path / "turned", per_class=1, progress=False, geometry={"rotate_deg": 90})
    assert max(abs(item["origin"]["settings"]["rotate_deg"]) for item in load_datalist(turned, "training")) > 3


def test_posterior_view_moves_the_other_way_wherever_it_stands(gland: np.ndarray, tmp_path: Path) -> None:
    patient = np.concatenate([gland[..., ::-1], gland])
    dataset = make(tmp_path / "O", patient, views=("POST", "ANT"), mask=patient > 100)
    item = copied(dataset, tmp_path / "CA", geometry=STILL | {"shift": 0.2})
    picture, mask = (read_scintigram(item[key]) for key in ("image", "mask"))
    assert picture.views == mask.views == ("POST", "ANT")
    assert not np.array_equal(mask.counts[1], patient[1] > 100)
    assert np.array_equal(mask.counts[0], mask.counts[1, :, ::-1])


def test_mirrored_oblique_view_is_that_of_the_other_side(gland: np.ndarray, tmp_path: Path) -> None:
    dataset = make(tmp_path / "O", np.concatenate([gland, gland]), views=("ANT", "LAO"), mask=np.repeat(gland, 2, 0))
    item = copied(dataset, tmp_path / "CA", geometry={"flip": 1.0})
    assert read_scintigram(item["image"]).views == read_scintigram(item["mask"]).views == ("ANT", "RAO")


def test_left_and_right_change_places_in_a_simulated_prompt(tiny_dataset: str, tmp_path: Path) -> None:
    prompts = {item["id"]: item["prompt"] for item in load_datalist(tiny_dataset, "training")}
    for flip in (0, 1):
        folder = augment(tiny_dataset, tmp_path / f"CA{flip}", progress=False, geometry={"flip": flip})
        for item in load_datalist(folder, "training"):
            before = prompts[item["origin"]["source"]]
            assert item["origin"]["settings"]["flip"] is bool(flip)
            assert item["prompt"] == (mirrored_prompt(before) if flip else before)


def test_users_prompt_is_left_out_of_a_mirrored_copy(gland: np.ndarray, tmp_path: Path) -> None:
    dataset = make(tmp_path / "O", gland, prompt="heißer Knoten rechts, the isotope has left the gland")
    assert "prompt" not in copied(dataset, tmp_path / "mirrored", geometry={"flip": 1})
    assert copied(dataset, tmp_path / "straight", geometry={"flip": 0})["prompt"].startswith("heißer Knoten rechts")


@pytest.mark.parametrize("suffix", [".nii.gz", ".png"])
def test_other_formats_become_dicom(suffix: str, gland: np.ndarray, tmp_path: Path) -> None:
    item = copied(make(tmp_path / "O", gland, suffix), tmp_path / "CA")
    assert item["image"].endswith(".dcm")
    assert read_scintigram(item["image"]).spacing_mm == pytest.approx((2.0, 2.0), abs=0.01)


def test_stopped_run_goes_on_to_the_same_bytes_with_any_number_of_workers(
    tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = augment(tiny_dataset, tmp_path / "whole", copies=1, workers=4, progress=False)
    calls = []

    def stop(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) > 9:
            raise ImageWriteError("no space left")
        write_scintigram(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(augmenting, "write_scintigram", stop)
        with pytest.raises(ImageWriteError):
            augment(tiny_dataset, tmp_path / "stopped", copies=1, workers=1, progress=False)
    assert not (tmp_path / "stopped" / "dataset.json").exists()
    assert len(contents(tmp_path / "stopped")) == 1 + 9
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").rglob("*.dcm")}
    stopped = augment(tiny_dataset, tmp_path / "stopped", copies=1, workers=1, progress=False)
    assert contents(stopped) == contents(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "a finished file was written again"
    with pytest.raises(DatasetError, match="made with other settings"):
        augment(tiny_dataset, stopped, copies=1, seed=1, progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"per_class": 3, "copies": 2}, "give one of them"),
        ({"copies": 0}, "copies is 0; give a whole number from 1"),
        ({"per_class": 2.5}, "per_class is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
        ({"geometry": {"flipp": 1}}, "no 'flipp', did you mean 'flip'"),
        ({"geometry": {"shift": 3}}, "shift is 3; give a number from 0 to 0.5"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    options: dict[str, Any], words: str, tiny_dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        augment(tiny_dataset, tmp_path / "CA", **options)
    assert not (tmp_path / "CA").exists()


def test_scintigrams_that_cannot_be_copied_are_named(gland: np.ndarray, tmp_path: Path) -> None:
    def refused(words: str, counts: Any, suffix: str = ".nii.gz", **options: Any) -> None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(DatasetError, match=words):
            augment(make(folder / "O", counts, suffix, **options), folder / "CA", progress=False)

    refused(r"A_1.nii.gz holds fractions up to 0.8\d*; copies are whole counts", gland / 500)
    refused("A_1.nii.gz holds no counts", gland * 0)
    three = {"counts": [*gland] * 3, "views": ("ANT", "POST", "LAO")}
    refused(r"is \(2, 64, 48\), its image \(3, 64, 48\)", mask=[*gland] * 2, mask_views=("ANT", "POST"), **three)
    refused("A_1.nii.gz is of the posterior view alone", mask=gland, mask_views=("POST",), **three)


def test_unknown_spacing_says_what_to_do(gland: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    dataset = make(tmp_path / "O", gland, ".png")
    Image.fromarray(gland[0]).save(dataset / "images/A_1.png")
    with pytest.raises(DatasetError, match=r"A_1.png does not state its pixel spacing.*--assumed_spacing_mm"):
        augment(dataset, tmp_path / "CA", progress=False)


def test_there_must_be_something_real_to_copy(thyroid: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no training item is acquired or simulated"):
        augment(thyroid, tmp_path / "CA")
