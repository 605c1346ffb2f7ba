"""A study's two views, however they come."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged
from PIL import Image
from pydicom.data import get_testdata_file

from scintikit.dicom import ScintigramReader, StudyOptions, read_study, write_scintigram
from scintikit.dicom.names import studies_of_name, view_of_name
from scintikit.errors import ImageReadError

VIEWS = ("ANT", "POST")
ANT, POST = np.random.default_rng(7).poisson(20, (2, 40, 32)).astype(np.uint16)


def nm(path, *frames, views, spacing_mm=(2.0, 2.0), **options):
    write_scintigram(path, np.stack(frames), spacing_mm=spacing_mm, views=views, uid_seed=path.name, **options)
    return path


def png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def load(image, **options):
    reader = ScintigramReader(VIEWS, assumed_spacing_mm=2.0, **options)
    return LoadImaged("image", reader=reader, ensure_channel_first=True)({"image": image})["image"]


def assert_both(image):
    assert torch.equal(image.as_tensor(), torch.from_numpy(np.stack([ANT, POST]).astype(np.float32)))
    assert image.meta["views"] == "ANT,POST"


@pytest.mark.parametrize("order", [1, -1])
def test_two_frames_in_either_order(tmp_path, order):
    path = nm(tmp_path / "a.dcm", *(ANT, POST)[::order], views=VIEWS[::order], image_type="WHOLE BODY")
    assert_both(load(path))


@pytest.mark.parametrize("order", [1, -1])
def test_two_files_are_put_in_order_by_what_they_state(tmp_path, order):
    paths = [nm(tmp_path / f"{view}.dcm", frame, views=[view]) for view, frame in (("ANT", ANT), ("POST", POST))]
    image = load(paths[::order])
    assert_both(image)
    assert image.shape == (2, 40, 32)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_two_files_that_state_nothing_are_taken_in_their_order(tmp_path, dtype):
    assert_both(load([png(tmp_path / f"{number}.png", frame.astype(dtype)) for number, frame in ((1, ANT), (2, POST))]))


def test_one_view_is_an_error_unless_it_is_enough(tmp_path):
    path = nm(tmp_path / "a.dcm", POST, views=["POST"])
    with pytest.raises(ImageReadError, match="no frame is stated to show the view ANT"):
        load(path)
    image = load(path, one_view=True)
    assert (image.meta["views"], image.meta["stored_views"]) == ("POST", "POST")
    assert torch.equal(image[1].as_tensor(), torch.from_numpy(POST.astype(np.float32)))
    assert not image[0].any()
    with pytest.raises(ImageReadError, match="view ANT"):
        load(nm(tmp_path / "l.dcm", POST, views=["LLAT"]), one_view=True)
    assert_both(load(nm(tmp_path / "b.dcm", POST, ANT, views=["POST", "ANT"]), one_view=True))


def test_a_lone_frame_of_unknown_view(tmp_path):
    path = nm(tmp_path / "posterior.dcm", POST, views=[""])
    with pytest.raises(ImageReadError, match=r"posterior\.dcm: .*does not state which.*--assumed_view"):
        load(path, one_view=True)  # a DICOM file's name does not count
    assert load(path, one_view=True, assumed_view="ANT").meta["views"] == "ANT"
    assert load(png(tmp_path / "p1_post.png", POST), one_view=True, assumed_view="ANT").meta["views"] == "POST"
    with pytest.raises(ImageReadError, match="unknown view TOP"):
        ScintigramReader(VIEWS, assumed_view="TOP")


@pytest.mark.parametrize(("layout", "axis"), [("side_by_side", 1), ("stacked", 0)])
def test_both_views_in_one_picture(tmp_path, layout, axis):
    between = np.zeros((40, 1) if axis else (1, 32), np.uint16)
    for number, parts in enumerate(((ANT, POST), (ANT, between, POST))):  # an odd column or row belongs to neither
        assert_both(load(png(tmp_path / f"{number}.png", np.concatenate(parts, axis)), layout=layout))
    with pytest.raises(ImageReadError, match="views: ANT, so it does not show two views"):
        load(nm(tmp_path / "a.dcm", ANT, views=["ANT"]), layout=layout)
    with pytest.raises(ImageReadError, match="name both"):
        ScintigramReader(["ANT"], layout=layout)
    with pytest.raises(ImageReadError, match="layout is 'odd'; expected one of views"):
        ScintigramReader(VIEWS, layout="odd")


def test_files_that_do_not_fit_together_are_refused_by_name(tmp_path):
    ant = nm(tmp_path / "ant.dcm", ANT, views=["ANT"])
    for name, words, options in (
        ("small", "different sizes", {"frames": [POST[:20]]}),
        ("coarse", "different pixel spacings", {"frames": [POST], "spacing_mm": (3.0, 2.0)}),
        ("both", r"frames: \[1, 2\]", {"frames": [ANT, POST], "views": VIEWS}),
        ("same", "2 frames show the view ANT", {"frames": [POST], "views": ["ANT"]}),
    ):
        frames = options.pop("frames")
        other = nm(tmp_path / f"{name}.dcm", *frames, **({"views": ["POST"]} | options))
        with pytest.raises(ImageReadError, match=rf"ant\.dcm and .*{name}\.dcm: .*{words}"):
            load([ant, other])
    with pytest.raises(ImageReadError, match=r"frames: \[1, 1, 1\]"):
        load([ant, ant, ant])


def test_the_views_of_all_frames_are_passed_on(tmp_path):
    path = nm(tmp_path / "a.dcm", ANT, POST, ANT, views=["ANT", "POST", "LLAT"])
    assert load(path).meta["stored_views"] == "ANT,POST,LLAT"


@pytest.mark.parametrize(
    ("path", "view"),
    [
        ("p7_ant.png", "ANT"), ("Anterior.png", "ANT"), ("x-POST-2.png", "POST"), ("post/x_ant.png", "ANT"),
        ("Posterior/x.png", "POST"), ("Anterior/A12.png", "ANT"), ("Anterior/P12.png", ""), ("A12.png", ""),
        ("ant_post.png", ""), ("plant.png", ""), ("posterolateral.png", ""), ("ant/deep/x.png", ""),
    ],
)  # fmt: skip
def test_views_in_names(path, view):
    assert view_of_name(PurePath(path)) == view


@pytest.mark.parametrize(
    ("path", "readings"),
    [
        ("d/x_ant.PNG", [("ANT", "d/x_*.png"), ("ANT", "d/x_*.png")]),
        ("POST/P_1.nii.gz", [("POST", "*/P_1.nii.gz"), ("POST", "*/*_1.nii.gz")]),
        ("a12.png", [("ANT", "*12.png")]),
        ("12P.png", [("POST", "12*.png")]),
        ("ant_post.png", []),
        ("12.png", []),
    ],
)
def test_what_names_say_of_studies(path, readings):
    assert studies_of_name(PurePath(path)) == readings


@pytest.mark.codecs
@pytest.mark.parametrize("name", ["JPEG2000.dcm", "JPEG-LL.dcm", "JPEG2000_UNC.dcm"])
def test_nema_whole_body_scans_are_one_view_that_the_user_names(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("needs the package pydicom-data")
    with pytest.raises(ImageReadError, match="does not state which"):
        read_study([path], StudyOptions(VIEWS, one_view=True))
    scan, stored = read_study([path], StudyOptions(VIEWS, one_view=True, assumed_view="ANT"))
    assert (scan.counts.shape, scan.spacing_mm, scan.views, stored) == (
        (1, 1024, 256),
        (2.26, 2.26),
        ("ANT",),
        ("ANT",),
    )
