"""From files to pictures: counts, masks, the field of view, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scintikit.data import Resampled
from scintikit.errors import DatasetError
from scintikit.generation import BodyFrame, FixedSize, MaskAndField, Stabilised, count_level, stabilise, unstabilise


def _image(values: torch.Tensor, pixel_mm: float = 2.0) -> MetaTensor:
    return MetaTensor(values, affine=torch.diag(torch.tensor([pixel_mm, pixel_mm, 1.0, 1.0], dtype=torch.float64)))


def _item(mask: torch.Tensor | None = None, size: int = 6) -> dict[str, object]:
    item: dict[str, object] = {"id": "A_1", "image": _image(torch.ones(1, size, size), 1.5)}
    return item if mask is None else item | {"mask": _image(mask)}


def test_stabilised_noise_is_the_same_for_faint_and_hot_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    level = 400.0
    spread = [
        float(stabilise(torch.poisson(torch.full((200_000,), rate), generator=generator), level).std())
        for rate in (5.0, 50.0, 400.0)
    ]
    expected = 0.5 / (math.sqrt(level + 3 / 8) - math.sqrt(3 / 8))
    assert spread == pytest.approx([expected] * 3, rel=0.03)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0, 3.0, 30.0, 300.0])
def test_mean_of_stabilised_counts_goes_back_to_the_expected_counts(rate: float) -> None:
    counts = torch.poisson(torch.full((400_000,), rate), generator=torch.Generator().manual_seed(0))
    mean = stabilise(counts, 100.0).mean()
    assert float(unstabilise(mean, 100.0)) == pytest.approx(rate, rel=0.02, abs=0.02)
    algebraic = ((mean * (math.sqrt(100.375) - math.sqrt(0.375)) + math.sqrt(0.375)) ** 2 - 0.375).item()
    assert rate in (0.0, 300.0) or abs(algebraic - rate) > 0.03 * min(rate, 3)  # what the exact inverse is for


def test_level_becomes_one_and_zero_stays_zero() -> None:
    density = torch.arange(1000.0).reshape(1, 10, 100)
    level = count_level(density)
    assert level == pytest.approx(np.quantile(density.numpy(), 0.998), abs=1.5)
    picture = Stabilised()({"id": "A_1", "image": _image(density)})["image"]
    assert float(picture[0, 0, 0]) == 0
    assert float(stabilise(torch.tensor(level), level)) == pytest.approx(1)
    assert float(picture.max()) > 1


def test_image_without_counts_in_the_field_is_refused() -> None:
    with pytest.raises(DatasetError, match="A_1 holds hardly any counts"):
        Stabilised()({"id": "A_1", "image": _image(torch.zeros(1, 64, 64))})


def test_resampling_keeps_counts_if_asked() -> None:
    counts = torch.poisson(torch.full((1, 60, 60), 10.0))
    for spacing in (1.3, 2.0, 4.8):
        kept = Resampled("image", (spacing, spacing), keep_counts=True)({"image": _image(counts, 2.4)})["image"]
        assert float(kept.sum()) == pytest.approx(float(counts.sum()), rel=0.02)
        mean = Resampled("image", (spacing, spacing))({"image": _image(counts, 2.4)})["image"]
        assert float(mean.mean()) == pytest.approx(10, rel=0.05)


def test_mask_becomes_channels_with_the_field_last() -> None:
    mask = torch.zeros(1, 6, 6)
    mask[0, 1, 1], mask[0, 2, 2] = 1, 3
    result = MaskAndField(3)(_item(mask))
    assert result["mask"].shape == (4, 6, 6)
    assert [float(channel.sum()) for channel in result["mask"]] == [1, 0, 1, 36]
    assert result["matrix"].tolist() == [6, 6]
    assert result["pixel_mm"].tolist() == [1.5, 1.5]
    assert float(result["mask"].affine[0, 0]) == 1.5  # so that it is resampled as the image is


@pytest.mark.parametrize("labels", [0, 3])
def test_item_without_mask_has_no_structures_but_a_field(labels: int) -> None:
    result = MaskAndField(labels)(_item())
    assert result["mask"].shape == (labels + 1, 6, 6)
    assert float(result["mask"].sum()) == 36


def test_masks_are_ignored_by_a_generator_without_them() -> None:
    result = MaskAndField(0)(_item(torch.ones(1, 6, 6)))
    assert result["mask"].shape == (1, 6, 6)


def test_mask_that_does_not_fit_is_named() -> None:
    with pytest.raises(DatasetError, match="A_1 holds the structure 4; known are 1 to 3, see --mask_labels"):
        MaskAndField(3)(_item(torch.full((1, 6, 6), 4.0)))
    with pytest.raises(DatasetError, match=r"mask of A_1 is \(1, 5, 5\), its image \(1, 6, 6\)"):
        MaskAndField(3)(_item(torch.ones(1, 5, 5)))


def test_other_size_is_refused_where_nothing_is_resampled() -> None:
    assert FixedSize((6, 6))(_item())["id"] == "A_1"
    with pytest.raises(DatasetError, match=r"A_1 has 6 x 6 pixels, expected 8 x 8.*--spacing_mm"):
        FixedSize((8, 8))(_item())


def test_each_view_has_a_mask_of_its_own() -> None:
    values = torch.zeros(2, 6, 6)
    values[0, 0, 1], values[1, 0, 4], values[1, 5, 0] = 1, 1, 2
    item = {"id": "A_1", "image": _image(torch.ones(2, 6, 6)), "mask": _image(values)}
    displayed = MaskAndField(2)(item)["mask"]
    assert displayed.shape == (5, 6, 6)
    assert [channel.nonzero().tolist() for channel in displayed[:-1]] == [[[0, 1]], [], [[0, 4]], [[5, 0]]]
    aligned = MaskAndField(2)(BodyFrame(("ANT", "POST"))(item))["mask"]
    assert [channel.nonzero().tolist() for channel in aligned[:-1]] == [[[0, 1]], [], [[0, 1]], [[5, 5]]]
    assert float(aligned.affine[0, 0]) == 2.0
    with pytest.raises(DatasetError, match=r"mask of A_1 is \(1, 6, 6\), its image \(2, 6, 6\)"):
        MaskAndField(2)(item | {"mask": _image(values[1:])})
    with pytest.raises(DatasetError, match=r"mask of A_1 is \(2, 6, 6\), its image \(1, 6, 6\)"):
        MaskAndField(2)(item | {"image": _image(torch.ones(1, 6, 6))})


def test_one_view_is_left_as_displayed() -> None:
    item = _item(torch.arange(36.0).reshape(1, 6, 6))
    assert torch.equal(BodyFrame(["POST"])(item)["mask"], item["mask"])
    assert set(BodyFrame(["ANT"])(_item())) == {"id", "image"}
