"""Expected counts come back to the camera's own pixels: in place, conserved, and with Poisson statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ResizeWithPadOrCrop

from scintikit.data import Resampled
from scintikit.errors import ImageWriteError
from scintikit.generation import acquire
from scintikit.generation.acquisition import _resampled, mask_on_camera, to_camera

# matrix, pixel in mm: finer, coarser and larger than the model's 128 pixels of 2.4 mm, odd, not square
CAMERAS = [
    ((128, 128), 2.16),
    ((256, 256), 1.1),
    ((64, 64), 4.8),
    ((128, 128), 3.3),
    ((101, 127), 2.3),
    ((256, 128), 2.4),
]
SIZE, SPACING = (128, 128), 2.4


def _blob(matrix: tuple[int, int], row: float, column: float, width: float) -> torch.Tensor:
    rows, columns = torch.arange(matrix[0])[:, None], torch.arange(matrix[1])
    return 1000 * torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 2 / width**2)[None]


def _to_model(image: torch.Tensor, pixel_mm: float, *, counts: bool = True) -> torch.Tensor:
    affine = np.diag([pixel_mm, pixel_mm, 1, 1])
    resampled = Resampled("image", (SPACING, SPACING), keep_counts=counts)({"image": MetaTensor(image, affine=affine)})
    return ResizeWithPadOrCrop(SIZE)(resampled["image"]).as_tensor()


def _centre(image: torch.Tensor) -> tuple[float, float]:
    rows, columns = torch.arange(image.shape[0])[:, None], torch.arange(image.shape[1])
    return float((image * rows).sum() / image.sum()), float((image * columns).sum() / image.sum())


@pytest.mark.parametrize(("matrix", "pixel_mm"), CAMERAS)
def test_a_blob_comes_back_in_place_and_its_counts_are_conserved(matrix: tuple[int, int], pixel_mm: float) -> None:
    blob = _blob(matrix, matrix[0] * 0.45, matrix[1] * 0.55, 12 / pixel_mm)
    size = _resampled(matrix, (pixel_mm, pixel_mm), SPACING)
    density = _to_model(blob, pixel_mm)
    total = float(blob.sum())
    assert float(density.sum()) == pytest.approx(total, rel=1e-3)
    back = to_camera(density, matrix, size, "bicubic") * (size[0] * size[1] / matrix[0] / matrix[1])
    assert back.shape == blob.shape
    assert float(back.sum()) == pytest.approx(total, rel=2e-3)
    assert _centre(back[0]) == pytest.approx(_centre(blob[0]), abs=0.03)
    assert (back - blob).abs().max() < 0.06 * blob.max()  # twice interpolated
    field = torch.ones(*matrix)
    coverage = _to_model(field[None], pixel_mm, counts=False)[0]
    counts = acquire(density, coverage, field, (pixel_mm, pixel_mm), SPACING, np.random.default_rng(0))
    assert counts.sum() == pytest.approx(total, abs=5 * total**0.5 + 0.002 * total)


@pytest.mark.parametrize(("matrix", "pixel_mm"), CAMERAS)
def test_round_field_keeps_its_sharp_and_even_edge(matrix: tuple[int, int], pixel_mm: float) -> None:
    rows, columns = (torch.arange(n) - (n - 1) / 2 for n in matrix)
    field = ((rows[:, None] ** 2 + columns**2) < (0.48 * min(matrix)) ** 2).float()
    level = 40_000  # so many that Poisson noise is half a percent
    density, coverage = _to_model(level * field[None], pixel_mm), _to_model(field[None], pixel_mm, counts=False)[0]
    counts = acquire(density, coverage, field, (pixel_mm, pixel_mm), SPACING, np.random.default_rng(0))[0]
    assert not counts[field.numpy() == 0].any()
    assert counts[field.numpy() > 0].min() > 0.9 * level
    assert counts.max() < 1.1 * level


def test_counts_are_poisson() -> None:
    everywhere = torch.ones(128, 128)
    density = torch.full((2, 128, 128), 9.0)
    counts = acquire(density, everywhere, everywhere, (2.4, 2.4), SPACING, np.random.default_rng(0))
    assert counts.dtype == np.uint16
    assert counts.shape == (2, 128, 128)
    assert counts.mean() == pytest.approx(9, abs=0.1)
    assert counts.var() == pytest.approx(9, rel=0.05)
    assert np.corrcoef(counts[0, :, 1:].ravel(), counts[0, :, :-1].ravel())[0, 1] == pytest.approx(0, abs=0.03)


def test_smaller_pixels_get_fewer_counts_each() -> None:
    density, coverage, field = torch.full((1, 128, 128), 100.0), torch.ones(128, 128), torch.ones(256, 256)
    counts = acquire(density, coverage, field, (1.2, 1.2), SPACING, np.random.default_rng(0))
    assert counts.mean() == pytest.approx(25, rel=0.01)


def test_model_grid_of_the_camera_itself_is_left_alone() -> None:
    density = torch.arange(16.0).reshape(1, 4, 4) * 100
    assert torch.equal(to_camera(density, (4, 4), _resampled((4, 4), (9.9, 9.9), None), "bicubic"), density)


def test_edge_values_go_on_where_the_camera_sees_more_than_the_model() -> None:
    density = torch.zeros(1, *SIZE)
    density[..., 0] = 50  # the left edge
    size = _resampled((128, 128), (3.3, 3.3), SPACING)
    wide = to_camera(density, (128, 128), size, "bicubic")
    assert wide[0, :, 0].tolist() == pytest.approx([50] * 128, rel=1e-4)
    assert wide[0, :, -10:].abs().max() < 1e-4


def test_more_counts_than_16_bits_hold_are_an_error() -> None:
    with pytest.raises(ImageWriteError, match="65535"):
        acquire(
            torch.full((1, 8, 8), 1e5), torch.ones(8, 8), torch.ones(8, 8), (2.4, 2.4), None, np.random.default_rng(0)
        )


@pytest.mark.parametrize(("matrix", "pixel_mm"), CAMERAS)
def test_mask_comes_back_as_labels(matrix: tuple[int, int], pixel_mm: float) -> None:
    labels = np.zeros(matrix, np.uint8)
    middle = np.array(matrix) // 2
    rows, columns = np.ogrid[: matrix[0], : matrix[1]]
    mm = np.hypot((rows - middle[0]) * pixel_mm, (columns - middle[1]) * pixel_mm)
    labels[mm < 45], labels[mm < 20] = 1, 3
    channels = torch.from_numpy(np.stack([labels == k for k in (1, 2, 3)])).float()
    soft = _to_model(channels, pixel_mm, counts=False)
    back = mask_on_camera(soft, matrix, (pixel_mm, pixel_mm), SPACING)
    assert back.dtype == np.uint8
    assert set(np.unique(back)) == {0, 1, 3}
    for value in (1, 3):
        dice = 2 * ((back == value) & (labels == value)).sum() / ((back == value).sum() + (labels == value).sum())
        assert dice > 0.95
