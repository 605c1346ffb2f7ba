from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pydicom
import pytest

from scintikit.dicom import read_scintigram, write_scintigram
from scintikit.errors import ImageWriteError

SETTINGS = {"spacing_mm": (2.5, 2.0), "views": ("ANT", "POST"), "uid_seed": "1"}
PICTURE = np.arange(2 * 40 * 32).reshape(2, 40, 32)

# Debian's validator dates from 2022 and does not know SyntheticData (0008,001C), which DICOM added in 2023.
UNKNOWN_TO_THE_VALIDATOR = re.compile(r"not a recognized standard attribute - \(0x0008,0x001c\)")


@pytest.mark.dciodvfy
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"synthetic": False, "body_part": "WHOLEBODY", "image_type": "WHOLE BODY", "acquisition_s": 600},
        {"views": ("POST", "ANT"), "transfer_syntax": "rle", "description": "Simulated"},
        {"energy_windows_kev": ((92, 125), (126, 154)), "views": ("ANT", "ANT")},
        pytest.param({"transfer_syntax": "jpegls"}, marks=pytest.mark.codecs),
        pytest.param({"transfer_syntax": "j2k"}, marks=pytest.mark.codecs),
    ],
    ids=str,
)
def test_objects_satisfy_the_validator(tmp_path, options):
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian package dicom3tools)")
    write_scintigram(tmp_path / "a.dcm", PICTURE, **(SETTINGS | options))
    found = subprocess.run(["dciodvfy", tmp_path / "a.dcm"], capture_output=True, text=True, timeout=60)
    report = found.stdout + found.stderr
    errors = [line for line in report.splitlines() if "Error" in line and not UNKNOWN_TO_THE_VALIDATOR.search(line)]
    assert "NMImage" in report
    assert errors == []


def test_a_synthetic_picture_says_so_and_names_nobody(tmp_path):
    write_scintigram(tmp_path / "a.dcm", PICTURE, **SETTINGS)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    assert dataset.SOPClassUID == pydicom.uid.NuclearMedicineImageStorage
    assert (dataset.SyntheticData, list(dataset.ImageType)) == ("YES", ["DERIVED", "PRIMARY", "STATIC", "EMISSION"])
    people_and_dates = [e for e in dataset.iterall() if e.VR in ("PN", "DA", "TM", "DT") or e.tag.group == 0x0010]
    assert people_and_dates
    assert all(e.is_empty for e in people_and_dates)
    assert not any(e.tag.is_private for e in dataset.iterall())


@pytest.mark.parametrize("suffix", [".dcm", ".nii", ".nii.gz", ".png"])
def test_the_bytes_depend_on_the_arguments_alone(tmp_path, suffix):
    settings = SETTINGS | {"views": ("ANT",)}
    for name in "ab":
        write_scintigram(tmp_path / (name + suffix), PICTURE[:1], **settings)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_uids_follow_the_seed(tmp_path):
    uids = set()
    for seed in "12":
        write_scintigram(tmp_path / "a.dcm", PICTURE, **(SETTINGS | {"uid_seed": seed}))
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        uids |= {dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID}
    assert len(uids) == 6


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("a.dcm", {"counts": PICTURE - 1}, "-1 to"),
        ("a.png", {"counts": PICTURE[:1] * 100, "views": ("ANT",)}, "holds 0 to 65535"),
        ("a.dcm", {"counts": PICTURE + 0.5}, "not whole numbers"),
        ("a.nii.gz", {"counts": PICTURE * np.nan}, "NaN"),
        ("a.dcm", {"counts": PICTURE[0]}, r"expected numbers \(view, row, column\)"),
        ("a.dcm", {"counts": PICTURE.astype(complex)}, "expected numbers"),
        ("a.png", {}, "PNG holds one view"),
        ("a.tif", {}, "suffix"),
        ("a.dcm", {"views": ("ANT",)}, "one per frame"),
        ("a.dcm", {"views": ("ANT", "TOP")}, "one per frame"),
        ("a.dcm", {"spacing_mm": (2.0, 0.0)}, "spacing_mm"),
        ("a.dcm", {"transfer_syntax": "mp4"}, "transfer_syntax"),
        ("a.dcm", {"image_type": "TOMO"}, "image_type"),
        ("a.dcm", {"body_part": "the thyroid"}, "body_part"),
        ("a.dcm", {"description": "x" * 65}, "64 characters"),
        ("a.dcm", {"energy_windows_kev": ((1, 2),) * 3}, "3 energy windows"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, name, change, reason):
    settings = {"counts": PICTURE} | SETTINGS | change
    with pytest.raises(ImageWriteError, match=reason):
        write_scintigram(tmp_path / name, **settings)
    assert list(tmp_path.iterdir()) == []


def test_nifti_keeps_negative_and_fractional_values(tmp_path):
    picture = PICTURE - 100.25
    write_scintigram(tmp_path / "a.nii.gz", picture, **SETTINGS)
    with pytest.warns(UserWarning, match="kept as stored"):
        assert np.array_equal(read_scintigram(tmp_path / "a.nii.gz").counts, picture)
