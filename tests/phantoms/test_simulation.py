"""Datasets of simulated scintigrams: the numbers of patients, the contract, and the same bytes whatever happens."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from scintikit.data import load_dataset
from scintikit.dicom import read_scintigram
from scintikit.errors import ConfigError, DatasetError
from scintikit.phantoms import (
    CLASSES,
    cases,
    class_mix,
    generator,
    load_cameras,
    simulate,
    simulate_case,
    simulated_dataset,
)
from scintikit.phantoms.profiles import apportion
from tools.simulate import simulate as tool


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate("tiny", 5, tmp_path_factory.mktemp("simulated") / "tiny", workers=1, progress=False)


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_paper_has_the_published_numbers() -> None:
    mix = class_mix("paper")
    assert sum(mix[centre] for centre in "ABCDEG").tolist() == [788, 1011, 297, 459]
    assert sum(mix[centre] for centre in "FHI").tolist() == [127, 98, 59, 115]
    # Each camera keeps its leading class: G saw mostly diffuse goiter, A nodular goiter.
    assert mix["G"].argmax() == 0
    assert mix["A"].argmax() == 1
    sizes = {centre: int(numbers.sum()) for centre, numbers in mix.items()}
    for centre, camera in load_cameras().items():
        total, cohort = (399, 329) if camera.external else (2555, 2314)
        assert sizes[centre] == pytest.approx(sum(camera.patients.values()) * total / cohort, abs=3)


@pytest.mark.parametrize(("profile", "internal", "external"), [("tiny", 48, 24), ("demo", 800, 200)])
def test_profiles_have_their_size(profile: str, internal: int, external: int) -> None:
    plan = cases(profile, 0)
    assert Counter(case.centre in "FHI" for case in plan) == {False: internal, True: external}
    assert [case.index for case in plan] == list(range(len(plan)))
    assert len({case.name for case in plan}) == len(plan)
    assert {case.label for case in plan} == set(range(len(CLASSES)))


def test_apportion_rounds_to_the_total() -> None:
    assert apportion(np.array([1.0, 1.0, 1.0]), 10).tolist() == [4, 3, 3]
    assert apportion(np.array([0.0, 5.0, 2.5]), 4).tolist() == [0, 3, 1]


def test_dataset_keeps_the_contract(tiny: Path) -> None:
    dataset = load_dataset(tiny)
    assert list(dataset.labels.values()) == list(CLASSES)
    assert "Simulated, not for clinical use" in dataset.description
    assert {split: len(items) for split, items in dataset.splits.items()}["test"] == 24
    assert {item["centre"] for item in dataset.splits["test"]} == set("FHI")
    assert not {item["centre"] for split in ("training", "validation") for item in dataset.splits[split]} & set("FHI")
    for split in dataset.splits.values():
        assert {item["label"] for item in split} == set(range(len(CLASSES)))
        for item in split:
            assert item["origin"]["kind"] == "simulated"
            assert item["origin"]["generator"] == generator()
            assert item["origin"]["seed"] == 5
            assert item["origin"]["settings"]["findings"]["class"] == CLASSES[item["label"]]
            assert CLASSES[item["label"]] in item["prompt"]


def test_files_hold_what_was_simulated(tiny: Path) -> None:
    plan = {case.name: case for case in cases("tiny", 5)}
    for name in ("A_0001", "E_0001", "H_0003"):
        _, exposure, _, _ = simulate_case(plan[name], 5)
        camera = load_cameras()[plan[name].centre]
        image = read_scintigram(tiny / f"images/{name}.dcm")
        assert image.views == ("ANT",)
        assert image.spacing_mm == pytest.approx((camera.pixel_mm, camera.pixel_mm))
        np.testing.assert_array_equal(image.counts[0], exposure.counts)
        mask = read_scintigram(tiny / f"masks/{name}.nii.gz")
        np.testing.assert_array_equal(mask.counts[0], exposure.mask)
        assert np.asarray(nibabel.load(tiny / f"masks/{name}.nii.gz").dataobj).size == exposure.mask.size


def test_dicom_says_that_it_is_simulated(tiny: Path) -> None:
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted((tiny / "images").iterdir())]
    assert len({header.SOPInstanceUID for header in headers}) == len(headers) == 72
    for header in headers:
        assert header.SyntheticData == "YES"
        assert header.SeriesDescription == "Simulated, not for clinical use"
        assert not header.PatientName
        assert not header.PatientID


def test_workers_do_not_change_the_bytes(tiny: Path, tmp_path: Path) -> None:
    again = simulate("tiny", 5, tmp_path / "again", workers=2, progress=False)
    assert hashes(again) == hashes(tiny)


def test_killed_run_goes_on_to_the_same_bytes(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scintikit.phantoms import simulation

    write, written = simulation.write_scintigram, []

    def dies(path: Path, *arguments: object, **settings: object) -> None:
        written.append(path)
        if len(written) == 70:  # between a picture and its mask
            (path.parent / f".{path.name}.abc.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, *arguments, **settings)

    monkeypatch.setattr(simulation, "write_scintigram", dies)
    with pytest.raises(KeyboardInterrupt):
        simulate("tiny", 5, tmp_path / "killed", workers=1, progress=False)
    assert not (tmp_path / "killed" / "dataset.json").exists()
    monkeypatch.setattr(simulation, "write_scintigram", write)
    simulate("tiny", 5, tmp_path / "killed", workers=1, progress=False)
    assert hashes(tmp_path / "killed") == hashes(tiny)


def test_seeds_give_other_patients(tiny: Path) -> None:
    first, second = (simulate_case(cases("tiny", seed)[0], seed)[1].counts for seed in (5, 6))
    assert not np.array_equal(first, second)
    content = json.loads((tiny / "dataset.json").read_text())
    assert all("-5-" in item["patient"] for item in content["training"])


def test_folder_of_another_recipe_is_refused(tiny: Path) -> None:
    with pytest.raises(DatasetError, match="other settings"):
        simulate("tiny", 6, tiny, progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": "huge"}, "tiny, demo, paper"),
        ({"seed": -1}, "not negative"),
        ({"seed": "x"}, "not negative"),
        ({"subject": "knee"}, "thyroid"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_refused(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(**{"profile": "tiny", "output": tmp_path / "none", **settings})
    assert not (tmp_path / "none").exists()


def test_cached_dataset_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCINTIKIT_HOME", str(tmp_path))
    folder = simulated_dataset("tiny", 1)
    assert Path(folder).is_relative_to(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}
    assert simulated_dataset("tiny", 1) == folder
    tool("tiny", 1)
    assert {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")} == before
    printed = capsys.readouterr().out
    assert folder in printed
    assert "thyroiditis" in printed
    assert "24" in next(line for line in printed.splitlines() if line.startswith("test"))
