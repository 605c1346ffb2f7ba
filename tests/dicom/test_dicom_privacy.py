"""Planted identifiers must not come out anywhere."""

from __future__ import annotations

import traceback

import pytest

from scintikit.dicom import ScintigramReader, read_scintigram, scan_header, write_scintigram

CANARIES = ("CANARYNAME", "CANARYID", "19770707", "CANARYPRIVATE", "CANARYPLACE", "CANARYTEXT", "1.2.77777")


def plant(dataset):
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "CANARYNAME^A", "CANARYID", "19770707"
    dataset.StudyDate = dataset.AcquisitionDate = dataset.ContentDate = "19770707"
    dataset.InstitutionName = dataset.StationName = "CANARYPLACE"
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = "1.2.77777"
    dataset.SeriesDescription = dataset.ImageComments = dataset.ImageID = "CANARYTEXT"
    dataset.private_block(0x0009, "CANARYPRIVATE", create=True).add_new(1, "LO", "CANARYPRIVATE")
    dataset.DetectorInformationSequence[0].ViewCodeSequence[0].CodeMeaning = "CANARYNAME"


def spoil(**values):
    """Plant, then make the file unreadable in a way whose plain message would quote the header."""

    def change(dataset):
        plant(dataset)
        for name, value in values.items():
            dataset[name] = type(dataset[name])(dataset[name].tag, "LO", value)

    return change


def assert_clean(*things):
    for thing in things:
        assert not [canary for canary in CANARIES if canary in str(thing)]


def test_reading_drops_identifiers(nm_file, tmp_path, caplog):
    path = nm_file(plant)
    scan = read_scintigram(path)
    reader = ScintigramReader()
    counts, meta = reader.get_data(reader.read(path))
    assert_clean(vars(scan), meta, repr(scan_header(path)), caplog.text)
    for name in ("b.dcm", "b.nii"):
        write_scintigram(tmp_path / name, counts, spacing_mm=scan.spacing_mm, views=scan.views, uid_seed="1")
        assert_clean((tmp_path / name).read_bytes())
    assert scan_header(path).patient_id == "CANARYID"  # there to be hashed, but not shown


@pytest.mark.parametrize(
    "values",
    [
        {"Modality": "CANARYNAME"},
        {"SOPClassUID": "CANARYID"},
        {"PixelSpacing": "CANARYID"},
        {"NumberOfFrames": "CANARYID"},
        {"ImageType": "A\\B\\CANARYNAME canary"},
        {"BodyPartExamined": "Canary CANARYNAME"},
        {"DetectorInformationSequence": "CANARYNAME"},
        {"Rows": "CANARYID"},
        {"PhotometricInterpretation": "CANARYNAME"},
    ],
    ids=str,
)
def test_errors_warnings_and_tracebacks_quote_no_header(nm_file, values, caplog, recwarn):
    path = nm_file(spoil(**values))
    recwarn.clear()
    caplog.clear()
    try:
        assert_clean(vars(read_scintigram(path)))
    except Exception as error:
        assert_clean("".join(traceback.format_exception(error)))
    assert_clean(scan_header(path).reason, caplog.text, [str(w.message) for w in recwarn])
