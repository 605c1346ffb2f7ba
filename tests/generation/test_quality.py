"""Implausible pictures are told from plausible ones, and sameness is measured."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from scintikit.generation import QualityGate, stabilise
from scintikit.generation.quality import Diversity, picture_statistics, plausible_limits, shrink

LEVEL = 150.0


def _expected(count: int, seed: int = 0) -> torch.Tensor:
    """Return expected counts `(count, 1, 128, 128)`: a warm blob of varying place and size on a faint background."""
    generator = torch.Generator().manual_seed(seed)
    row, column, width = torch.rand(3, count, 1, 1, generator=generator) - 0.5
    rows, columns = torch.arange(128)[:, None] - 64 - 20 * row, torch.arange(128) - 64 - 20 * column
    return (8 + LEVEL * torch.exp(-(rows**2 + columns**2) / 2 / (20 + 8 * width) ** 2))[:, None]


def _mask(count: int) -> torch.Tensor:
    mask = torch.zeros(count, 3, 128, 128)
    mask[:, 0, 48:80, 48:80] = 1
    mask[:, 2] = 1
    return mask


@pytest.fixture(scope="module")
def gate() -> QualityGate:
    generator = torch.Generator().manual_seed(1)
    real = stabilise(torch.poisson(_expected(500), generator=generator), LEVEL)
    return QualityGate(SimpleNamespace(gate=plausible_limits(picture_statistics(real, _mask(500)))))


def test_expected_pictures_pass_limits_measured_on_grainy_ones(gate: QualityGate) -> None:
    assert gate(stabilise(_expected(300, seed=5), LEVEL), _mask(300)) == [""] * 300


def test_grain_hardly_moves_a_statistic() -> None:
    expected = _expected(50)
    grainy = torch.poisson(expected, generator=torch.Generator().manual_seed(2))
    with_grain, without = (picture_statistics(stabilise(c, LEVEL), _mask(50)) for c in (grainy, expected))
    for name, values in with_grain.items():
        torch.testing.assert_close(values, without[name], atol=0.03, rtol=0, msg=name)


def test_each_fault_is_named(gate: QualityGate) -> None:
    good = stabilise(_expected(1), LEVEL)[0]
    rolled = good.roll(40, dims=1)
    broken = good.clone()
    broken[0, 3, 3] = math.nan
    pictures = torch.stack([good, torch.zeros_like(good), good * 2, broken, rolled, good.clamp(min=0.4), good.flip(2)])
    faults = gate(pictures, _mask(7))
    assert faults[:4] == ["", "empty", "saturated", "not finite"]
    assert faults[4] == "centre row too high"
    assert faults[5] == "background too high"
    assert faults[6] == ""


def test_without_structures_their_uptake_is_no_matter(gate: QualityGate) -> None:
    mask = _mask(1)
    mask[:, :2] = 0
    values = picture_statistics(stabilise(_expected(1), LEVEL), mask)
    assert values["uptake in structures"].isnan().all()
    assert values["uptake around structures"].isnan().all()
    assert gate(stabilise(_expected(1), LEVEL), mask) == [""]


def test_uptake_must_fit_the_structures(gate: QualityGate) -> None:
    elsewhere = torch.zeros(1, 3, 128, 128)
    elsewhere[:, 0, :16, :16] = 1
    elsewhere[:, 2] = 1
    assert gate(stabilise(_expected(1), LEVEL), elsewhere) == ["uptake in structures too low"]


def test_every_view_has_its_own_statistics() -> None:
    values = picture_statistics(torch.stack([torch.zeros(2, 64, 64), torch.ones(2, 64, 64)], dim=1), _mask(2))
    assert values["mean uptake of view 1"].tolist() == [0, 0]
    assert values["mean uptake of view 2"].tolist() == [1, 1]


def test_diversity_is_the_mean_squared_distance_over_all_pairs() -> None:
    pictures = torch.randn(9, 2, 64, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    small = shrink(pictures).double()
    pairs = [float((a - b).square().mean()) for a, b in itertools.combinations(small, 2)]
    assert Diversity.of(pictures).distance == pytest.approx(math.sqrt(sum(pairs) / len(pairs)), rel=1e-6)


def test_diversities_add_up_and_survive_json() -> None:
    pictures = torch.rand(10, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    parts = sum((Diversity.of(pictures[k : k + 3]) for k in range(0, 10, 3)), Diversity())
    assert parts.distance == pytest.approx(Diversity.of(pictures).distance, rel=1e-6)
    assert Diversity(**parts.to_json()).distance == parts.distance
    assert Diversity.of(pictures[:1]).distance != Diversity.of(pictures[:1]).distance  # NaN: one has no distance
    assert Diversity.of(pictures[:1].expand(8, -1, -1, -1)).distance == pytest.approx(0, abs=1e-6)


def test_structures_of_a_view_are_looked_for_in_that_view() -> None:
    pictures = torch.zeros(1, 2, 128, 128)
    pictures[:, 1, :64] = 0.8
    mask = torch.zeros(1, 5, 128, 128)
    mask[:, 3, :64] = mask[:, 4] = 1  # the second structure of the second view
    values = picture_statistics(pictures, mask)
    assert float(values["uptake in structures of view 2"]) == pytest.approx(0.8)
    assert float(values["uptake around structures of view 2"]) == pytest.approx(0)
    assert bool(values["uptake in structures of view 1"].isnan())
