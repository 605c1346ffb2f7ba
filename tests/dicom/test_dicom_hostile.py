"""Files made to exhaust a reader are refused by their headers: at once, with little memory, and with the reason."""

from __future__ import annotations

import gzip
import io
import os
import re
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from scintikit.data import find_images
from scintikit.dicom import read_scintigram, scan_header
from scintikit.errors import ImageReadError

SECONDS = 1.0
MIB = 2**20
PRIVATE = 0x00091001


def refused(path: Path, reason: str, header: bool = True) -> None:
    """Check that the file is refused at once and with little memory; by its header alone, if that can tell."""
    start = time.perf_counter()
    with pytest.raises(ImageReadError, match=reason):
        read_scintigram(path)
    seconds = time.perf_counter() - start
    assert seconds < SECONDS, f"{seconds:.1f} s"
    tracemalloc.start()  # slows Python down, so not while the time is taken
    with pytest.raises(ImageReadError, match=reason):
        read_scintigram(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * MIB, f"{peak / MIB:.0f} MiB"
    if header:
        summary = scan_header(path)
        assert not summary.usable
        assert re.search(reason, summary.reason)


def element(tag: int, vr: bytes, length: int, value: bytes = b"") -> bytes:
    """Return an element in explicit VR little endian with the length that it claims."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + (struct.pack("<HI", 0, length) if vr in (b"SQ", b"UN", b"OB") else struct.pack("<H", length)) + value


@pytest.fixture
def with_inserted(nm_file: Callable[..., Path]) -> Callable[[bytes], Path]:
    """Write an NM file with bytes between its meta information and its data set."""

    def make(inserted: bytes) -> Path:
        path = nm_file()
        data = path.read_bytes()
        start = 144 + int.from_bytes(data[140:144], "little")
        path.write_bytes(data[:start] + inserted + data[start:])
        return path

    return make


def encapsulated(nm_file: Callable[..., Path], syntax: str, stream: bytes, rows: int, columns: int) -> Path:
    """Write an NM file of one frame whose compressed pixels are `stream`."""

    def change(dataset: pydicom.Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.Rows, dataset.Columns = rows, columns
        dataset.PixelData = encapsulate([stream])
        dataset["PixelData"].is_undefined_length = True

    return nm_file(change, views=("ANT",))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535, "NumberOfFrames": 2**31 - 1}, "more than"),
        ({"Rows": 8192, "Columns": 8192, "NumberOfFrames": 1}, "its header announces 134217728"),
        ({"NumberOfFrames": 50000}, "DetectorVector|EnergyWindowVector"),
        ({"Rows": 0}, "no pixels"),
        ({"BitsAllocated": 65535}, "BitsAllocated is 65535"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "BitsAllocated is 1 "),
        ({"BitsAllocated": 16, "BitsStored": 60000, "HighBit": 59999}, "contradict"),
    ],
)
def test_absurd_sizes(nm_file: Callable[..., Path], facts: dict[str, int], reason: str) -> None:
    def change(dataset: pydicom.Dataset) -> None:
        for name, value in facts.items():
            setattr(dataset, name, value)

    refused(nm_file(change, views=("ANT",)), reason)


def test_a_number_of_frames_with_a_million_digits(with_inserted: Callable[[bytes], Path]) -> None:
    refused(with_inserted(element(0x00280008, b"UN", MIB, b"9" * MIB)), "an element of its header has 1048576 bytes")


@pytest.mark.parametrize("defined", [True, False])
def test_sequences_thousands_deep(with_inserted: Callable[[bytes], Path], defined: bool) -> None:
    window_information = 0x00540012  # a sequence that is looked into
    inner = b""
    for _ in range(3000):
        if defined:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
            inner = element(window_information, b"SQ", len(item), item)
        else:
            inner += element(window_information, b"SQ", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    refused(with_inserted(inner), "more than 64 deep")


def test_a_sequence_that_never_ends(with_inserted: Callable[[bytes], Path]) -> None:
    empty_item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    refused(with_inserted(element(PRIVATE, b"SQ", 0xFFFFFFFF) + empty_item * MIB), "more than 65536 elements")


def test_a_header_of_nothing_but_elements(with_inserted: Callable[[bytes], Path]) -> None:
    refused(with_inserted(element(PRIVATE, b"LO", 0) * MIB), "more than 65536 elements")


def test_a_private_element_that_claims_gigabytes(with_inserted: Callable[[bytes], Path]) -> None:
    refused(with_inserted(element(PRIVATE, b"UN", 2**31, b"\1" * 1000)), "truncated")


def test_a_file_of_terabytes_is_not_read(with_inserted: Callable[[bytes], Path]) -> None:
    path = with_inserted(b"")
    with path.open("ab") as file:
        file.truncate(2**40)  # sparse: takes no space
    assert read_scintigram(path).counts.shape == (2, 40, 32)  # what follows the pixels does not matter


def test_compressed_pixels_far_longer_than_the_picture(nm_file: Callable[..., Path]) -> None:
    path = encapsulated(nm_file, RLELossless, bytes(64), 40, 32)
    with path.open("ab") as file:
        file.truncate(2**40)
    refused(path, "its compressed pixel data has 1099511")


@pytest.mark.codecs
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_tiny_stream_that_announces_a_huge_picture(nm_file: Callable[..., Path], syntax: str) -> None:
    refused(encapsulated(nm_file, syntax, bytes(5000), 8192, 8192), "its header announces 134217728 bytes of pixels")


@pytest.mark.codecs
def test_a_jpeg2000_frame_of_tens_of_thousands_of_tiles(nm_file: Callable[..., Path]) -> None:
    path = nm_file(transfer_syntax="j2k", counts=np.ones((1, 255, 256), np.uint16), views=("ANT",))
    data = bytearray(path.read_bytes())
    sizes = data.index(b"\xff\x4f\xff\x51") + 8 + 16
    data[sizes : sizes + 8] = struct.pack(">2I", 1, 1)
    path.write_bytes(data)
    refused(path, "more than 1024 tiles", header=False)


def test_a_deflated_file_that_inflates_without_end(nm_file: Callable[..., Path]) -> None:
    path = nm_file(transfer_syntax="deflated")
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = deflater.compress(bytes(100 * MIB)) + deflater.flush()
    path.write_bytes(data[:start] + bomb)
    assert len(path.read_bytes()) < MIB // 4
    refused(path, "inflates to more than")


@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_an_archive_with_the_name_of_a_dicom_file(nm_file: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    inner, path = nm_file(name="inner.dcm").read_bytes(), tmp_path / "archive.dcm"
    if kind == "gz":
        path.write_bytes(gzip.compress(inner))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.dcm", inner)
    refused(path, "it is not DICOM")


def test_compressed_nifti_and_png_of_a_huge_blank_picture(tmp_path: Path) -> None:
    import nibabel as nib

    head = nib.Nifti1Image(np.zeros((1, 1), np.uint8), np.diag([-1.0, -1.0, 1.0, 1.0])).header
    head.set_data_shape((8192, 8192))
    head["vox_offset"], head["magic"] = 352, b"n+1"
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb") as file:
        file.write(head.binaryblock + bytes(4))
        for _ in range(64):
            file.write(bytes(MIB))
    (tmp_path / "blank.nii.gz").write_bytes(content.getvalue())
    refused(tmp_path / "blank.nii.gz", "too few for a picture of counts", header=False)
    Image.new("L", (8192, 8192)).save(tmp_path / "blank.png")
    refused(tmp_path / "blank.png", "too few for a picture of counts", header=False)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("suffix", [".dcm", ".nii", ".nii.gz", ".png"])
def test_what_is_no_ordinary_file_is_not_opened(tmp_path: Path, suffix: str) -> None:
    pipe, folder, device, loop = (tmp_path / f"{name}{suffix}" for name in ("pipe", "folder", "device", "loop"))
    os.mkfifo(pipe)
    folder.mkdir()
    device.symlink_to("/dev/zero")
    loop.symlink_to(loop.name)
    for path in (pipe, folder, device):
        refused(path, "not an ordinary file", header=suffix == ".dcm")
    refused(loop, "cannot read", header=suffix == ".dcm")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "good.dcm").write_bytes(b"a file")
    assert [item["id"] for item in find_images(tmp_path)] == ["good.dcm"]


@pytest.mark.timeout(20)
def test_a_listing_that_is_no_listing_does_not_stop_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"a file")
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    assert len(find_images(tmp_path)) == 1
    (tmp_path / "dataset.json").unlink()
    os.mkfifo(tmp_path / "dataset.json")
    assert len(find_images(tmp_path)) == 1
