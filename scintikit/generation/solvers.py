"""Solvers of ordinary differential equations dx/dt = v(x, t) on a given grid of times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from scintikit.errors import ConfigError, did_you_mean

Velocity = Callable[[torch.Tensor, float], torch.Tensor]


def _euler(velocity: Velocity, x: torch.Tensor, t: float, h: float) -> torch.Tensor:
    return x + h * velocity(x, t)


def _midpoint(velocity: Velocity, x: torch.Tensor, t: float, h: float) -> torch.Tensor:
    return x + h * velocity(x + h / 2 * velocity(x, t), t + h / 2)


def _heun(velocity: Velocity, x: torch.Tensor, t: float, h: float) -> torch.Tensor:
    first = velocity(x, t)
    return x + h / 2 * (first + velocity(x + h * first, t + h))


#: Order of convergence 1, 2 and 2; 1, 2 and 2 evaluations of the velocity a step.
SOLVERS = {"euler": _euler, "midpoint": _midpoint, "heun": _heun}


def check_solver(name: str) -> None:
    """Raise `ConfigError` if there is no such solver."""
    if name not in SOLVERS:
        raise ConfigError(f"there is no solver {name!r}{did_you_mean(name, SOLVERS)}; choose from {', '.join(SOLVERS)}")


def integrate(velocity: Velocity, x: torch.Tensor, times: Sequence[float], solver: str = "euler") -> torch.Tensor:
    """Return x at the last of `times`, starting with `x` at the first.

    Parameters
    ----------
    velocity
        v(x, t), of the shape of x.
    x
        State of any shape.
    times
        One step from each time to the next, in either direction; a single time leaves x as it is.
    solver
        "euler", "midpoint" or "heun".

    Raises
    ------
    ConfigError
        If there is no such solver.
    """
    check_solver(solver)
    for t, following in itertools.pairwise(times):
        x = SOLVERS[solver](velocity, x, t, following - t)
    return x
