"""Two views of one patient: mirroring and augmentation."""

from __future__ import annotations

import pytest
import torch

from scintikit.data import TwoViewAugmentation, body_frame, mirror_posterior, mirrored_prompt, mirrored_view


def augmentation(**changes: float) -> TwoViewAugmentation:
    nothing = {"rotate_deg": 0.0, "shift": 0.0, "scale": 0.0, "flip": 0.0, "brightness": 0.0, "one_view": 0.0}
    return TwoViewAugmentation(**nothing | changes)


@pytest.fixture
def patients() -> torch.Tensor:
    """A patient whose posterior view shows the same places as the anterior one, mirrored, eight times over."""
    anterior = torch.zeros(1, 32, 16)
    anterior[0, 4:12, 9:13] = 1.0
    return mirror_posterior(torch.cat([anterior, anterior])).expand(8, -1, -1, -1).contiguous()


def test_mirroring_flips_the_posterior_view_alone_and_undoes_itself() -> None:
    views = torch.rand(3, 2, 8, 6)
    mirrored = mirror_posterior(views)
    assert torch.equal(mirrored[:, 0], views[:, 0])
    assert torch.equal(mirrored[:, 1], views[:, 1].flip(-1))
    assert torch.equal(mirror_posterior(mirrored), views)


@pytest.mark.parametrize("change", [{"rotate_deg": 20.0}, {"shift": 0.2}, {"scale": 0.2}, {"flip": 0.5}])
def test_both_views_show_the_same_patient_after_any_movement(patients: torch.Tensor, change: dict[str, float]) -> None:
    moved = augmentation(**change)(patients)
    body = mirror_posterior(moved)
    torch.testing.assert_close(body[:, 0], body[:, 1])
    assert (moved - patients).abs().amax((1, 2, 3)).gt(0.1).sum() >= 2, "nothing moved"


def test_a_flip_swaps_left_and_right_and_keeps_each_view(patients: torch.Tensor) -> None:
    patients = patients * torch.tensor([1.0, 0.5])[:, None, None]  # the posterior view is fainter
    torch.testing.assert_close(augmentation(flip=1.0)(patients), patients.flip(-1))


def test_now_and_then_one_view_is_left() -> None:
    views = torch.rand(400, 2, 4, 4) + 0.1
    left = augmentation(one_view=0.5)(views).amax((2, 3)) > 0
    assert left.any(dim=1).all(), "a patient lost both views"
    shares = [(left == torch.tensor(pattern)).all(1).float().mean() for pattern in ((True, False), (False, True))]
    assert all(0.18 < share < 0.32 for share in shares), shares


def test_a_patient_of_one_view_keeps_it() -> None:
    views = torch.rand(200, 2, 4, 4) + 0.1
    views[:100, 0], views[100:, 1] = 0, 0
    assert torch.equal(augmentation(one_view=1.0)(views), views)


def test_maps_move_along_and_keep_their_values(patients: torch.Tensor) -> None:
    maps = (patients[:, None] > 0.5).float().expand(-1, 3, -1, -1, -1)
    moved, along = augmentation(flip=0.5, shift=0.2, brightness=0.5)(patients, maps)
    assert along.shape == maps.shape
    brightest = moved.amax((2, 3), keepdim=True)
    torch.testing.assert_close(along[:, 1], moved / brightest, atol=1e-4, rtol=1e-4)
    assert (brightest - 1).abs().max() > 0.05


def test_frame_of_the_body_flips_posterior_views_wherever_they_stand() -> None:
    views = torch.rand(3, 8, 6)
    turned = body_frame(views, ("POST", "ANT", "LAO"))
    assert torch.equal(turned, torch.stack([views[0].flip(-1), views[1], views[2]]))
    assert torch.equal(body_frame(turned, ("POST", "ANT", "LAO")), views)
    assert torch.equal(body_frame(views[:2], ("ANT", "POST")), mirror_posterior(views[:2]))
    assert torch.equal(body_frame(views, ("ANT", "LAO", "")), views)
    assert torch.equal(body_frame(views[:1], ("POST",)), views[:1])


def test_mirrored_patient_shows_a_left_view_from_the_right() -> None:
    views = ["ANT", "POST", "LLAT", "RLAT", "LAO", "RPO", ""]
    assert list(map(mirrored_view, views)) == ["ANT", "POST", "RLAT", "LLAT", "RAO", "LPO", ""]


def test_mirrored_prompt_exchanges_the_sides_only() -> None:
    text = "hot nodule of the left lobe, right lobe larger, Left, alright"
    assert mirrored_prompt(text) == "hot nodule of the right lobe, left lobe larger, Right, alright"
    assert mirrored_prompt(mirrored_prompt(text)) == text
