from __future__ import annotations

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged
from PIL import Image

from scintikit.dicom import ScintigramReader, read_scintigram, write_scintigram
from scintikit.errors import ImageReadError

SPACING = (2.5, 2.0)


def picture(views=1):
    pixels = np.random.default_rng(1).poisson(20, (views, 40, 32))
    pixels[:, :5, :3] += 60_000  # 16 bits, and a corner that tells the orientation
    return pixels


def test_the_case_of_a_suffix_does_not_matter(tmp_path):
    write_scintigram(tmp_path / "a.nii.gz", picture(), spacing_mm=SPACING, views=("POST",), uid_seed="1")
    path = (tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
    assert np.array_equal(read_scintigram(path).counts, picture())


@pytest.mark.parametrize("name", ["a.dcm", "a.nii", "a.nii.gz", "a.png"])
@pytest.mark.parametrize("reader", ["scintikit.dicom.ScintigramReader", ScintigramReader])
def test_load_imaged_gives_one_array_for_every_format(tmp_path, name, reader):
    write_scintigram(tmp_path / name, picture(), spacing_mm=SPACING, views=("POST",), uid_seed="1")
    load = LoadImaged("image", reader=reader, ensure_channel_first=True, views=["POST"])
    image = load({"image": tmp_path / name})["image"]
    assert image.shape == (1, 40, 32)
    assert torch.equal(image.as_tensor(), torch.from_numpy(picture().astype(np.float32)))
    assert torch.equal(torch.diagonal(image.affine), torch.tensor([2.5, 2.0, 1, 1], dtype=torch.float64))
    assert image.meta["views"] == "POST"
    assert tuple(image.meta["spacing_mm"]) == SPACING


@pytest.mark.parametrize("name", ["a.dcm", "a.nii.gz"])
def test_several_views_are_channels_chosen_by_name(tmp_path, name):
    write_scintigram(tmp_path / name, picture(2), spacing_mm=SPACING, views=("POST", "ANT"), uid_seed="1")
    reader = ScintigramReader(views=("ANT", "POST"))
    counts, meta = reader.get_data(reader.read(tmp_path / name))
    assert np.array_equal(counts, picture(2)[::-1])
    assert (meta["original_channel_dim"], tuple(meta["spatial_shape"])) == (0, (40, 32))


@pytest.mark.parametrize("name", ["a.nii", "a.png"])
def test_a_stated_view_is_not_overruled(tmp_path, name):
    write_scintigram(tmp_path / name, picture(), spacing_mm=SPACING, views=("POST",), uid_seed="1")
    with pytest.raises(ImageReadError, match=r"ANT .*POST"):
        read_scintigram(tmp_path / name, ("ANT",))


@pytest.mark.parametrize("signs", [(-1, -1), (1, -1), (-1, 1), (1, 1)])
def test_the_affine_of_a_foreign_nifti_turns_it_as_displayed(tmp_path, signs):
    right, up = signs[0] > 0, signs[1] > 0
    stored = picture()[0].T[:: -1 if right else 1, :: -1 if up else 1]
    affine = np.array([[2.0 * signs[0], 0, 0, 0], [0, 0, 1, 0], [0, 2.5 * signs[1], 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(stored.astype(np.int32), affine), tmp_path / "a.nii.gz")
    scan = read_scintigram(tmp_path / "a.nii.gz", views=("ANT",))
    assert np.array_equal(scan.counts, picture())
    assert scan.spacing_mm == SPACING


def _nifti(array, affine=None):
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine
    return lambda path: nib.save(nib.Nifti1Image(array, affine), path)


def _garbage(path):
    path.write_bytes(b"\x1f\x8bgarbage" * 9)


def _image(mode, shape=(4, 4), **options):
    return lambda path: Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape), mode).save(
        path, **options
    )


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("a.nii.gz", _nifti(np.zeros((4, 4, 2, 3), np.float32)), "shape"),
        ("a.nii.gz", _nifti(np.zeros((4, 4), np.complex64)), "complex64"),
        ("a.nii.gz", _nifti(np.full((4, 4), np.nan, np.float32)), "NaN"),
        ("a.nii.gz", _nifti(np.zeros((4, 4), np.float32), np.eye(4)[[1, 0, 2, 3]]), "first axes"),
        ("a.nii.gz", _garbage, "damaged|gzip"),
        ("a.nii", lambda path: path.write_bytes(b""), "empty"),
        ("a.png", lambda path: path.write_bytes(b""), "empty"),
        ("a.png", _garbage, "damaged"),
        ("a.jpg", _image("RGB", (8, 8, 3)), "colour"),
        ("a.png", _image("RGBA", (4, 4, 4)), "RGBA"),
        (
            "a.png",
            _image("L", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
            "rotated",
        ),
    ],
)
def test_bad_pictures_are_refused_with_the_reason(tmp_path, name, make, reason):
    make(tmp_path / name)
    with pytest.raises(ImageReadError, match=reason) as caught:
        read_scintigram(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_grey_stored_as_colour_reads_as_grey(tmp_path, name):
    grey = np.full((16, 16), 77, np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / name)
    assert np.array_equal(read_scintigram(tmp_path / name).counts[0], grey)


@pytest.mark.parametrize(("dpi", "spacing"), [(None, None), (72, None), (300, None), (12.7, 2.0)])
def test_only_a_gamma_cameras_spacing_is_believed_in_a_png(tmp_path, dpi, spacing):
    options = {} if dpi is None else {"dpi": (dpi, dpi)}
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png", **options)
    found = read_scintigram(tmp_path / "a.png").spacing_mm
    assert found == (None if spacing is None else pytest.approx((spacing, spacing), rel=1e-3))


def test_a_picture_without_spacing_needs_an_assumed_one(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match="assumed_spacing_mm"):
        LoadImaged("image", reader=ScintigramReader())({"image": tmp_path / "a.png"})
    reader = ScintigramReader(assumed_spacing_mm=3)
    assert reader.get_data(reader.read(tmp_path / "a.png"))[1]["affine"][0, 0] == 3
    write_scintigram(tmp_path / "b.png", picture(), spacing_mm=SPACING, views=("ANT",), uid_seed="1")
    assert reader.get_data(reader.read(tmp_path / "b.png"))[1]["affine"][0, 0] == 2.5  # a stated spacing counts


def test_the_reader_says_what_it_cannot_do(tmp_path):
    with pytest.raises(ImageReadError, match="one file"):
        LoadImaged("image", reader=ScintigramReader())({"image": [tmp_path / "a.dcm", tmp_path / "b.dcm"]})
    with pytest.raises(ImageReadError, match="unknown view TOP"):
        ScintigramReader(views="TOP")
    with pytest.raises(ImageReadError, match="above 0"):
        ScintigramReader(assumed_spacing_mm=0)


def test_a_file_we_refuse_is_not_passed_to_other_readers(tmp_path):
    """MONAI's own readers would read a colour picture, and turn it on its side."""
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match="colour"):
        LoadImaged("image", reader=ScintigramReader())({"image": tmp_path / "a.png"})


def test_reading_headers_does_not_wait_for_monai():
    program = "import sys, scintikit.dicom; assert not {'monai', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
