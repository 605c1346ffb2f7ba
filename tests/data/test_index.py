import csv
import json
import os
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from scintikit.data import index_folder, load_dataset
from scintikit.data.pseudonyms import pseudonym, read_key
from scintikit.dicom import read_scintigram, write_scintigram
from scintikit.errors import DatasetError
from tools.__main__ import main

KEY = bytes(32)
CANARIES = ("CANARY^NAME", "CANARYID", "19470229", "1.2.3.4.5", "CanaryHospital", "CanaryPrivate")


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("SCINTIKIT_HOME", str(tmp_path / "home"))


def write_nm(path, patient, uid=None, institution="", seed=0, views=("ANT",), **header):
    """Write an acquired file as a camera does, with the patient's data in its header."""
    counts = np.random.default_rng(seed).integers(0, 999, (len(views), 16, 12)).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.parent / "made.tmp.dcm"
    write_scintigram(made, counts, spacing_mm=(2.0, 2.5), views=views, uid_seed=str(path), synthetic=False)
    dataset = pydicom.dcmread(made)
    made.unlink()
    dataset.PatientID = patient
    dataset.InstitutionName = institution
    if uid:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    for name, value in header.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return counts


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(tree, output, labels=None, **options):
    return index_folder(tree, output, labels=labels, key=KEY, workers=1, progress=False, **options)


def all_items(folder):
    return [item for items in load_dataset(folder).splits.values() for item in items]


@pytest.fixture
def tree(tmp_path):
    """Twenty patients of two centres, one of them with two pictures, in folders of any shape."""
    for n in range(20):
        write_nm(tmp_path / f"tree/{n % 3}/deep/IM{n:02d}", f"ID{n}", f"1.2.3.{n}", "Clinic" * (n % 2), seed=n)
    write_nm(tmp_path / "tree/IM20.dcm", "ID0", "1.2.3.20", seed=20)
    return tmp_path / "tree"


@pytest.fixture
def table(tmp_path):
    rows = [{"Patient": f"ID{n}", "Label": ("normal", "Thyroiditis")[n % 2], "center": "AB"[n % 2]} for n in range(20)]
    return write_table(tmp_path / "labels.csv", rows)


def test_tree_becomes_a_dataset(tree, table, tmp_path):
    result = run(tree, tmp_path / "d", table, external=["B"])
    dataset = load_dataset(result.folder)
    assert dataset.labels == {0: "normal", 1: "Thyroiditis"}
    assert result.taken == {
        "training": {"normal": result.taken["training"]["normal"], "Thyroiditis": 0},
        "validation": {"normal": 11 - result.taken["training"]["normal"], "Thyroiditis": 0},
        "test": {"normal": 0, "Thyroiditis": 10},
    }
    assert result.taken["validation"]["normal"] >= 2
    assert result.refused == {}
    assert result.patients == 20
    patient = "P" + pseudonym(KEY, "patient", "ID0")
    both = [item for item in all_items(tmp_path / "d") if item["patient"] == patient]
    assert [item["image"] for item in both] == [f"images/{patient}_0{n}.dcm" for n in (1, 2)]
    copied = read_scintigram(tmp_path / "d" / both[1]["image"])
    original = read_scintigram(tree / "IM20.dcm")
    assert np.array_equal(copied.counts, original.counts)
    assert (copied.spacing_mm, copied.views, copied.synthetic) == (original.spacing_mm, original.views, False)


def test_pixels_are_copied_byte_for_byte(tree, table, tmp_path):
    run(tree, tmp_path / "d", table)
    pixels = {pydicom.dcmread(path).PixelData for path in tree.rglob("IM*")}
    assert {pydicom.dcmread(path).PixelData for path in (tmp_path / "d/images").iterdir()} == pixels


def test_without_external_centre_a_fifth_of_the_patients_is_test(tree, table, tmp_path):
    taken = run(tree, tmp_path / "d", table).taken
    assert 4 <= sum(taken["test"].values()) <= 5
    assert set(taken["test"].values()) != {0}


@pytest.mark.parametrize("column", ["file", "SOPInstanceUID", "sop_instance_uid"])
def test_rows_match_by_file_or_uid(tree, tmp_path, column):
    values = ["IM20.dcm", "IM03", "./1/deep/IM04"] if column == "file" else ["1.2.3.20", "1.2.3.3", "1.2.3.4"]
    rows = [{column: value, "label": f"{n}", "prompt": f"picture {n}"} for n, value in enumerate(values)]
    rows.append({column: "absent", "label": "0", "prompt": ""})
    result = run(tree, tmp_path / "d", write_table(tmp_path / "l.csv", rows), classes=["a", "b", "c"], test=0.0)
    assert {item["prompt"]: item["label"] for item in all_items(tmp_path / "d")} == {
        f"picture {n}": n for n in range(3)
    }
    assert result.unmatched == ["row 5 of l.csv"]
    assert {reason: len(files) for reason, files in result.refused.items()} == {"no row of the table names it": 18}


def test_unusable_files_are_refused_with_a_reason(tree, table, tmp_path):
    (tree / "notes.txt").write_text("not a picture")
    (tree / "empty").touch()
    write_nm(tree / "ct.dcm", "ID1", Modality="CT")
    write_nm(tree / "copy.dcm", "ID3", "1.2.3.3", seed=3)
    write_nm(tree / "nobody.dcm", "")
    write_nm(tree / "dynamic.dcm", "ID1", ImageType=["ORIGINAL", "PRIMARY", "DYNAMIC", "EMISSION"])
    write_nm(tree / "made.dcm", "ID1", SyntheticData="YES")
    write_nm(tree / "colour.dcm", "ID1", SamplesPerPixel=3)
    result = run(tree, tmp_path / "d", table)
    assert sum(map(len, result.refused.values())) == 8
    reason_of = {path: reason for reason, paths in result.refused.items() for path in paths}
    for path, words in {
        "notes.txt": "not DICOM",
        "empty": "empty",
        "ct.dcm": "not nuclear medicine",
        "dynamic.dcm": "DYNAMIC acquisition",
        "made.dcm": "synthetic",
        "nobody.dcm": "no row",
        "colour.dcm": "colour",
    }.items():
        assert words in reason_of[path]
    assert [reason for path, reason in reason_of.items() if "copy of a file" in reason]
    assert result.patients == 20


def test_a_file_that_fails_only_when_it_is_copied_is_refused(tree, table, tmp_path):
    path = tree / "rle.dcm"
    write_scintigram(
        path,
        np.ones((1, 8, 8)),
        spacing_mm=(1, 1),
        views=("ANT",),
        uid_seed="x",
        transfer_syntax="rle",
        synthetic=False,
    )
    dataset = pydicom.dcmread(path)
    dataset.PatientID, dataset.PixelData = "ID1", dataset.PixelData[:40]
    dataset.save_as(path)
    result = run(tree, tmp_path / "d", table)
    assert list(result.refused.values()) == [["rle.dcm"]]
    assert str(path) not in next(iter(result.refused))


def test_nothing_usable_is_told_apart(tree, tmp_path):
    table = write_table(tmp_path / "l.csv", [{"patient": "nobody", "label": "normal"}])
    result = run(tree, tmp_path / "d", table)
    assert result.folder is None
    assert not (tmp_path / "d").exists()


def test_same_input_same_bytes_and_workers_do_not_matter(tree, table, tmp_path):
    for n in range(60):
        write_nm(tree / f"more/{n}", f"ID{n % 20}", f"1.2.4.{n}", seed=n)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run(tree, tmp_path / "a/d", table)
    index_folder(tree, tmp_path / "b/d", labels=table, key=KEY, workers=2, progress=False)
    files = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.*")}
    assert len(files) == 83
    assert files == {path.relative_to(tmp_path / "b"): path.read_bytes() for path in (tmp_path / "b").rglob("*.*")}


def test_a_stopped_run_goes_on_and_another_input_is_refused(tree, table, tmp_path):
    before = load_dataset(run(tree, tmp_path / "d", table).folder).sha256
    (tmp_path / "d/dataset.json").unlink()
    next((tmp_path / "d/images").iterdir()).unlink()
    assert load_dataset(run(tree, tmp_path / "d", table).folder).sha256 == before
    (tree / "IM20.dcm").unlink()
    with pytest.raises(DatasetError, match="made with other settings"):
        run(tree, tmp_path / "d", table)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"patient": "ID1", "label": "normal"}, {"patient": "ID1", "label": "x"}], "row 3 .* contradicts row 2"),
        ([{"patient": "ID1", "label": ""}], "row 2 .* has no label"),
        ([{"patient": "", "label": "normal"}], "row 2 .* names no file"),
        ([{"patient": "ID1", "label": "normal"}, {"patient": "ID2", "label": "0"}], "row 3 .* has the number 0"),
        ([{"patient": "ID1", "label": "a|b"}], "row 2 .* several labels .* --multi_label"),
        ([{"patient": "ID1", "Patient ID": "ID2", "label": "a"}], "names the column 'patient' twice"),
        ([{"patient": "ID1", "label": "normal", "mask": "none.nii"}], "row 2 .* no such mask"),
        ([{"name": "ID1", "label": "normal"}], "first row must name"),
        ([{"file": "IM", "label": "normal"}], "row 2 .* 2 files have the name"),
    ],
)
def test_mistakes_in_the_table_name_the_row(tree, tmp_path, rows, words):
    write_nm(tree / "x/IM", "ID1")
    write_nm(tree / "y/IM", "ID1")
    with pytest.raises(DatasetError, match=words):
        run(tree, tmp_path / "d", write_table(tmp_path / "l.csv", rows))


def test_tables_of_other_programs(tree, tmp_path):
    table = tmp_path / "l.csv"
    table.write_bytes('\ufeffPatient ID;Label;Prompt\r\n\r\nID1; normal ;"a; b"\r\n'.encode())
    run(tree, tmp_path / "d", table, test=0.0)
    assert [item["prompt"] for item in all_items(tmp_path / "d")] == ["a; b"]
    for content, words in (
        (b"patient,label\nID1,a,b\n", "row 2 .* has 3 columns"),
        (b"patient,label\n\xff,a\n", "not UTF-8"),
        (b"", "first row must name"),
    ):
        table.write_bytes(content)
        with pytest.raises(DatasetError, match=words):
            run(tree, tmp_path / "e", table)


def test_unknown_label_and_unknown_centre(tree, table, tmp_path):
    with pytest.raises(DatasetError, match=r"row 2 .* unknown label 'normal'; known are 0 'goiter', 1 'thyroiditis'"):
        run(tree, tmp_path / "d", table, classes=["goiter", "thyroiditis"])
    with pytest.raises(DatasetError, match="external centre 'Z'; there are"):
        run(tree, tmp_path / "d", table, external=["Z"])
    with pytest.raises(DatasetError, match="outside the tree"):
        run(tree, tree / "d", table)


def test_centres_from_headers_are_pseudonyms_that_go_by_their_own_name(tree, tmp_path):
    table = write_table(tmp_path / "l.csv", [{"patient": f"ID{n}", "label": "a"} for n in range(20)])
    result = run(tree, tmp_path / "d", table, external=["Clinic"])
    assert result.centres == {"unknown": 11, "C" + pseudonym(KEY, "centre", "Clinic")[:8]: 10}
    assert {item["centre"][0] for item in load_dataset(tmp_path / "d").splits["test"]} == {"C"}


def test_ways_of_typing_one_label_make_one_class(tree, tmp_path):
    spelled = ["Nodular goiter", "nodular  goiter", "nodular\xa0goiter ", "Schilddr\u00fcse", "Schilddru\u0308se"]
    rows = [{"patient": f"ID{n}", "label": label} for n, label in enumerate(spelled)]
    assert run(tree, tmp_path / "d", write_table(tmp_path / "l.csv", rows)).classes == [
        "Nodular goiter",
        "Schilddr\u00fcse",
    ]


def test_classes_that_are_called_by_numbers_keep_their_names(tree, tmp_path):
    table = write_table(tmp_path / "l.csv", [{"patient": f"ID{n}", "label": n + 1} for n in range(3)])
    run(tree, tmp_path / "d", table, classes=["1", "2", "3"])
    dataset = load_dataset(tmp_path / "d")
    found = {item["patient"]: dataset.labels[item["label"]] for item in all_items(tmp_path / "d")}
    assert found == {"P" + pseudonym(KEY, "patient", f"ID{n}"): str(n + 1) for n in range(3)}


def test_options_are_checked_before_any_work(tree, table, tmp_path):
    for options, words in (
        ({"validation": 1.0}, "share for validation is 1.0"),
        ({"test": float("nan")}, "share for test is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"classes": ["normal", "Normal"]}, "give each its own name"),
    ):
        with pytest.raises(DatasetError, match=words):
            run(tree, tmp_path / "d", table, **options)
    assert not (tmp_path / "d").exists()


def test_a_split_that_lacks_a_class_is_pointed_out(tree, table, tmp_path):
    notes = run(tree, tmp_path / "d", table, external=["B"]).notes
    assert "test has no picture of normal" in notes


def test_pipes_links_and_folders_that_cannot_be_read_are_named(tree, table, tmp_path, monkeypatch):
    os.mkfifo(tree / "pipe")  # opening it would hang
    (tree / "circle").symlink_to(tree)
    (tree / "nowhere").symlink_to(tree / "nothing")
    (tree / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):  # a superuser, who may run the tests, can read every folder
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = run(tree, tmp_path / "d", table)
    reason_of = {path: reason for reason, paths in result.refused.items() for path in paths}
    assert set(reason_of) == {"pipe", "circle", "nowhere", "closed"}
    assert "Permission denied" in reason_of["closed"]
    assert "link to a folder" in reason_of["circle"]
    assert result.patients == 20


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names must be Unicode there")
def test_file_names_that_are_not_unicode(tree, table, tmp_path, monkeypatch, capsys):
    (tree / "IM20.dcm").rename(os.fsdecode(os.fsencode(tree) + b"/IM\xe4"))
    Path(os.fsdecode(os.fsencode(tree) + b"/\xfc.txt")).write_text("no picture")
    command(monkeypatch, "index", tree, "--labels", table, "--output", tmp_path / "d")
    assert r"\xfc.txt" in capsys.readouterr().out.encode("utf-8").decode()
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/tree2/\xe4"))
    save(folder / "a.png", np.ones((16, 16), np.uint8))
    result = run(tmp_path / "tree2", tmp_path / "e")
    assert (result.classes, result.patients) == ([r"\xe4"], 1)


def test_header_words_are_not_shown_with_a_refusal(tree, table, tmp_path):
    write_nm(tree / "x", "ID1", ImageType=["ORIGINAL", "PRIMARY", "CANARY NAME"])
    result = run(tree, tmp_path / "d", table)
    assert list(result.refused) == ["it is another acquisition; a dataset holds static and whole-body pictures"]


def test_masks_and_several_diseases(tree, tmp_path):
    mask = np.zeros((1, 16, 12), np.uint16)
    mask[0, 2:5, 3] = 2
    write_scintigram(tree / "m/one.nii.gz", mask, spacing_mm=(2, 2.5), views=("",), uid_seed="")
    write_scintigram(tree / "m/bad.nii.gz", mask[:, :8], spacing_mm=(2, 2.5), views=("",), uid_seed="")
    rows = [
        {"patient": "ID1", "label": "arthritis|metastasis", "mask": "m/one.nii.gz"},
        {"patient": "ID2", "label": "", "mask": ""},
        {"patient": "ID3", "label": "metastasis", "mask": "m/bad.nii.gz"},
    ]
    result = run(tree, tmp_path / "d", write_table(tmp_path / "l.csv", rows), multi_label=True)
    one, two = sorted(all_items(tmp_path / "d"), key=lambda item: -sum(item["label"]))
    assert (one["label"], two["label"]) == ([1, 1], [0, 0])
    assert np.array_equal(read_scintigram(tmp_path / "d" / one["mask"]).counts, mask)
    assert [paths for reason, paths in result.refused.items() if "mask" in reason] == [["0/deep/IM03"]]


def test_a_mask_that_was_corrected_is_taken_by_the_next_run(tree, tmp_path):
    rows = [{"patient": f"ID{n}", "label": "ab"[n % 2], "mask": "m/one.nii.gz" if n == 1 else ""} for n in range(20)]
    table = write_table(tmp_path / "l.csv", rows)
    for value in (1, 2):
        mask = np.full((1, 16, 12), value, np.uint16)
        write_scintigram(tree / "m/one.nii.gz", mask, spacing_mm=(2, 2.5), views=("",), uid_seed="")
        run(tree, tmp_path / "d", table)
        (item,) = [item for item in all_items(tmp_path / "d") if "mask" in item]
        assert read_scintigram(tmp_path / "d" / item["mask"]).counts.max() == value


def test_rows_that_contradict_each_other_about_the_patient_are_an_error(tree, tmp_path):
    rows = [{"file": "IM20.dcm", "label": "a", "patient": patient} for patient in ("P1", "P2")]
    with pytest.raises(DatasetError, match="contradicts"):
        run(tree, tmp_path / "d", write_table(tmp_path / "l.csv", rows))


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_class_folders_of_png_and_jpeg(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for n in range(6):
        save(tmp_path / f"tree/{('normal', 'goiter')[n % 2]}/a{n // 3}_{n}.png", grey.astype(np.uint16) * 7 + n)
    save(tmp_path / "tree/normal/z.jpg", np.stack([np.full((16, 16), 9, np.uint8)] * 3, -1))
    save(tmp_path / "tree/normal/colour.png", np.stack([grey, grey, grey.T], -1))
    save(tmp_path / "tree/loose.png", grey)
    write_nm(tmp_path / "tree/normal/x.dcm", "ID1")
    result = run(tmp_path / "tree", tmp_path / "d")
    assert result.classes == ["goiter", "normal"]
    assert result.patients == 7
    reasons = {paths[0]: reason for reason, paths in result.refused.items()}
    assert "give --labels" in reasons["normal/x.dcm"]
    assert "class folder" in reasons["loose.png"]
    assert "colour" in reasons["normal/colour.png"]
    images = {item["image"] for item in all_items(tmp_path / "d")}
    assert {path.rpartition(".")[2] for path in images} == {"png"}
    read = [read_scintigram(tmp_path / "d" / image) for image in images]
    assert sorted(s.counts.max() for s in read) == [9, *(255 * 7 + n for n in range(6))]
    assert {s.spacing_mm for s in read} == {None}

    grouped = run(tmp_path / "tree", tmp_path / "e", patient_pattern=r"/(a\d)_", assumed_spacing_mm=2.0)
    assert grouped.patients == 2
    assert [paths for reason, paths in grouped.refused.items() if "patient is not known" in reason] == [
        ["normal/colour.png", "normal/z.jpg"]
    ]
    spacings = [read_scintigram(tmp_path / "e" / item["image"]).spacing_mm for item in all_items(tmp_path / "e")]
    assert spacings == [pytest.approx((2, 2), rel=1e-3)] * 6
    with pytest.raises(DatasetError, match="not a regular expression"):
        run(tmp_path / "tree", tmp_path / "f", patient_pattern="(")


def test_key_is_made_once_private_and_outside_the_dataset(tmp_path):
    key = read_key()
    path = tmp_path / "home/pseudonym.key"
    assert len(key) == 32
    assert read_key() == key == read_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(tmp_path / "other") != key
    assert pseudonym(key, "patient", "1") != pseudonym(key, "centre", "1")
    path.write_text("short")
    with pytest.raises(DatasetError, match="does not hold a key"):
        read_key()


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tools", *map(str, arguments)])
    main()


def test_no_identifier_leaves_the_headers(tmp_path, monkeypatch, capsys):
    tree = tmp_path / "tree"
    for n in range(8):
        write_nm(
            tree / f"CanaryPath/{n}",
            f"CANARYID{n}",
            f"1.2.3.4.5.{n}",
            "CanaryHospital",
            PatientName="CANARY^NAME",
            PatientBirthDate="19470229",
            StudyDate="19470229",
            StationName="CanaryHospital",
            StudyDescription="CANARY^NAME",
        )
        dataset = pydicom.dcmread(tree / f"CanaryPath/{n}")
        dataset.private_block(0x0011, "CanaryPrivate", create=True).add_new(0x01, "LO", "CanaryPrivate")
        dataset.save_as(tree / f"CanaryPath/{n}")
    write_nm(tree / "bad", "CANARYID9", PatientName="CANARY^NAME", Rows=9999)
    rows = [{"patient": f"CANARYID{n}", "label": "ab"[n % 2]} for n in range(12)]
    table = write_table(tmp_path / "l.csv", rows)
    command(monkeypatch, "index", tree, "--labels", table, "--output", tmp_path / "d", "--report", tmp_path / "r.json")
    screen = "".join(capsys.readouterr())
    written = [path for path in (tmp_path / "d").rglob("*") if path.is_file()]
    assert len(written) == 10
    found = [*(path.read_bytes() for path in written), *(path.name.encode() for path in written)]
    found += [(tmp_path / "r.json").read_bytes()]
    for canary in CANARIES:
        assert [data for data in [*found, screen.encode()] if canary.encode() in data] == []
    assert [data for data in found if b"CanaryPath" in data] == []


def test_command_prints_takes_and_refusals_and_fails_when_nothing_is_usable(tree, table, tmp_path, monkeypatch, capsys):
    for n in range(7):
        (tree / f"junk{n}").write_text("junk")
    report = tmp_path / "r.json"
    command(
        monkeypatch, "index", tree, "--labels", table, "--output", tmp_path / "d", "--external", "B", "--report", report
    )
    screen = capsys.readouterr().out
    assert re.search(r"test +0 +10\n", screen)
    assert re.search(r"refused 7: .*not DICOM.*\n +junk0, junk1, junk2, junk3, junk4, \.\.\.", screen)
    assert f"dataset: {tmp_path / 'd'}" in screen
    written = json.loads(report.read_text())
    assert written["taken"]["test"] == {"normal": 0, "Thyroiditis": 10}
    assert list(written["refused"].values()) == [7]
    assert written["dataset"]["sha256"] == load_dataset(tmp_path / "d").sha256
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "index", tmp_path / "empty", "--output", tmp_path / "e")
    assert stopped.value.code == 1


def test_a_folder_may_look_like_a_number(write, item, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("original", training=[item("A_1")])
    monkeypatch.setattr(sys, "argv", ["tools", "compose", "original", "--output", "2024_01"])
    main()
    assert (tmp_path / "2024_01" / "dataset.json").is_file()


def test_compose_command(write, item, tmp_path, monkeypatch, capsys):
    one = write("one", training=[item("A_1")])
    two = write("two", training=[item("A_2")])
    command(monkeypatch, "compose", one, two, "--output", tmp_path / "m")
    assert re.search(r"training +2 +2 simulated\n", capsys.readouterr().out)
    assert len(load_dataset(tmp_path / "m").splits["training"]) == 2
