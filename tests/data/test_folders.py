import json
import logging
import os
import sys

import pytest
import torch

from scintikit.data import TolerantDataset, find_images
from scintikit.errors import DatasetError, ImageReadError


def ids(folder):
    return [item["id"] for item in find_images(folder)]


def test_pictures_of_all_subfolders_and_what_is_left_out(tmp_path, caplog):
    for name in ("b/1.2.840", "a.dcm", "b/no suffix", "c/DICOMDIR", ".hidden.dcm", "notes.txt", "c/d/x.NII.GZ"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "circle").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.dcm")
    with caplog.at_level(logging.INFO):
        assert ids(tmp_path) == ["a.dcm", "b/1.2.840", "b/no suffix", "c/d/x.NII.GZ"]
    assert "left out circle: it is a link to a folder" in caplog.text
    assert "left out pipe.dcm" in caplog.text
    assert "left out 3 files that are no pictures by their names" in caplog.text
    assert ids(tmp_path / "a.dcm") == ["a.dcm"]


def test_masks_of_a_dataset_are_no_pictures_to_read(tmp_path):
    items = [{"image": "images/1.dcm", "mask": "masks/1.dcm"}, {"image": "images/2.dcm"}]
    content = {"training": items[:1], "validation": [], "test": items[1:]}
    for name in ("images/1.dcm", "images/2.dcm", "masks/1.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert ids(tmp_path) == ["images/1.dcm", "images/2.dcm"]
    (tmp_path / "dataset.json").write_text('{"training": 3}')
    assert ids(tmp_path) == ["images/1.dcm", "images/2.dcm", "masks/1.dcm"]


def test_nothing_there_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DatasetError, match="no DICOM, NIfTI or PNG file"):
        find_images(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        find_images(tmp_path / "x")


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names must be Unicode there")
def test_ids_fit_any_file_and_are_no_formulas(tmp_path):
    for name in (b"=1+1.dcm", b"-x.dcm", b"new\nline.dcm", b"\xe4.dcm", "ä.dcm".encode(), b"sub/=1.dcm"):
        path = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - pathlib takes no bytes
        with open(path, "w"):  # noqa: PTH123
            pass
    found = find_images(tmp_path)
    assert {item["id"] for item in found} == {
        *("./-x.dcm", "./=1+1.dcm", r"new\nline.dcm", r"\xe4.dcm", "ä.dcm", "sub/=1.dcm")
    }
    assert all(os.path.isfile(item["image"]) for item in found)  # noqa: PTH113


def test_reason_of_an_unreadable_picture_can_be_written(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xe4\n.dcm")

    def fail(item):
        raise ImageReadError(f"cannot read {item['image']}: no")

    (item,) = [TolerantDataset([{"image": path, "id": "x"}], fail, (4, 4))[0]]
    assert item["error"].encode() == os.fsencode(tmp_path).join([b"cannot read ", rb"/\xe4\n.dcm: no"])
    assert torch.equal(item["image"], torch.zeros(1, 4, 4))
