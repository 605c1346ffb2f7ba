"""`tools audit`: planted copies are found, told and dropped; nothing else is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from scintikit.data import DatasetWriter, compose, load_datalist, load_dataset
from scintikit.dicom import read_scintigram, write_scintigram
from scintikit.errors import ConfigError, DatasetError
from scintikit.metrics.memorisation import TrainingPictures
from scintikit.phantoms import CLASSES, simulated_dataset
from tools import audit as module
from tools.audit import audit, drop_items

RECIPE = {"command": "generate", "seed": 0}
QUANTILE = 0.98  # ten held-out pictures cannot tell what one in a thousand would be like


def write_copy(source: str, target: Path, rng: np.random.Generator) -> None:
    """Write a training scintigram with fresh Poisson noise, shifted up to 7 mm and, every other time, mirrored."""
    original = read_scintigram(source)
    assert original.spacing_mm is not None
    counts = rng.poisson(original.counts[0]).astype(np.float32)
    reach = int(7 / original.spacing_mm[0])
    counts = np.roll(counts[:, :: rng.choice([-1, 1])], rng.integers(-reach, reach + 1, 2), (0, 1))
    write_scintigram(
        target,
        np.ascontiguousarray(counts)[None],
        spacing_mm=original.spacing_mm,
        views=("ANT",),
        uid_seed=target.name,
        acquisition_s=300.0,
        body_part="THYROID",
        description="test",
    )


def write_synthetic(
    folder: Path, training: list[dict[str, Any]], others: list[dict[str, Any]], copies: int, kind: str = "fm"
) -> DatasetWriter:
    """Write a synthetic dataset: first copies of training scintigrams, then scintigrams of other patients."""
    rng = np.random.default_rng(0)
    writer = synthetic_writer(folder)
    chosen = [training[number] for number in rng.choice(len(training), copies, replace=False)]
    items = []
    for number, source in enumerate([*chosen, *others]):
        name = f"fm_{number:04d}"
        image, mask = f"images/{name}.dcm", f"masks/{name}.nii.gz"
        for path in (image, mask):
            (folder / path).parent.mkdir(exist_ok=True)
        if number < copies:
            write_copy(source["image"], folder / image, rng)
        else:
            shutil.copy(source["image"], folder / image)
        shutil.copy(source["mask"], folder / mask)
        drawn_from = chosen[0]["id"] if number < 2 else training[number % len(training)]["id"]
        origin = {"kind": kind, "seed": 0, "source": drawn_from}
        items.append(
            {"image": image, "mask": mask, "label": source["label"], "patient": name, "centre": "A", "origin": origin}
        )
    writer.finish(training=items, report={"asked": len(items)})
    return writer


def synthetic_writer(folder: Path) -> DatasetWriter:
    return DatasetWriter(folder, name="made", description="", labels=CLASSES, licence="CC0-1.0", recipe=RECIPE)


@pytest.fixture(scope="module")
def made(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four copies of training scintigrams and twelve of other patients."""
    folder = tmp_path_factory.mktemp("audit") / "made"
    others = load_datalist(simulated_dataset("tiny", 1), "training")[:12]
    write_synthetic(folder, load_datalist(tiny_dataset, "training"), others, copies=4)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "made"))


@pytest.fixture(scope="module")
def audited(tiny_dataset: str, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    audit(tiny_dataset, str(made), quantile=QUANTILE, output=str(folder))
    return folder


COPIES = ["fm_0000", "fm_0001", "fm_0002", "fm_0003"]


def test_copies_are_flagged_and_other_patients_are_not(audited: Path) -> None:
    numbers = json.loads((audited / "audit.json").read_text())
    assert sorted(numbers["flagged_items"]) == COPIES
    assert (numbers["flagged"], numbers["synthetic"], numbers["held_out"]) == (4, 16, 10)
    assert numbers["flagged_by"]["ratio"] == 4
    assert numbers["expected_false_alarms"] == pytest.approx(0.32)
    assert "only 10 held-out" in numbers["warnings"][0]


def test_numbers_say_what_was_compared_and_how(audited: Path, tiny_dataset: str, made: Path) -> None:
    numbers = json.loads((audited / "audit.json").read_text())
    told = numbers["provenance"]
    assert told["training"]["sha256"] == load_dataset(tiny_dataset).sha256
    assert (told["training"]["split"], told["training"]["items"]) == ("training", 38)
    assert (told["held_out"]["split"], told["held_out"]["items"]) == ("validation", 10)
    assert told["synthetic"]["sha256"] == load_dataset(made).sha256
    assert told["extractor"]["name"] == "random"
    assert len(told["extractor"]["sha256"]) == 64
    assert {"scintikit", "preprocessing"} <= set(told)
    assert numbers["quantile"] == QUANTILE
    assert set(numbers["thresholds"]) == {"distance", "ratio", "feature_distance"}
    ratios = numbers["distributions"]["ratio"]
    assert ratios["synthetic"]["0"] < numbers["thresholds"]["ratio"] < ratios["held_out"]["0"]


def test_table_has_every_synthetic_picture_with_flagged_ones_first(
    audited: Path, made: Path, tiny_dataset: str
) -> None:
    table = pd.read_csv(audited / "audit.csv", keep_default_na=False)
    assert sorted(table["id"]) == sorted(item["id"] for item in load_datalist(made, "training"))
    assert sorted(table["id"][:4]) == COPIES
    assert (table["flagged"] != "").tolist() == [True] * 4 + [False] * 12
    training = {item["id"]: item for item in load_datalist(tiny_dataset, "training")}
    assert set(table["nearest"]) | set(table["nearest_by_features"]) <= set(training)
    # The first was made from the picture that it is said to be drawn from, the second was not.
    by_id = table.set_index("id")
    assert by_id.loc["fm_0000", "nearest"] == by_id.loc["fm_0000", "source"]
    assert by_id["nearest_is_source"][["fm_0000", "fm_0001"]].tolist() == [True, False]
    assert (by_id.loc[COPIES, ["shift_down_mm", "shift_right_mm"]].abs() < 9).all(axis=None)


def test_page_and_summary(
    audited: Path, tiny_dataset: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Does made repeat thyroid-tiny-0?" in (audited / "audit.html").read_text()
    assert len(list((audited / "audit_figures").glob("*.png"))) == 5
    before = load_dataset(made).sha256
    audit(tiny_dataset, str(made), quantile=QUANTILE, output=str(tmp_path / "x" / "one.json"))
    shown = capsys.readouterr().out
    assert "flagged 4 of 16 synthetic scintigrams; expected false alarms: at most 0.3" in shown
    own = pd.read_csv(audited / "audit.csv")["nearest_is_source"].sum()
    assert f"source of the mask: {own} of 16" in shown
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        "one.csv",
        "one.html",
        "one.json",
        "one_figures",
    ]
    assert (tmp_path / "x" / "one.csv").read_bytes() == (audited / "audit.csv").read_bytes()
    assert load_dataset(made).sha256 == before  # nothing is dropped unless asked for


def test_drop_leaves_a_whole_dataset_that_its_maker_takes_for_complete(
    tiny_dataset: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit(tiny_dataset, str(copy), quantile=QUANTILE, drop=True)
    dataset = load_dataset(copy)
    assert [item["id"] for item in load_datalist(copy, "training")] == [f"fm_{number:04d}" for number in range(4, 16)]
    assert len(list(copy.glob("images/*"))) == len(list(copy.glob("masks/*"))) == 12
    content = json.loads((copy / "dataset.json").read_text())
    assert content["report"] == {"asked": 16, "audit": {"audited": 16, "flagged": 4, "dropped": 4}}
    assert synthetic_writer(copy).complete
    assert not (copy / "dropping.json").exists()
    before = dataset.sha256
    audit(tiny_dataset, str(copy), quantile=QUANTILE, drop=True)
    assert "dropped 0 from" in capsys.readouterr().out
    assert load_dataset(copy).sha256 == before


def test_composed_dataset_keeps_what_is_real(tiny_dataset: str, made: Path, tmp_path: Path) -> None:
    whole = compose([tiny_dataset, made], tmp_path / "whole")
    before = len(list(whole.glob("images/*")))
    audit(str(whole), str(whole), quantile=QUANTILE, drop=True)
    items = load_datalist(whole, "training")
    assert len(items) == 38 + 12
    assert not {item["id"] for item in items} & set(COPIES)
    assert len(list(whole.glob("images/*"))) == before - 4
    assert len(list(made.glob("images/*"))) == 16  # hard links: the other dataset has its files


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_dropping_stopped_before_the_manifest_changes_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = (copy / "dataset.json").read_bytes(), module.write_json

    def stop(path: Path, value: Any) -> None:
        if path.name == "dataset.json":
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(module, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        drop_items(copy, ["fm_0000"], {})
    monkeypatch.undo()
    drop_items(copy, [], {})
    assert (copy / "dataset.json").read_bytes() == before
    assert len(list(copy.glob("images/*"))) == 16
    load_dataset(copy)


def test_dropping_stopped_among_the_files_is_finished_by_the_next_run(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, removed = Path.unlink, []

    def stop(path: Path, missing_ok: bool = False) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", stop)
    with pytest.raises(KeyboardInterrupt):
        drop_items(copy, ["fm_0000", "fm_0007"], {"audited": 16})
    monkeypatch.undo()
    assert len(load_dataset(copy).splits["training"]) == 14
    assert len([name for name in files(copy) if "fm_0000" in name or "fm_0007" in name]) == 3
    drop_items(copy, [], {})
    assert not [name for name in files(copy) if "fm_0000" in name or "fm_0007" in name]
    assert not (copy / "dropping.json").exists()
    assert len(files(copy)) == 2 * 14 + 2


def test_dropped_items_are_counted_over_several_audits(copy: Path) -> None:
    drop_items(copy, ["fm_0000"], {"audited": 16, "flagged": 1})
    drop_items(copy, ["fm_0001", "fm_0002"], {"audited": 15, "flagged": 2})
    report = json.loads((copy / "dataset.json").read_text())["report"]
    assert report["audit"] == {"audited": 15, "flagged": 2, "dropped": 3}


def test_a_file_that_another_item_needs_stays(copy: Path) -> None:
    content = json.loads((copy / "dataset.json").read_text())
    content["training"][1]["mask"] = content["training"][0]["mask"]
    (copy / "dataset.json").write_text(json.dumps(content))
    drop_items(copy, ["fm_0000"], {})
    assert (copy / "masks" / "fm_0000.nii.gz").is_file()
    load_dataset(copy)


def test_a_journal_cannot_reach_outside_the_dataset(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    (copy / "dropping.json").write_text(json.dumps(["../precious.txt", str(tmp_path / "precious.txt")]))
    drop_items(copy, [], {})
    assert (tmp_path / "precious.txt").exists()


@pytest.mark.parametrize("names", [["fm_0000", "fm_0001"], [f"fm_{number:04d}" for number in range(16)]])
def test_real_items_and_whole_datasets_are_never_dropped(names: list[str], copy: Path) -> None:
    if len(names) < 16:
        content = json.loads((copy / "dataset.json").read_text())
        content["training"][1]["origin"] = {"kind": "acquired"}
        (copy / "dataset.json").write_text(json.dumps(content))
    before = {name: (copy / name).read_bytes() for name in files(copy)}
    with pytest.raises(DatasetError, match=r"is acquired; only synthetic|all 16 items would be dropped"):
        drop_items(copy, names, {})
    assert {name: (copy / name).read_bytes() for name in files(copy)} == before


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> str:
    content = json.loads((folder / "dataset.json").read_text())
    edit(content)
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder)


def test_bad_input_is_refused_before_any_work(
    tiny_dataset: str, made: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "load_pictures")
    real = Path(shutil.copytree(tiny_dataset, tmp_path / "real"))
    few = change(real, lambda content: content["validation"].clear())
    with pytest.raises(DatasetError, match="has 0 validation items; at least 10"):
        audit(few, str(made))
    with pytest.raises(DatasetError, match="no training item is generated"):
        audit(tiny_dataset, tiny_dataset)
    other = change(copy, lambda content: content["labels"].update({"0": "another"}))
    with pytest.raises(DatasetError, match="classes differ"):
        audit(tiny_dataset, other)
    for quantile in (0.5, 1, True, "high"):
        with pytest.raises(ConfigError, match="--quantile"):
            audit(tiny_dataset, str(made), quantile=quantile)  # type: ignore[arg-type]


def test_augmented_pictures_are_copies_by_design(tiny_dataset: str, copy: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        for item in content["training"]:
            item["origin"]["kind"] = "augmented"

    with pytest.raises(DatasetError, match="no training item is generated"):
        audit(tiny_dataset, change(copy, edit))


def test_a_copy_of_two_views_is_found_wherever_the_patient_lies() -> None:
    """On the table to the right is right in the anterior view and left in the posterior one."""
    rng, views = np.random.default_rng(0), ("ANT", "POST")
    pictures = gaussian_filter(rng.random((6, 2, 128, 32)), (0, 0, 3, 2)).astype(np.float32)
    pictures = (pictures - pictures.min()) / np.ptp(pictures)
    moved = module._framed(np.roll(module._framed(pictures, views), 2, axis=-1), views)
    bank = TrainingPictures(module._framed(pictures, views))

    def embed(pictures: np.ndarray, label: str = "") -> np.ndarray:
        return pictures.reshape(len(pictures), -1)[:, ::64]

    found = module._measure(moved, views, bank, embed(pictures), embed, "copies")
    assert found["nearest"].tolist() == list(range(6))
    assert set(found["shift_right"].abs().round()) == {2}
    as_displayed = TrainingPictures(pictures).nearest(moved, "copies").distance
    assert (found["distance"] < 0.3 * as_displayed).all()


@pytest.mark.slow
def test_twenty_planted_copies_among_five_hundred(tmp_path: Path) -> None:
    real = load_dataset(simulated_dataset("demo"))
    training = load_datalist(real.root, "training")
    # The generator has seen 340 patients; 300 others of the same cameras and 200 of unseen ones were not shown to it.
    known, others = training[:340], training[340:] + load_datalist(real.root, "test")
    write_synthetic(tmp_path / "made", known, others, copies=20)
    ids = {item["id"] for item in known}
    folder = Path(shutil.copytree(real.root, tmp_path / "real"))

    def edit(content: dict[str, Any]) -> None:
        content["training"] = [item for item in content["training"] if Path(item["image"]).stem in ids]

    audit(change(folder, edit), str(tmp_path / "made"), output=str(tmp_path / "out.json"))
    numbers = json.loads((tmp_path / "out.json").read_text())
    flagged = set(numbers["flagged_items"])
    planted = {f"fm_{number:04d}" for number in range(20)}
    assert numbers["synthetic"] == 520
    assert planted <= flagged
    assert len(flagged - planted) <= 5
