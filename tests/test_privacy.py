"""What the search over everything written (test_end_to_end.py) does not reach: refusals, errors, other formats."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scintikit.data import TolerantDataset, find_images, index_folder, load_dataset
from scintikit.data.labels import Row
from scintikit.data.tree import Picture
from scintikit.dicom import ScintigramReader, write_scintigram
from scintikit.errors import DatasetError
from tools.__main__ import main

CANARY = "CANARY_7F3A"  # a valid code string: nothing but its place tells it from a technical term
COUNTS = np.arange(64, dtype=np.uint16).reshape(1, 8, 8)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCINTIKIT_HOME", str(tmp_path / "home"))


def write_nm(path: Path, patient: str, **header: str) -> None:
    write_scintigram(path, COUNTS, spacing_mm=(2.0, 2.0), views=("ANT",), uid_seed=path.name, synthetic=False)
    dataset = pydicom.dcmread(path)
    dataset.PatientID, dataset.PatientName = patient, CANARY
    for keyword, value in header.items():
        dataset.add_new(keyword, "LO", value)
    dataset.save_as(path)


def write_table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


#: Elements whose value a careless message would quote.
SPOILED = (
    *("Modality", "SOPClassUID", "ImageType", "Rows", "Columns", "NumberOfFrames", "PixelSpacing", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation"),
    *("RescaleSlope", "EnergyWindowVector", "DetectorVector", "SpecificCharacterSet"),
)


@pytest.mark.parametrize("keyword", SPOILED)
def test_refusals_quote_no_header(
    keyword: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "tree").mkdir()
    write_nm(tmp_path / "tree/good.dcm", "ID1")
    value = f"DERIVED\\PRIMARY\\{CANARY}" if keyword == "ImageType" else CANARY
    write_nm(tmp_path / "tree/spoiled.dcm", "ID2", **{keyword: value})
    recwarn.clear()
    capsys.readouterr()
    table = write_table(tmp_path / "l.csv", [["patient", "label"], ["ID1", "normal"], ["ID2", "normal"]])
    result = index_folder(tmp_path / "tree", tmp_path / "d", labels=table, progress=False)
    assert result.taken["training"]["normal"] >= 1
    items = TolerantDataset(find_images(tmp_path / "tree"), _read, (8, 8))
    errors = [items[number]["error"] for number in range(len(items))]
    screen = "".join(capsys.readouterr())
    for text in (str(vars(result)), *errors, screen, *(str(warning.message) for warning in recwarn)):
        assert CANARY not in text


def _read(item: dict[str, str]) -> dict[str, str]:
    reader = ScintigramReader()
    reader.get_data(reader.read(item["image"]))
    return item


@pytest.mark.parametrize(
    "rows",
    [
        [[CANARY, "normal"], [CANARY, "goiter"]],
        [[CANARY, ""]],
        [[CANARY, "0"]],
        [[CANARY, "a|b"]],
        [[CANARY, "normal", "1", "2"]],
        [["nobody", "normal"]],
        [[CANARY, "normal", f"{CANARY}.nii"]],
    ],
    ids=str,
)
def test_mistakes_in_a_table_quote_no_patient(
    rows: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tree").mkdir()
    write_nm(tmp_path / "tree/a.dcm", CANARY)
    table = write_table(
        tmp_path / "l.csv", [["patient", "label", "mask"], *[(row + [""])[: max(3, len(row))] for row in rows]]
    )
    arguments = ["tools", "index", tmp_path / "tree", "--labels", table, "--output", tmp_path / "d"]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    with pytest.raises(SystemExit) as stopped:
        main()
    screen = "".join(capsys.readouterr())
    assert stopped.value.code in (1, 2)
    assert "error: " in screen
    assert CANARY not in screen


def test_a_traceback_shows_no_identifier() -> None:
    row = Row("row 2", label="normal", patient=CANARY, sopinstanceuid=CANARY, prompt=CANARY)
    assert CANARY not in repr((row, Picture("a.dcm", *[CANARY] * 5)))


def pictures_with_notes(tree: Path) -> None:
    """Write NIfTI, PNG and JPEG files whose headers have text about a patient."""
    image = nib.Nifti1Image(COUNTS.T.astype(np.float32), np.diag([-2.0, -2.0, 2.0, 1.0]))
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = CANARY
    for code in (2, 4, 6):  # DICOM, AFNI, comment
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, CANARY.encode()))
    nib.save(image, tree / "a.nii")
    nib.save(image, tree / "b.nii.gz")
    notes = PngInfo()
    notes.add_text("Author", CANARY)
    notes.add_itxt("scintikit", f'{{"views": ["{CANARY}"]}}')
    exif = Image.Exif()
    exif[0x013B] = exif[0x010E] = CANARY  # artist, description
    Image.fromarray(COUNTS[0]).save(tree / "c.png", pnginfo=notes, exif=exif)
    Image.fromarray(COUNTS[0].astype(np.uint8)).save(tree / "d.jpg", comment=CANARY.encode(), exif=exif)


def contents(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.name.encode() + path.read_bytes()
            if path.suffix == ".gz":
                yield nib.load(path).header.binaryblock + b"".join(
                    extension.text.encode() for extension in nib.load(path).header.extensions
                )
            if path.suffix == ".png":
                with Image.open(path) as image:
                    yield repr((image.info, dict(image.getexif()))).encode()


def test_notes_in_other_formats_stay_behind(tmp_path: Path) -> None:
    (tmp_path / "tree/normal").mkdir(parents=True)
    pictures_with_notes(tmp_path / "tree/normal")
    assert sum(CANARY.encode() in data for data in contents(tmp_path / "tree")) >= 4
    result = index_folder(tmp_path / "tree", tmp_path / "d", assumed_spacing_mm=2.0, progress=False)
    assert (result.refused, result.patients) == ({}, 4)
    assert [data for data in contents(tmp_path / "d") if CANARY.encode() in data] == []


def test_pseudonyms_depend_on_the_key(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    write_nm(tmp_path / "tree/a.dcm", CANARY, InstitutionName="Clinic")
    table = write_table(tmp_path / "l.csv", [["patient", "label"], [CANARY, "normal"]])
    names = []
    for number in range(2):
        index_folder(tmp_path / "tree", tmp_path / f"d{number}", labels=table, key=bytes([number] * 32), progress=False)
        (item,) = load_dataset(tmp_path / f"d{number}").splits["training"]
        uid = pydicom.dcmread(tmp_path / f"d{number}" / item["image"]).SOPInstanceUID
        names.append({item["patient"], item["centre"], item["image"], str(uid)})
    assert names[0].isdisjoint(names[1])
    for text in (CANARY, f"patient\0{CANARY}"):
        for name in hashlib.algorithms_guaranteed - {"shake_128", "shake_256"}:
            assert hashlib.new(name, text.encode()).hexdigest()[:16] not in "".join(*names[:1])


def test_an_unknown_external_centre_lists_pseudonyms(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    write_nm(tmp_path / "tree/a.dcm", "ID1", InstitutionName=CANARY)
    table = write_table(tmp_path / "l.csv", [["patient", "label"], ["ID1", "normal"]])
    with pytest.raises(DatasetError, match=r"external centre 'X'; there are \['C[0-9a-f]{8}'\]"):
        index_folder(tmp_path / "tree", tmp_path / "d", labels=table, external=["X"], progress=False)
