"""Our walk over a file's elements against pydicom's parser, on the files that pydicom ships."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from scintikit.dicom.elements import parse_file
from scintikit.dicom.header import SEQUENCES, WANTED
from scintikit.errors import ImageReadError

# Group 0001 does not exist; a file that ends inside a compressed frame is refused later, with its pixels.
EXCEPTIONS = {"nested_priv_SQ.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm", "rtplan_truncated.dcm"}


FOLDER = Path(get_testdata_file("CT_small.dcm")).parent  # asking pydicom for files by pattern would go to the network
SAMPLES = sorted(path for path in FOLDER.glob("*.dcm") if path.name not in EXCEPTIONS)


@pytest.mark.filterwarnings("ignore")
def test_values_are_pydicoms_values():
    compared = 0
    for path in SAMPLES:
        try:
            theirs = pydicom.dcmread(path)
        except pydicom.errors.InvalidDicomError:
            continue
        if "TransferSyntaxUID" not in theirs.file_meta:
            continue
        data = path.read_bytes()
        ours = parse_file(data, len(data), WANTED, SEQUENCES).elements
        for tag in WANTED:
            element = theirs.get_item(tag, keep_deferred=True)
            if tag >> 16 == 0x7FE0:
                assert (tag in ours.pixels) == (tag in theirs), path.name
            elif element is None or getattr(element, "is_raw", False):
                assert ours.values.get(tag, b"") == (element.value or b"" if element else b""), (path.name, hex(tag))
        for tag in SEQUENCES:
            assert len(ours.items(tag)) == len(theirs[tag].value if tag in theirs else []), path.name
        compared += 1
    assert compared > 50


def test_a_truncated_header_is_an_error():
    data = (FOLDER / "CT_small.dcm").read_bytes()
    for length in range(400, 2000, 37):
        with pytest.raises(ImageReadError):
            parse_file(data[:length], len(data), WANTED, SEQUENCES)
