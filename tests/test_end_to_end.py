"""What a research group does with its own folder: index, train, evaluate, predict; and nothing identifying comes out.

The tree holds objects as a hospital's archive sends them: identifiers everywhere, odd file names, files that are not
scintigrams. `study` runs everything once; the tests look at what it left.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import gzip
import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from scintikit.data import load_dataset
from scintikit.dicom import write_scintigram
from tools.__main__ import main
from tools.run import run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CLASSES = ("diffuse goiter", "nodular goiter", "normal", "thyroiditis")
PATIENTS = 56
UID = "1.2.826.0.1.3680043.9.7777"
#: What must not come out. Each is planted in several places of every header.
CANARIES = ("CANARYNAME_7f3a", "CANARYID_7f3a", "CANARYTEXT_7f3a", "CANARYPLACE_7f3a", "CANARYAE", "Müllerín", UID)
DATES = ("19470213", "20190817", "1947-02-13", "2019-08-17")
#: Names of files that break careless programs; two of them differ by what stands for a slash.
ODD_NAMES = (
    "=HYPERLINK(1).dcm",
    "-1+2.dcm",
    "a/b.dcm",
    "a__b.dcm",
    "year 2019/Schilddrüse ☢.dcm",
    "new\nline.dcm",
    "1.2.840.7777.5",
    "no suffix",
    "deep/" * 12 + "IM1",
    "twin/1/IM1.dcm",
    "twin/2/IM1.dcm",
)


def gland(label: int, rng: np.random.Generator) -> np.ndarray:
    """Return 32 x 32 counts whose brightness and shape tell the class to a ResNet."""
    rows, columns = np.mgrid[:32, :32]
    lobes = np.exp(-((rows - 16) ** 2) / 40) * np.exp(-((np.abs(columns - 16) - 5) ** 2) / (6 + 6 * (label == 0)))
    lobes *= (1 + (label == 1) * 3 * (columns > 16)) * (0.15 if label == 3 else 1)
    return rng.poisson(60 * lobes + 4)[None].astype(np.uint16)


def identify(dataset: Dataset, patient: int, number: int) -> None:
    """Put identifiers wherever a header has room for them, also in sequences and private elements."""
    dataset.PatientName = "CANARYNAME_7f3a^Müllerín"
    dataset.PatientID = dataset.OtherPatientIDs = f"CANARYID_7f3a_{patient}"
    for keyword in ("ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName", "PatientMotherBirthName"):
        setattr(dataset, keyword, "CANARYNAME_7f3a^Doctor")
    for keyword in ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, "19470213" if "Birth" in keyword else "20190817")
    for keyword in ("StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments", "PatientComments"):
        setattr(dataset, keyword, "CANARYTEXT_7f3a of CANARYNAME_7f3a")
    for keyword in ("AccessionNumber", "StudyID", "DeviceSerialNumber", "ImageID"):
        setattr(dataset, keyword, "CANARYTEXT_7f3a")
    dataset.AcquisitionDateTime = "20190817101500"
    if number % 2:
        del dataset.BodyPartExamined  # optional, and many cameras leave it out
    else:
        dataset.add_new("BodyPartExamined", "LO", "CANARYTEXT_7f3a")
    dataset.InstitutionName = f"CANARYPLACE_7f3a {'ABC'[patient % 3]}"
    dataset.InstitutionAddress = dataset.StationName = "CANARYPLACE_7f3a"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{UID}.3.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{UID}.1.{patient}", f"{UID}.2.{number}"
    inner = Dataset()
    inner.PatientID, inner.PatientName, inner.StudyDate = "CANARYID_7f3a", "CANARYNAME_7f3a", "20190817"
    dataset.OtherPatientIDsSequence = Sequence([inner])
    dataset.RequestAttributesSequence = Sequence([inner])
    dataset.RadiopharmaceuticalInformationSequence = Sequence([inner])
    detector, window = dataset.DetectorInformationSequence[0], dataset.EnergyWindowInformationSequence[0]
    detector.ViewCodeSequence[0].CodeMeaning = window.EnergyWindowName = "CANARYTEXT_7f3a"
    for place in (dataset, detector, window):
        place.private_block(0x0011, "CANARYTEXT_7f3a", create=True).add_new(1, "LO", "CANARYNAME_7f3a 20190817")
    dataset.file_meta.SourceApplicationEntityTitle = "CANARYAE"
    dataset.preamble = b"CANARYNAME_7f3a".ljust(128, b"\0")


def fill(tree: Path) -> list[dict[str, str]]:
    """Write the tree; return a row for every usable file with all that a table could name it by."""
    rng = np.random.default_rng(0)
    rows = []
    names = [*ODD_NAMES, *(f"visit {n % 5}/IM{n:03}" for n in range(len(ODD_NAMES), PATIENTS + 4))]
    for number, name in enumerate(names):
        patient = number % PATIENTS  # the last four are second visits
        label = patient % 4
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        made = tree / "made.dcm"
        write_scintigram(made, gland(label, rng), spacing_mm=(4.0, 4.0), views=("ANT",), uid_seed=name, synthetic=False)
        dataset = pydicom.dcmread(made)
        made.unlink()
        identify(dataset, patient, number)
        dataset.save_as(path)
        rows.append(
            {
                "file": name,
                "SOPInstanceUID": str(dataset.SOPInstanceUID),
                "patient": str(dataset.PatientID),
                "label": CLASSES[label],
            }
        )
    spoil(tree, dataset)
    return rows


def spoil(tree: Path, dataset: Dataset) -> None:
    """Add what no table names and no network can use, with the same identifiers in it."""
    junk = tree / "CT and junk"
    junk.mkdir()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{UID}.4"
    dataset.save_as(junk / "cut.dcm")
    (junk / "cut.dcm").write_bytes((junk / "cut.dcm").read_bytes()[:-500])
    dataset.Modality = "CANARYTEXT_7f3a"
    dataset.save_as(junk / "modality.dcm")
    dataset.Modality, dataset.ImageType = "NM", ["DERIVED", "PRIMARY", "CANARYAE", "EMISSION"]
    dataset.save_as(junk / "type.dcm")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "STATIC", "EMISSION"]
    dataset.add_new("PixelSpacing", "LO", "CANARYTEXT_7f3a")
    dataset.save_as(junk / "spacing.dcm")
    (junk / "letter.txt").write_text("about CANARYNAME_7f3a")
    (junk / "letter.dcm").write_text("about CANARYNAME_7f3a")


class Screen:
    """Collects what a user would see: both streams, log records and warnings."""

    def __init__(self) -> None:
        self.text = io.StringIO()

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        handler = logging.StreamHandler(self.text)
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        with (
            contextlib.redirect_stdout(self.text),
            contextlib.redirect_stderr(self.text),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            yield
        root.removeHandler(handler)
        root.setLevel(level)
        self.text.writelines(f"{warning.message}\n" for warning in caught)


@dataclass
class Study:
    """Where everything lies: `tree` was there before, all else was made."""

    tree: Path
    rows: list[dict[str, str]]
    made: Path
    screen: str


def command(*arguments: object) -> None:
    """Run `python -m tools ARGUMENTS` without the seconds that a new process takes."""
    before = sys.argv
    sys.argv = ["tools", *map(str, arguments)]
    try:
        main()
    finally:
        sys.argv = before


def write_table(path: Path, rows: list[dict[str, str]], *columns: str) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Index the tree by three tables, train on the first dataset, evaluate, predict on the tree."""
    folder = tmp_path_factory.mktemp("group")
    tree, made, screen = folder / "tree", folder / "made", Screen()
    rows = fill(tree)
    with screen.watch(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCINTIKIT_HOME", str(made / "home"))
        for key in ("SOPInstanceUID", "file", "patient"):
            table = write_table(folder / f"by {key}.csv", rows, key, "label")
            command(
                *("index", tree, "--labels", table, "--output", made / key, "--report", made / f"{key}.json"),
                *("--external", "CANARYPLACE_7f3a C", "--validation", 0.3, "--classes", ",".join(CLASSES)),
            )
        common = {
            "ckpt_dir": str(made / "models"),
            "spacing_mm": 4.0,
            "image_size": [32, 32],
            "batch_size": 8,
        }
        train = common | {"dataset_dir": str(made / "SOPInstanceUID"), "log_dir": str(made / "runs")}
        run("thyroid_cls", "training", max_epochs=1, **train)
        run("thyroid_cls", "evaluating", bootstrap=20, output_dir=str(made / "evaluation"), **train)
        run(
            "thyroid_cls",
            "inference",
            **(common | {"dataset_dir": str(tree), "output_dir": str(made / "predictions"), "gradcam": True}),
        )
    return Study(tree, rows, made, screen.text.getvalue())


def test_three_ways_to_name_the_pictures_give_the_same_dataset(study: Study) -> None:
    by_uid, by_file, by_patient = (
        load_dataset(study.made / key).splits for key in ("SOPInstanceUID", "file", "patient")
    )
    assert by_uid == by_file
    for split, part in by_patient.items():  # a refused picture of a patient has its number, so names may differ
        assert [(item["patient"], item["label"]) for item in part] == [
            (item["patient"], item["label"]) for item in by_uid[split]
        ]
    items = [item for part in by_uid.values() for item in part]
    assert len(items) == len(study.rows)
    assert len({item["patient"] for item in items}) == PATIENTS


def test_external_centre_is_the_test_and_no_patient_is_in_two_splits(study: Study) -> None:
    dataset = load_dataset(study.made / "SOPInstanceUID")
    patients = {split: {item["patient"] for item in items} for split, items in dataset.splits.items()}
    assert sum(map(len, patients.values())) == PATIENTS
    assert len({item["centre"] for item in dataset.splits["test"]}) == 1
    metrics = json.loads((study.made / "evaluation/metrics.json").read_text())
    assert metrics["n"] == len(dataset.splits["test"])
    assert metrics["patients"] == len(patients["test"])


def test_every_file_of_the_tree_has_its_prediction_or_its_reason(study: Study) -> None:
    table = pd.read_csv(study.made / "predictions/predictions.csv", keep_default_na=False, dtype=str)
    assert table["id"].is_unique
    assert list(table.columns)[-1] == "error"
    good = table[table["error"] == ""]
    assert len(good) >= len(study.rows)
    assert set(good["prediction"]) <= set(CLASSES)
    bad = set(table["id"][table["error"] != ""])
    assert {f"CT and junk/{name}.dcm" for name in ("cut", "modality", "letter", "spacing")} <= bad
    for identifier in table["id"]:
        content = json.loads((study.made / "predictions/images" / f"{identifier}.json").read_text(encoding="utf-8"))
        assert content["image"] == identifier
    assert {"a/b.dcm", "a__b.dcm", "twin/1/IM1.dcm", "twin/2/IM1.dcm"} <= set(good["id"])
    overlays = {
        path.relative_to(study.made / "predictions/images").as_posix()
        for path in (study.made / "predictions/images").rglob("*.png")
    }
    assert overlays == {os.path.normpath(f"{identifier}.png") for identifier in good["id"]}


def test_no_cell_of_a_table_is_a_formula(study: Study) -> None:
    for path in study.made.rglob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert [cell for cell in cells if cell[:1] in set("=+@\t\r") or re.match(r"-\D", cell)] == []


def texts_of(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, and what is packed inside it."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".gz":
        yield gzip.decompress(data)
    if path.suffix == ".png":
        with Image.open(path) as image:
            yield repr(image.info).encode()
    if path.suffix == ".html":
        yield from (base64.b64decode(text) for text in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data))
    if path.suffix == ".dcm":
        yield str(pydicom.dcmread(path, force=True)).encode()


def found_in(data: bytes) -> list[str]:
    data = data.lower()
    return [
        text
        for text in (*CANARIES, *DATES)
        if any(text.lower().encode(encoding) in data for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"))
    ]


def test_no_identifier_is_in_any_file_or_on_the_screen(study: Study) -> None:
    files = [path for path in study.made.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".dcm", ".json", ".csv", ".png", ".html", ".pt", ".key"} <= kinds
    assert any("tfevents" in path.name for path in files)
    assert "dataset: " in study.screen
    assert "not read: " in study.screen
    names = [str(path.relative_to(study.made)) for path in files]
    leaks = {(name, text) for name in names for text in found_in(name.encode())}
    leaks |= {(path.name, text) for path in files for data in texts_of(path) for text in found_in(data)}
    assert leaks == set()
    assert found_in(study.screen.encode()) == []


def test_the_search_finds_what_is_there(study: Study) -> None:
    path = study.tree / study.rows[0]["file"]
    assert set(found_in(path.read_bytes())) == {*CANARIES, *DATES[:2]}
    assert found_in("canaryname_7F3A".encode("utf-16-le")) == ["CANARYNAME_7f3a"]


def test_copies_hold_technical_facts_only(study: Study) -> None:
    empty = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber", "ReferringPhysicianName")
    for path in (study.made / "SOPInstanceUID/images").iterdir():
        dataset = pydicom.dcmread(path)
        assert [element for element in dataset.iterall() if element.tag.is_private] == []
        assert [keyword for keyword in empty if dataset.get(keyword)] == []
        assert [element.keyword for element in dataset.iterall() if element.VR in ("DA", "DT") and element.value] == []
        assert dataset.preamble == bytes(128)
