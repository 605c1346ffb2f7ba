"""Solvers converge with their order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from scintikit.errors import ConfigError
from scintikit.generation import integrate

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2}


def _growth(x: torch.Tensor, t: float) -> torch.Tensor:
    return x * math.cos(t)


def _stiff(x: torch.Tensor, t: float) -> torch.Tensor:
    return -40 * (x - math.cos(t)) - math.sin(t)


# velocity, x at 0, time, x at that time; the stiff one is looked at before it has forgotten its start
PROBLEMS = {
    "growth": (_growth, 1.0, 2.0, math.exp(math.sin(2))),
    "stiff": (_stiff, 2.0, 0.05, math.cos(0.05) + math.exp(-2)),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(("solver", "order"), ORDERS.items())
def test_error_falls_with_the_order_of_the_solver(solver: str, order: int, problem: str) -> None:
    velocity, start, time, end = PROBLEMS[problem]
    x = torch.tensor([start], dtype=torch.float64)
    coarse, fine = (
        abs(integrate(velocity, x, np.linspace(0, time, steps + 1).tolist(), solver).item() - end) for steps in (40, 80)
    )
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("solver", ORDERS)
def test_uneven_and_backward_grids(solver: str) -> None:
    times = [2.0, 1.7, 1.3, 1.29, 0.4, 0.0]
    fine = [t + k / 200 * (u - t) for t, u in itertools.pairwise(times) for k in range(200)] + [0.0]
    x = torch.tensor([math.exp(math.sin(2))], dtype=torch.float64)
    assert integrate(_growth, x, fine, solver).item() == pytest.approx(1, abs=5e-3 if solver == "euler" else 1e-4)


def test_a_single_time_is_no_step() -> None:
    x = torch.randn(3)
    assert torch.equal(integrate(_growth, x, [0.5]), x)


def test_unknown_solver_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'euler'"):
        integrate(_growth, torch.zeros(1), [0.0, 1.0], "eulr")
