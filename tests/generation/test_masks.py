"""Masks are deformed smoothly, repeatably, and not at all when that is asked for."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from scintikit.generation import Deformation, draw_deformation, vary_mask
from scintikit.generation.masks import _sources

STILL = Deformation(rotation_deg=0.0, scale=1.0, shift_mm=(0.0, 0.0), waves=())
PIXEL_MM = (2.0, 2.0)


def _mask(rows: slice = slice(20, 44), columns: slice = slice(26, 38)) -> torch.Tensor:
    mask = torch.zeros(3, 64, 64)
    mask[0, rows, columns] = 1
    mask[1, rows.start : rows.start + 4, columns] = 1
    mask[0, rows.start : rows.start + 4, columns] = 0
    mask[2, 4:60, 4:60] = 1
    return mask


def _centre(channel: torch.Tensor) -> tuple[float, float]:
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    return float((row * channel).sum() / channel.sum()), float((column * channel).sum() / channel.sum())


def test_strength_zero_is_exactly_off() -> None:
    assert draw_deformation(0, np.random.default_rng(0)) is None
    assert vary_mask(_mask(), None, PIXEL_MM) is not None
    assert torch.equal(vary_mask(_mask(), None, PIXEL_MM), _mask())
    torch.testing.assert_close(vary_mask(_mask(), STILL, PIXEL_MM), _mask(), atol=1e-4, rtol=0)


def test_field_of_view_stays_and_nothing_leaves_it() -> None:
    far = replace(STILL, shift_mm=(50.0, 0.0))
    varied = vary_mask(_mask(), far, PIXEL_MM)
    assert torch.equal(varied[-1], _mask()[-1])
    assert varied[0].sum() > 0
    assert not varied[:-1, varied[-1] == 0].any()


def test_shift_is_in_mm_along_rows_and_columns() -> None:
    before, after = _mask(), vary_mask(_mask(), replace(STILL, shift_mm=(6.0, -4.0)), PIXEL_MM)
    assert np.subtract(_centre(after[0]), _centre(before[0])) == pytest.approx((3, -2), abs=0.01)


def test_rotation_is_counter_clockwise_about_the_structures() -> None:
    turned = vary_mask(_mask(), replace(STILL, rotation_deg=90.0), PIXEL_MM)
    both = _mask()[:-1].sum(0)
    assert _centre(turned[:-1].sum(0)) == pytest.approx(_centre(both), abs=0.05)
    assert _centre(turned[1])[1] < _centre(both)[1] - 5  # what was on top is on the left


def test_scale_changes_the_area() -> None:
    grown = vary_mask(_mask(), replace(STILL, scale=1.2), PIXEL_MM)
    assert grown[:-1].sum() / _mask()[:-1].sum() == pytest.approx(1.44, rel=0.02)


def test_deformation_comes_back_from_json() -> None:
    drawn = draw_deformation(1.0, np.random.default_rng(3))
    assert drawn is not None
    again = Deformation(**json.loads(json.dumps(asdict(drawn))))
    assert torch.equal(vary_mask(_mask(), again, PIXEL_MM), vary_mask(_mask(), drawn, PIXEL_MM))
    assert drawn == draw_deformation(1.0, np.random.default_rng(3))
    assert drawn != draw_deformation(1.0, np.random.default_rng(4))


def test_deformations_are_of_some_mm_and_never_fold() -> None:
    structures = _mask()[:-1]
    place = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="xy"), -1)
    moved = []
    for seed in range(100):
        drawn = draw_deformation(1.0, np.random.default_rng(seed))
        assert drawn is not None
        source = ((_sources(structures, drawn, PIXEL_MM) + 1) * 64 - 1) / 2
        moved.append(float(((source - place)[20:44, 26:38] * 2).square().sum(-1).mean().sqrt()))
        down, right = torch.gradient(source, dim=(0, 1))
        assert (right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]).min() > 0.2
    assert 3 < np.mean(moved) < 8
    assert np.std(moved) > 1


def test_mask_without_structures_stays() -> None:
    empty = torch.zeros(3, 64, 64)
    empty[-1] = 1
    assert torch.equal(vary_mask(empty, draw_deformation(1.0, np.random.default_rng(0)), PIXEL_MM), empty)
