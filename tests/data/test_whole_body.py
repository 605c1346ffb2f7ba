"""What reaches the network of whole-body scans, and what is refused with a reason."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged

from scintikit.data import CheckWholeBodyd
from scintikit.dicom import ScintigramReader, write_scintigram
from scintikit.errors import ImageReadError
from scintikit.phantoms.cameras import load_cameras
from scintikit.phantoms.skeleton import bone_cases, simulate_bone_case
from scintikit.phantoms.skeleton.cameras import pixel_mm

check = CheckWholeBodyd("image")


def item(counts, spacing_mm=2.3, views="ANT,POST", stored=None):
    affine = torch.diag(torch.tensor([spacing_mm, spacing_mm, 1.0, 1.0], dtype=torch.float64))
    meta = {"filename_or_obj": "in/scan.dcm", "views": views, "stored_views": stored or views}
    return {"image": MetaTensor(torch.as_tensor(counts, dtype=torch.float32), affine=affine, meta=meta)}


def refused(data, words):
    with pytest.raises(ImageReadError, match=rf"^in/scan\.dcm: .*{words}"):
        check(data)


@pytest.fixture(scope="module")
def scans():
    """Every patient of bone_tiny: counts `(2, 1024, 256)` and the pixel spacing in mm."""
    return [
        (
            torch.from_numpy(simulate_bone_case(case, 0)[1].counts.astype("float32")),
            pixel_mm(load_cameras()[case.centre]),
        )
        for case in bone_cases("bone_tiny", 0)
    ]


def test_simulated_scans_pass_and_upside_down_ones_do_not(scans):
    for counts, spacing in scans:
        assert check(item(counts, spacing))["warning"] == ""
        refused(item(counts.flip(1), spacing), "in its anterior view the head is at the bottom")
        for view, name in enumerate(("ANT", "POST")):
            alone = torch.zeros_like(counts)
            alone[view] = counts[view]
            assert check(item(alone, spacing, name))["warning"]
            refused(item(alone.flip(1), spacing, name), "head is at the bottom")


def test_synthetic_scans_are_not_looked_at_but_their_views_count(scans):
    counts, spacing = scans[0]
    origins = {kind: {"origin": {"kind": kind}} for kind in ("gan", "augmented", "acquired", "simulated")}
    for kind in ("gan", "augmented"):
        assert check(item(counts.flip(1), spacing) | origins[kind])["warning"] == ""
        assert check(item(counts * 0, 1.0, "ANT") | origins[kind])["warning"].startswith("only the anterior view")
        refused(item(counts, spacing, stored="ANT,POST,LAO") | origins[kind], "3 views")
    for kind in ("acquired", "simulated"):
        refused(item(counts.flip(1), spacing) | origins[kind], "head is at the bottom")


def test_mirrored_scans_pass(scans):
    """Left and right cannot be told apart, so nothing is made of them."""
    assert check(item(scans[0][0].flip(2), scans[0][1]))["warning"] == ""


def test_one_view_is_a_warning(scans):
    counts = scans[0][0].clone()
    counts[0] = 0
    assert check(item(counts, views="POST"))["warning"] == (
        "only the posterior view is there: predicted from one view, less certain."
    )
    refused(item(counts), "in its anterior view there are no counts")


def test_three_views(scans):
    refused(
        item(scans[0][0], stored="ANT,POST,LLAT"),
        r"it holds 3 views \(ANT, POST, LLAT\); expected no more than ANT and",
    )


def test_small_fields_and_wrong_spacing(scans):
    refused(item(torch.rand(2, 128, 128), 3.0), "384 x 384 mm .*thyroid")
    refused(item(scans[0][0], 0.9), "922 x 230 mm .*spacing")
    refused(item(scans[0][0], 9.0), "spacing")
    part = torch.zeros_like(scans[0][0])
    part[:, 400:700] = scans[0][0][:, 400:700]
    refused(item(part), "in its anterior view the body is 7.. mm long")


def test_aspect(scans):
    counts = scans[0][0]
    refused(item(counts.transpose(1, 2)), "589 x 2355 mm .*head is on top")
    refused(item(torch.nn.functional.pad(counts, (300, 300))), "side_by_side")


def test_saturation(scans):
    for counts, spacing in scans[:5]:
        hot = counts.clone()
        hot[:, 420:440, 120:140] += 20 * counts.max() * torch.rand(2, 20, 20)  # a full bladder
        assert check(item(hot, spacing))["warning"] == ""
        refused(item(counts.clamp(max=float(counts[1].quantile(0.97))), spacing), "saturated. Export it again")


def test_it_works_on_what_the_reader_gives(scans, tmp_path):
    counts, spacing = scans[0]
    path = tmp_path / "a.dcm"
    write_scintigram(path, counts[1:].numpy(), spacing_mm=(spacing, spacing), views=["POST"], uid_seed="a")
    reader = ScintigramReader(["ANT", "POST"], one_view=True)
    loaded = LoadImaged("image", reader=reader, ensure_channel_first=True)({"image": str(path), "id": "a"})
    assert "only the posterior view" in check(loaded)["warning"]
    loaded["image"] = loaded["image"].flip(1)
    with pytest.raises(ImageReadError, match=r"a\.dcm: in its posterior view the head"):
        check(loaded)
