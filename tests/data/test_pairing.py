"""Files of one view each become studies of two."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pydicom
import pytest
import torch
from monai.transforms import LoadImaged
from PIL import Image
from pydicom.uid import generate_uid

from scintikit.data import TolerantDataset, find_studies, index_folder, load_dataset
from scintikit.dicom import ScintigramReader, read_scintigram, write_scintigram
from scintikit.errors import DatasetError
from tools.__main__ import main

KEY = bytes(32)
CANARY = "CANARY_7F3A"
STUDY = generate_uid(entropy_srcs=["canary"])


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("SCINTIKIT_HOME", str(tmp_path / "home"))


def frame(number):
    return np.random.default_rng(number).integers(0, 9999, (1, 24, 8)).astype(np.uint16)


def write_nm(path, view, study, number=0, series="1.2.1", patient="ID", **options):
    """Write a file of one view as a camera does; `study` and `series` are UIDs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"image_type": "WHOLE BODY", "synthetic": False} | options
    made = path.with_name("made.dcm")
    write_scintigram(made, frame(number), spacing_mm=(2.0, 2.0), views=[view], uid_seed=str(path), **settings)
    dataset = pydicom.dcmread(made)
    made.unlink()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.PatientID, dataset.PatientName = patient, CANARY
    dataset.save_as(path)


def write_png(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame(number)[0]).save(path)


def write_table(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def grouped(folder, **options):
    """Return what find_studies puts together, as names relative to the folder."""
    result = {}
    for item in find_studies(folder, workers=1, **options):
        paths = item["image"] if isinstance(item["image"], list) else [item["image"]]
        result[item["id"]] = [path.removeprefix(f"{folder}/") for path in paths]
    return result


def run(tree, output, labels=None, **options):
    return index_folder(tree, output, labels=labels, key=KEY, workers=1, progress=False, pair_views=True, **options)


def all_items(folder):
    return [item for items in load_dataset(folder).splits.values() for item in items]


@pytest.mark.parametrize("series", [("1.2.1", "1.2.1"), ("1.2.1", "1.2.2")], ids=["one series", "two series"])
def test_dicom_files_of_one_study(tmp_path, series):
    write_nm(tmp_path / "IM2", "ANT", STUDY, 1, series[0])
    write_nm(tmp_path / "IM1", "POST", STUDY, 2, series[1])
    write_nm(tmp_path / "IM3", "POST", "1.2.9")
    write_nm(tmp_path / "IM4", "LLAT", STUDY)
    write_nm(tmp_path / "IM5", "POST", STUDY, image_type="STATIC")
    assert grouped(tmp_path) == {"IM2": ["IM2", "IM1"], "IM3": ["IM3"], "IM4": ["IM4"], "IM5": ["IM5"]}


def test_two_scans_in_one_study_are_told_apart_by_their_series(tmp_path):
    for series in ("1.2.1", "1.2.2"):
        for view in ("POST", "ANT"):
            write_nm(tmp_path / f"{series[-1]}{view}", view, STUDY, series=series)
    assert grouped(tmp_path) == {"1ANT": ["1ANT", "1POST"], "2ANT": ["2ANT", "2POST"]}


def test_a_study_with_a_view_too_many_is_refused_as_one(tmp_path):
    write_nm(tmp_path / "a", "ANT", STUDY, 1)
    write_nm(tmp_path / "b", "ANT", STUDY, 2)
    write_nm(tmp_path / "c", "POST", STUDY, 3)
    (item,) = loaded(tmp_path)
    assert item["id"] == "a"
    assert "frames: [1, 1, 1]" in item["error"]


def loaded(folder, **options):
    """Return the items as inference gets them."""
    reader = ScintigramReader(["ANT", "POST"], assumed_spacing_mm=2.0, one_view=True)
    load = LoadImaged("image", reader=reader, ensure_channel_first=True)
    items = TolerantDataset(find_studies(folder, workers=1, **options), load, (24, 8), channels=2)
    return [items[number] for number in range(len(items))]


def test_items_of_any_kind_make_one_batch(tmp_path):
    write_nm(tmp_path / "a", "ANT", STUDY, 1)
    write_nm(tmp_path / "b", "POST", STUDY, 2)
    write_nm(tmp_path / "c", "POST", "1.2.9", 3)
    (tmp_path / "d").write_text("x")
    pair, single, broken = loaded(tmp_path)
    assert [item["id"] for item in (pair, single, broken)] == ["a", "c", "d"]
    assert np.array_equal(pair["image"], np.concatenate([frame(1), frame(2)]))
    assert np.array_equal(single["image"], np.concatenate([0 * frame(3), frame(3)]))
    assert torch.equal(broken["image"], torch.zeros(2, 24, 8))
    assert (pair["error"], single["error"]) == ("", "")
    assert "not DICOM" in broken["error"]
    assert [item["warning"] for item in (pair, single, broken)] == ["", "", ""]


def test_a_transform_can_warn():
    items = TolerantDataset([{"id": "a"}], lambda item: item | {"warning": "one view"}, (4, 4))
    assert items[0]["warning"] == "one view"


def test_no_identifier_is_in_items_or_messages(tmp_path, caplog, capsys):
    for name, view in (("a", "ANT"), ("b", "ANT"), ("c", "POST")):
        write_nm(tmp_path / name, view, STUDY, patient=CANARY)
    seen = "".join(map(repr, loaded(tmp_path))) + caplog.text + "".join(capsys.readouterr())
    assert [text for text in (CANARY, STUDY, "1.2.1") if text in seen] == []


@pytest.mark.parametrize(
    ("names", "together"),
    [
        (["p1_ant.png", "p1_post.png"], True),
        (["1 Anterior.PNG", "1 posterior.png"], True),
        (["A12.png", "P12.png"], True),
        (["12_a.png", "12_p.png"], True),
        (["ANT/P_12.png", "POST/P_12.png"], True),
        (["Anterior/A12.png", "Posterior/P12.png"], True),
        (["post/x_ant.png", "post/x_post.png"], True),
        (["1_ant.png", "2_post.png"], False),
        (["A1.png", "A2.png"], False),
        (["x/1_ant.png", "y/1_post.png"], False),
        (["plan1.png", "ppost1.png"], False),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_pictures_are_paired_by_their_names(tmp_path, names, together):
    for number, name in enumerate(names):
        write_png(tmp_path / name, number)
    assert list(grouped(tmp_path).values()) == ([names] if together else [[name] for name in names])
    if together:
        assert np.array_equal(loaded(tmp_path)[0]["image"], np.concatenate([frame(0), frame(1)]))


def test_pictures_of_both_views_are_not_paired(tmp_path):
    for name in ("1_ant.png", "1_post.png"):
        write_png(tmp_path / name)
    assert grouped(tmp_path, layout="side_by_side") == {"1_ant.png": ["1_ant.png"], "1_post.png": ["1_post.png"]}
    assert grouped(tmp_path / "1_ant.png") == {"1_ant.png": [str(tmp_path / "1_ant.png")]}


@pytest.fixture
def public(tmp_path):
    """Two classes of ten patients; the numbers start anew in each: CLASS/Anterior/A1.png, CLASS/Posterior/P1.png."""
    for start, name in ((0, "Metastasis"), (100, "No metastasis")):
        for number in range(1, 11):
            write_png(tmp_path / f"tree/{name}/Anterior/A{number}.png", start + number)
            write_png(tmp_path / f"tree/{name}/Posterior/P{number}.png", 1000 + start + number)
    return tmp_path / "tree"


def test_class_folders_of_pairs_become_two_frame_files(public, tmp_path, monkeypatch, capsys):
    options = ["--classes", "metastasis", "--negative", "no metastasis", "--assumed_spacing_mm", "2.3"]
    arguments = ["index", str(public), "--output", str(tmp_path / "d"), "--pair_views", "--multi_label", *options]
    monkeypatch.setattr(sys, "argv", ["tools", *arguments])
    main()
    assert "20 patients" in capsys.readouterr().out
    items = all_items(tmp_path / "d")
    assert len(items) == 20
    originals = {(start // 100, n): np.concatenate([frame(start + n), frame(1000 + start + n)])
                 for start in (0, 100) for n in range(1, 11)}  # fmt: skip
    for item in items:
        scan = read_scintigram(tmp_path / "d" / item["image"])
        assert (scan.views, scan.spacing_mm) == (("ANT", "POST"), (2.3, 2.3))
        kinds = [kind for (kind, _), counts in originals.items() if np.array_equal(scan.counts, counts)]
        assert kinds == [1 - item["label"][0]]


def test_a_table_may_name_either_view_or_the_patient(public, tmp_path):
    rows = [[f"Metastasis/{'Posterior/P' if n % 2 else 'Anterior/A'}{n}.png", "ill"] for n in range(1, 11)]
    result = run(public, tmp_path / "d", write_table(tmp_path / "l.csv", ["file", "label"], *rows),
                 assumed_spacing_mm=2.0)  # fmt: skip
    assert (result.patients, len(result.refused["no row of the table names it"])) == (10, 20)
    rows = [[f"Metastasis{n}", "ill"] for n in range(1, 11)]
    for path in list(public.rglob("Metastasis/*/*.png")):
        path.rename(public / f"Metastasis{path.stem[1:]}_{path.parent.name}.png")
    table = write_table(tmp_path / "p.csv", ["patient", "label"], *rows)
    result = run(public, tmp_path / "e", table, assumed_spacing_mm=2.0, patient_pattern="([^/_]+)_[^/]*$")
    assert (result.patients, result.unmatched) == (10, [])
    assert all(len(read_scintigram(tmp_path / "e" / item["image"]).views) == 2 for item in all_items(tmp_path / "e"))


def test_contradictory_rows_of_a_pair(public, tmp_path):
    rows = [["Metastasis/Anterior/A1.png", "ill"], ["Metastasis/Posterior/P1.png", "well"]]
    table = write_table(tmp_path / "l.csv", ["file", "label"], *rows)
    with pytest.raises(DatasetError, match=r"row 3 of l\.csv contradicts row 2 .* other view"):
        run(public, tmp_path / "d", table, assumed_spacing_mm=2.0)


def test_dicom_pairs_single_views_and_what_cannot_be_told(tmp_path):
    for number in range(8):
        write_nm(tmp_path / f"tree/{number}a", "ANT", f"1.2.5.{number}", number, patient=f"ID{number}")
        if number:
            write_nm(tmp_path / f"tree/{number}p", "POST", f"1.2.5.{number}", 50 + number, patient=f"ID{number}")
    write_nm(tmp_path / "tree/7q", "POST", "1.2.5.7", 99, patient="ID7")
    table = write_table(tmp_path / "l.csv", ["patient", "label"], *[[f"ID{n}", "ill"] for n in range(8)])
    result = run(tmp_path / "tree", tmp_path / "d", table)
    assert [paths for reason, paths in result.refused.items() if "several pictures of one view" in reason] == [
        ["7a", "7p", "7q"]
    ]
    scans = [read_scintigram(tmp_path / "d" / item["image"]) for item in all_items(tmp_path / "d")]
    assert sorted(scan.views for scan in scans) == [("ANT",), *[("ANT", "POST")] * 6]
    assert {scan.image_type for scan in scans} == {"WHOLE BODY"}
    result = index_folder(tmp_path / "tree", tmp_path / "e", labels=table, key=KEY, progress=False)
    assert sum(sum(found.values()) for found in result.taken.values()) == 16  # unless asked for, nothing is paired


def test_a_pair_or_a_named_view_needs_a_spacing(public, tmp_path):
    (public / "Metastasis/Posterior/P1.png").unlink()
    result = run(public, tmp_path / "d", classes=["metastasis", "no metastasis"])
    assert {reason: len(paths) for reason, paths in result.refused.items()} == {
        "it does not state its pixel spacing; give it with --assumed_spacing_mm": 39
    }
    run(public, tmp_path / "e", assumed_spacing_mm=2.0)
    views = [read_scintigram(tmp_path / "e" / item["image"]).views for item in all_items(tmp_path / "e")]
    assert sorted(views) == [("ANT",), *[("ANT", "POST")] * 19]


def test_files_of_a_pair_that_differ_are_refused_without_their_path(tmp_path):
    for number in range(4):
        write_png(tmp_path / f"tree/ill/{number}_ant.png", number)
        write_png(tmp_path / f"tree/ill/{number}_post.png", number)
    Image.fromarray(frame(0)[0, :9]).save(tmp_path / "tree/ill/0_post.png")
    result = run(tmp_path / "tree", tmp_path / "d", assumed_spacing_mm=2.0)
    ((reason, paths),) = result.refused.items()
    assert paths == ["ill/0_ant.png", "ill/0_post.png"]
    assert reason.startswith("they have frames of different sizes")


def test_a_negative_label_needs_several_labels(public, tmp_path):
    with pytest.raises(DatasetError, match="--multi_label"):
        run(public, tmp_path / "d", negative=["no metastasis"])


def test_normal_is_no_disease(public, tmp_path):
    with pytest.raises(
        DatasetError, match=r"'normal' is no class but the absence of all of them; give --negative normal"
    ):
        run(public, tmp_path / "d", multi_label=True, classes=["metastasis", "normal", "no metastasis"])


def test_files_of_two_energy_windows_are_paired_by_the_view_of_their_photopeak(tmp_path):
    windows = [(126.0, 154.0), (92.0, 125.0)]
    for name, view in (("a", "ANT"), ("b", "POST")):
        path = tmp_path / "tree" / f"{name}.dcm"
        path.parent.mkdir(exist_ok=True)
        counts = np.concatenate([frame(1), frame(2)])
        options = {"spacing_mm": (2.0, 2.0), "views": [view, view], "energy_windows_kev": windows}
        write_scintigram(path, counts, uid_seed=name, image_type="WHOLE BODY", synthetic=False, **options)
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID, dataset.PatientID = STUDY, "ID"
        dataset.save_as(path)
    assert list(grouped(tmp_path / "tree").values()) == [["a.dcm", "b.dcm"]]
