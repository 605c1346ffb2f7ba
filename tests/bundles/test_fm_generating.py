"""fm_generator writes synthetic datasets: the same bytes however the work is divided, and clear errors."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import Dataset

import scintikit.files
from scintikit.bundles import enter
from scintikit.data import DatasetWriter, compose, load_dataset
from scintikit.dicom import read_scintigram, write_scintigram
from scintikit.engines.calibration import load_weights
from scintikit.errors import ConfigError, DatasetError, ScintikitError
from scintikit.files import file_sha256
from scintikit.generation import CameraFields, QualityGate, measure_training
from scintikit.generation.quality import picture_statistics
from scintikit.generation.statistics import patient_hash
from tools.run import BUNDLES, run

CONFIGS = BUNDLES / "fm_generator" / "configs"
SMALL: dict[str, Any] = {
    "image_size": [64, 64],
    "spacing_mm": 4.8,
    "network_def#channels": [32, 32],
    "network_def#attention_levels": [False, False],
}
RUN: dict[str, Any] = {**SMALL, "per_class": 6, "batch_size": 5, "steps": 2, "devices": 1}


def _parser(folder: Path, dataset: str, **items: Any) -> ConfigParser:
    enter(CONFIGS.parent)
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "inference.json"))
    parser.update({"dataset_dir": dataset, "ckpt_dir": str(folder)} | RUN | items)
    return parser


def _untrained(folder: Path, dataset: str, **items: Any) -> Path:
    """Make `model.pt` with random weights, and its `generation.pt` with limits that nothing exceeds."""
    parser = _parser(folder, dataset, **items)
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    for weight in network.parameters():  # a new UNet ends in zeros and would ignore class and mask
        weight.data += 0.02 * torch.randn_like(weight)
    folder.mkdir(exist_ok=True)
    torch.save(network.state_dict(), folder / "model.pt")
    items_of = parser.get_parsed_content("dataset#data")
    settings = parser.get_parsed_content("settings")
    fields = CameraFields(items_of, settings["views"])
    parser["fields"] = fields
    measure_training(str(folder), Dataset(items_of, parser.get_parsed_content("preprocessing")), settings, fields)
    _change(folder, gate={}, diversity=dict.fromkeys(_content(folder)["diversity"], 1e-09))
    return folder


def _content(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "generation.pt", weights_only=True)


def _change(folder: Path, **entries: Any) -> None:
    torch.save(_content(folder) | entries, folder / "generation.pt")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def model(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _untrained(tmp_path_factory.mktemp("generator"), tiny_dataset)


@pytest.fixture
def generate(tiny_dataset: str, model: Path) -> Callable[..., Path]:
    """Generate into a folder and return it."""

    def generate(folder: Path, **options: Any) -> Path:
        settings = {"dataset_dir": tiny_dataset, "ckpt_dir": str(model), "output_dir": str(folder)} | RUN | options
        run("fm_generator", "generating", **settings)
        return folder

    return generate


@pytest.fixture(scope="module")
def made(tiny_dataset: str, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic dataset made by one process in one go."""
    folder = tmp_path_factory.mktemp("made") / "synthetic"
    run("fm_generator", "generating", dataset_dir=tiny_dataset, ckpt_dir=str(model), output_dir=str(folder), **RUN)
    return folder


def test_dataset_keeps_the_contract(made: Path, tiny_dataset: str, tmp_path: Path) -> None:
    dataset, original = load_dataset(made), load_dataset(tiny_dataset)
    items = dataset.splits["training"]
    sources = {Path(item["image"]).stem: item for item in original.splits["training"]}
    assert Counter(item["label"] for item in items) == {0: 6, 1: 6, 2: 6, 3: 6}
    assert not dataset.splits["validation"]
    assert not dataset.splits["test"]
    assert "ynthetic" in dataset.description
    assert dataset.licence == original.licence
    for item in items:
        source = sources[item["origin"]["source"]]
        assert item["origin"]["kind"] == "fm"
        assert all(item[key] == source[key] for key in ("label", "centre", "patient"))
        picture, lent = read_scintigram(made / item["image"]), read_scintigram(original.root / source["image"])
        assert picture.counts.shape == lent.counts.shape
        assert picture.spacing_mm == pytest.approx(lent.spacing_mm)
        assert picture.views == ("ANT",)
        assert picture.synthetic
        mask = read_scintigram(made / item["mask"]).counts
        assert mask.shape == picture.counts.shape
        assert set(np.unique(mask)) <= {0, 1, 2, 3}
    report = json.loads((made / "dataset.json").read_text())["report"]
    assert (report["asked"], report["written"], report["left_out"]) == (24, 24, {})
    assert sorted(path.name for path in made.iterdir()) == ["dataset.json", "images", "masks", "recipe.json"]
    merged = load_dataset(compose([tiny_dataset, made], tmp_path / "merged"))
    assert len(merged.splits["training"]) == len(original.splits["training"]) + 24


def test_files_are_nm_objects_of_nobody(made: Path) -> None:
    uids = set()
    for path in (made / "images").iterdir():
        header = pydicom.dcmread(path)
        assert header.SyntheticData == "YES"
        assert header.ImageType[0] == "DERIVED"
        assert not header.PatientName
        assert not header.PatientID
        uids.add(header.SOPInstanceUID)
    assert len(uids) == 24


def test_origin_tells_how_to_repeat_it(made: Path, model: Path) -> None:
    item = load_dataset(made).splits["training"][7]
    origin = item["origin"]
    assert origin["generator"] == file_sha256(model / "model.pt")
    assert origin["seed"] == 0
    settings = origin["settings"]
    assert (settings["index"], settings["redraws"], settings["steps"], settings["solver"]) == (7, 0, 2, "euler")
    assert settings["count_level"] in _content(model)["levels"][str(item["label"])][item["centre"]]
    assert set(settings["deformation"]) == {"rotation_deg", "scale", "shift_mm", "waves"}


@pytest.mark.parametrize("devices", [2, 3])
def test_several_processes_write_the_same_bytes(
    devices: int, generate: Callable[..., Path], made: Path, tmp_path: Path
) -> None:
    assert _files(generate(tmp_path / "again", devices=devices)) == _files(made)


def test_shards_in_any_order_write_the_same_bytes(generate: Callable[..., Path], made: Path, tmp_path: Path) -> None:
    for shard in (2, 0, 1):
        folder = generate(tmp_path / "again", shard=shard, shards=3)
        assert (folder / "dataset.json").exists() == (shard == 1)
    assert _files(folder) == _files(made)


def test_two_shards_that_finish_at_once_leave_one_whole_dataset(
    generate: Callable[..., Path], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fsync, overtaken = generate(tmp_path / "D", shard=1, shards=2), os.fsync, []

    def overtake(handle: int) -> None:
        """While one shard writes dataset.json the other one starts, finishes and clears up."""
        fsync(handle)
        if not overtaken and list(folder.glob(".dataset.json.*.tmp")):
            overtaken.append(True)
            generate(folder, shard=1, shards=2)
            assert _files(folder) == _files(made)

    monkeypatch.setattr(scintikit.files.os, "fsync", overtake)
    generate(folder, shard=0, shards=2)
    assert overtaken
    assert _files(folder) == _files(made)


def test_dataset_json_that_cannot_be_written_is_no_finished_dataset(
    generate: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(writer: DatasetWriter, **content: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(DatasetWriter, "finish", gone)
    with pytest.raises(ScintikitError, match="cannot write"):
        generate(tmp_path / "D", per_class=1)


def test_number_of_threads_does_not_change_a_byte(generate: Callable[..., Path], made: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert _files(generate(tmp_path / "again", devices=1)) == _files(made)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shards", [1, 2])
def test_what_a_run_killed_at_its_end_left_behind_is_cleared(
    shards: int, generate: Callable[..., Path], tmp_path: Path
) -> None:
    folder = generate(tmp_path / "D", per_class=1)
    before = _files(folder)
    (folder / "batches").mkdir()
    (folder / "batches" / "000000.json").write_text("{}")
    (folder / ".dataset.json.xyz.tmp").write_text("{")
    assert _files(generate(folder, per_class=1, shards=shards)) == before


def test_finished_dataset_is_left_alone(generate: Callable[..., Path], tmp_path: Path) -> None:
    folder = generate(tmp_path / "D", per_class=2)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    generate(folder, per_class=2)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


@pytest.mark.parametrize("devices", [1, 2])
def test_full_disk_is_explained_and_the_run_goes_on(
    devices: int, generate: Callable[..., Path], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(scintikit.files.os, "fsync", full)
        with pytest.raises(ScintikitError, match=r"No space left.*run the same command again"):
            generate(tmp_path / "D", devices=devices)
    # Of two processes the other one is ended wherever it was; the next run clears what it left half-written.
    before = {name: content for name, content in _files(tmp_path / "D").items() if not name.endswith(".tmp")}
    assert before.keys() < _files(made).keys() | {f"batches/{k:06d}.json" for k in range(5)}
    assert all(content == _files(made)[name] for name, content in before.items() if not name.startswith("batches"))
    assert _files(generate(tmp_path / "D", devices=devices)) == _files(made)


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_bytes(
    generate: Callable[..., Path], tiny_dataset: str, model: Path, tmp_path: Path
) -> None:
    options = RUN | {"per_class": 20, "devices": 2, "dataset_dir": tiny_dataset, "ckpt_dir": str(model)}
    command = [sys.executable, "-m", "tools", "run", "fm_generator", "generating", "--output_dir", str(tmp_path / "D")]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    with subprocess.Popen(command, cwd=BUNDLES.parent, start_new_session=True) as process:
        while process.poll() is None and len(list((tmp_path / "D" / "batches").glob("0*.json"))) < 3:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "D" / "dataset.json").exists()
    assert _files(generate(tmp_path / "D", per_class=20)) == _files(generate(tmp_path / "E", per_class=20))


def test_a_model_that_knows_a_centre_of_the_external_test_is_refused(
    generate: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    levels = _content(folder)["levels"]
    next(iter(levels.values()))["F"] = [50.0]
    _change(folder, levels=levels)
    with pytest.raises(DatasetError, match=r"trained on scintigrams of centre F, which .* keeps for the external test"):
        generate(tmp_path / "D", ckpt_dir=str(folder))
    assert not (tmp_path / "D").exists()


def test_a_model_that_knows_a_held_out_patient_is_refused(
    generate: Callable[..., Path], model: Path, tiny_dataset: str, tmp_path: Path
) -> None:
    splits = load_dataset(tiny_dataset).splits
    known = _content(model)["patients"]
    assert sorted({patient_hash(item["patient"]) for item in splits["training"]}) == known
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    _change(folder, patients=[*known, patient_hash(splits["validation"][0]["patient"])])
    with pytest.raises(DatasetError, match=r"was trained on 1 patients whom .* keeps for validation or test"):
        generate(tmp_path / "D", ckpt_dir=str(folder))
    assert not (tmp_path / "D").exists()


def test_broken_process_ends_the_others_and_says_why(
    generate: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise DatasetError("the second process has no luck")

    monkeypatch.setattr("scintikit.generation.writing.grain", broken)
    with pytest.raises(ScintikitError, match=r"process \d on cpu: the second process has no luck"):
        generate(tmp_path / "D", devices=2)
    monkeypatch.setattr("scintikit.generation.writing.grain", lambda *a: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ScintikitError, match=r"SIGKILL.*Run the same command again"):
        generate(tmp_path / "D", devices=2)


def test_every_setting_makes_other_pictures(generate: Callable[..., Path], tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"steps": 3},
        {"solver": "heun"},
        {"guidance": 2.0},
        {"mask_variation": 0.5},
        {"use_masks": False},
    ]
    pictures, names = set(), set()
    for number, change in enumerate(changes):
        dataset = load_dataset(generate(tmp_path / str(number), per_class=1, **change))
        item = dataset.splits["training"][0]
        pictures.add(read_scintigram(dataset.root / item["image"]).counts.tobytes())
        names.add(item["image"])
        assert ("mask" in item) == change.get("use_masks", True)
    assert len(pictures) == len(names) == len(changes)


def test_formats_hold_the_same_counts(generate: Callable[..., Path], made: Path, tmp_path: Path) -> None:
    items = load_dataset(made).splits["training"]
    for suffix in ("nii.gz", "png"):
        folder = generate(tmp_path / suffix, format=suffix)
        for item, other in zip(items, load_dataset(folder).splits["training"], strict=True):
            assert other["image"].endswith(suffix)
            a, b = read_scintigram(made / item["image"]), read_scintigram(folder / other["image"])
            np.testing.assert_array_equal(a.counts, b.counts)
            assert b.synthetic
            assert b.spacing_mm == pytest.approx(a.spacing_mm)


def test_masks_without_variation_are_those_of_the_sources(
    generate: Callable[..., Path], made: Path, tiny_dataset: str, tmp_path: Path
) -> None:
    still = generate(tmp_path / "still", mask_variation=0)
    overlap = {}
    for folder in (still, made):
        same = []
        for item in load_dataset(folder).splits["training"]:
            source = item["origin"]["source"]
            mask = read_scintigram(folder / item["mask"]).counts > 0
            lent = read_scintigram(Path(tiny_dataset) / "masks" / f"{source}.nii.gz").counts > 0
            same.append(2 * (mask & lent).sum() / (mask.sum() + lent.sum()))
            assert (item["origin"]["settings"]["deformation"] is None) == (folder == still)
        overlap[folder] = np.mean(same)
    assert overlap[still] > 0.95  # 4.8 mm pixels and back
    assert 0.6 < overlap[made] < overlap[still] - 0.05


def test_implausible_pictures_are_drawn_again_then_left_out(
    generate: Callable[..., Path], tiny_dataset: str, tmp_path: Path
) -> None:
    folder = _untrained(tmp_path / "model", tiny_dataset)
    drawn = _drawn(_parser(folder, tiny_dataset, batch_size=40, per_class=10, steps=1))
    _change(folder, gate={"mean uptake": [drawn["mean uptake"].median().item(), 1e3]})
    made = generate(tmp_path / "D", ckpt_dir=str(folder), per_class=8, steps=1)
    content = json.loads((made / "dataset.json").read_text())
    items, report = content["training"], content["report"]
    assert report["asked"] == 32
    assert report["written"] == len(items) < 32
    assert report["left_out"] == {"mean uptake too low": 32 - len(items)}
    redraws = [item["origin"]["settings"]["redraws"] for item in items]
    assert sum(redraws) > 0
    assert max(redraws) <= 3
    assert report["redrawn"] == {"mean uptake too low": sum(redraws) + 3 * (32 - len(items))}
    assert _files(generate(tmp_path / "E", ckpt_dir=str(folder), per_class=8, steps=1, devices=2)) == _files(made)


def _drawn(parser: ConfigParser) -> dict[str, torch.Tensor]:
    """Return the statistics of the first batch of pictures."""
    network, sampler = parser.get_parsed_content("network_def").eval(), parser.get_parsed_content("sampler")
    load_weights(network, parser.get_parsed_content("ckpt_dir") + "/model.pt")
    batch = parser.get_parsed_content("dataset")[0]
    with torch.no_grad():
        pictures = sampler(batch["image"], network, **batch["conditions"])
    return picture_statistics(pictures, batch["conditions"]["mask"])


def test_generator_without_a_plausible_picture_stops(
    generate: Callable[..., Path], tiny_dataset: str, tmp_path: Path
) -> None:
    folder = _untrained(tmp_path / "model", tiny_dataset)
    _change(folder, gate={"brightest": [1e3, 2e3]})
    with pytest.raises(ScintikitError, match=r"none of 10 pictures is plausible.*10 empty.*train the generator longer"):
        generate(tmp_path / "D", ckpt_dir=str(folder), batch_size=10)
    assert not (tmp_path / "D" / "images").exists()
    assert (generate(tmp_path / "D", per_class=1) / "dataset.json").is_file()  # with a better model


def test_class_without_a_plausible_picture_stops(
    generate: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QualityGate, "__call__", lambda gate, pictures, mask: ["odd", "", "", ""])
    with pytest.raises(ScintikitError, match=r"no plausible picture of label 0 was drawn .*'odd': 1"):
        generate(tmp_path / "D", batch_size=4, per_class=1)
    assert not (tmp_path / "D" / "dataset.json").exists()


@pytest.mark.parametrize("batch_size", [16, 3])  # seen in the first batch, or only in all of them together
def test_generator_that_draws_one_picture_stops(
    batch_size: int, generate: Callable[..., Path], tiny_dataset: str, tmp_path: Path
) -> None:
    folder = _untrained(tmp_path / "model", tiny_dataset)
    _change(folder, diversity={str(label): 100.0 for label in range(4)})
    for _ in range(2):  # and again when it is started again
        with pytest.raises(ScintikitError, match=r"label 0 differ from each other by only .*less than 15%"):
            generate(tmp_path / "D", ckpt_dir=str(folder), batch_size=batch_size, per_class=16)
    assert not (tmp_path / "D" / "dataset.json").exists()


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"ckpt_dir": "nowhere"}, ConfigError, "there is no trained model .*run `training` first"),
    ({"network_def#channels": [32, 64]}, ConfigError, "(?s)does not fit network_def.*size mismatch"),
    ({"mask_labels": 2}, ConfigError, "was trained with mask_labels 3"),
    ({"spacing_mm": 2.4}, ConfigError, "was trained with spacing_mm 4.8, but spacing_mm is 2.4 here"),
    ({"solver": "eulr"}, ConfigError, "did you mean 'euler'"),
    ({"steps": 0}, ConfigError, "steps is 0"),
    ({"per_class": 0}, ConfigError, "per_class is 0"),
    ({"only": "Normal"}, ConfigError, "only is 'Normal', did you mean 'normal'"),
    ({"mask_variation": -1}, ConfigError, "mask_variation is -1"),
    ({"format": "jpg"}, ConfigError, "format is 'jpg'; expected one of dcm, nii.gz, png"),
    ({"shard": 2, "shards": 2}, ConfigError, "shard is 2 of 2"),
    ({"devices": 0}, ConfigError, "devices is empty"),
    ({"devices": ["cuda:77"]}, ConfigError, "this machine has"),
    ({"devices": ["gpu"]}, ConfigError, "expected names such as"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_what_is_wrong_is_said_before_anything_is_written(
    change: dict[str, Any], error: type[Exception], message: str, generate: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        generate(tmp_path / "D", **change)
    assert not (tmp_path / "D").exists()


def test_statistics_of_another_model_are_refused(generate: Callable[..., Path], model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes((model / "model.pt").read_bytes() + b" ")
    with pytest.raises(ConfigError, match=r"there is no .*generation\.pt"):
        generate(tmp_path / "D", ckpt_dir=str(tmp_path))
    (tmp_path / "generation.pt").write_bytes((model / "generation.pt").read_bytes())
    with pytest.raises(ConfigError, match=r"measured for another model\.pt"):
        generate(tmp_path / "D", ckpt_dir=str(tmp_path))
    assert not (tmp_path / "D").exists()


def test_folder_of_another_run_is_refused(generate: Callable[..., Path], made: Path, tmp_path: Path) -> None:
    before = _files(made)
    with pytest.raises(DatasetError, match="other settings"):
        generate(made, seed=1)
    assert _files(made) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not begun by this command"):
        generate(tmp_path)


def _two_views(folder: Path, *, masks: bool) -> str:
    """Make a dataset of anterior and posterior pictures with two diseases each, or none."""
    writer = DatasetWriter(folder, name="bone", description="", labels=["a", "b"], licence="CC0-1.0", recipe={})
    rng = np.random.default_rng(0)
    items = {"training": [], "validation": []}
    for number in range(12):
        counts = rng.poisson(5 + 200 * np.exp(-(((np.arange(96) - 40) / 9) ** 2)), (2, 96, 96)).astype(np.uint16)
        split, name = "validation" if number > 8 else "training", f"B_{number}"
        item = {
            "image": f"images/{name}.dcm",
            "label": [int(number % 3 == 0), int(number % 3 == 1)],
            "patient": name,
            "centre": "B",
            "origin": {"kind": "simulated"},
        }
        shared: dict[str, Any] = {"spacing_mm": (3.0, 3.0), "views": ("ANT", "POST"), "uid_seed": name}
        write_scintigram(folder / item["image"], counts, **shared)
        if masks:
            item["mask"] = f"masks/{name}.nii.gz"
            write_scintigram(folder / str(item["mask"]), (counts > 60).astype(np.uint8), **shared)
        items[split].append(item)
    writer.finish(**items)
    return str(folder)


def test_two_views_and_label_vectors(generate: Callable[..., Path], tmp_path: Path) -> None:
    options = {"views": ["ANT", "POST"], "mask_labels": 1, "dataset_dir": _two_views(tmp_path / "bone", masks=True)}
    folder = _untrained(tmp_path / "model", options["dataset_dir"], **options)
    dataset = load_dataset(
        generate(tmp_path / "D", ckpt_dir=str(folder), per_class=3, body_part="WHOLEBODY", **options)
    )
    labels = Counter(tuple(item["label"]) for item in dataset.splits["training"])
    assert labels == {(0, 0): 3, (0, 1): 3, (1, 0): 3}
    item = dataset.splits["training"][0]
    assert read_scintigram(dataset.root / item["image"]).views == ("ANT", "POST")
    assert read_scintigram(dataset.root / item["mask"]).counts.shape == (2, 96, 96)
    with pytest.raises(ConfigError, match="PNG holds one view"):
        generate(tmp_path / "E", ckpt_dir=str(folder), format="png", **options)
    assert not (tmp_path / "E").exists()


def test_model_with_masks_needs_masks(generate: Callable[..., Path], tmp_path: Path) -> None:
    options = {"views": ["ANT", "POST"], "mask_labels": 1}
    folder = _untrained(tmp_path / "model", _two_views(tmp_path / "with", masks=True), **options)
    options |= {"dataset_dir": _two_views(tmp_path / "without", masks=False), "ckpt_dir": str(folder)}
    with pytest.raises(DatasetError, match="no training item has a mask"):
        generate(tmp_path / "D", **options)
    assert not (tmp_path / "D").exists()


def test_samples_do_not_depend_on_their_batch(model: Path, tiny_dataset: str) -> None:
    """Bit for bit: what else is in a batch, and where, is no matter. Its size is, and so it is fixed."""
    parser = _parser(model, tiny_dataset, batch_size=8, per_class=8)
    network, sampler = parser.get_parsed_content("network_def").eval(), parser.get_parsed_content("sampler")
    load_weights(network, model / "model.pt")
    first, second = (parser.get_parsed_content("dataset")[number] for number in (0, 1))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    first, second = ({"inputs": batch["image"], **batch["conditions"]} for batch in (first, second))
    mixed = {key: torch.cat([first[key][:4], second[key][4:]])[order] for key in first}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        a, b, c = (sampler(network=network, **values) for values in (first, second, mixed))
    torch.set_num_threads(threads)
    assert torch.equal(torch.cat([a[:4], b[4:]])[order], c)
    assert not torch.equal(a, b)


def test_config_has_every_property_without_a_model(tiny_dataset: str, tmp_path: Path) -> None:
    enter(CONFIGS.parent)
    workflow = ConfigWorkflow(
        str(CONFIGS / "inference.json"), workflow_type="infer", dataset_dir=tiny_dataset, output_dir=str(tmp_path / "D")
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert not (tmp_path / "D").exists()


def test_training_and_generation_prepare_images_alike() -> None:
    train, generation = (ConfigParser(), ConfigParser())
    train.read_config(str(CONFIGS / "train.json"))
    generation.read_config(str(CONFIGS / "inference.json"))
    for item in ("preprocessing", "network_def", "views", "spacing_mm", "image_size", "mask_labels", "settings"):
        assert train[item] == generation[item], item
    assert train["train#dataset#data"] == generation["dataset#data"]
