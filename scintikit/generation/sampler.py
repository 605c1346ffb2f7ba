"""From noise to pictures with a trained flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from monai.inferers import Inferer

from scintikit.engines.inferer import AutocastInferer
from scintikit.errors import ConfigError
from scintikit.generation.counts import grain_deviation
from scintikit.generation.quality import QualityGate
from scintikit.generation.requests import Request, noise
from scintikit.generation.solvers import check_solver, integrate


class FlowSampler(Inferer):
    """Follow the flow from noise at t = 0 to the expected picture at t = 1.

    The solver takes `steps` - 1 steps on a uniform grid of times, and the last evaluation jumps to the conditional mean
    E[x1 | x_t] = x_t + (1 - t) v(x_t, t). It averages over the Poisson grain, which a few steps could not draw
    faithfully; the grain is drawn afterwards as real Poisson noise. Each picture jumps when the noise left on its path,
    (1 - t) / t, is `grain_ratio` times the grain that its count level will bring: earlier, detail that stands out of
    the grain would be averaged away with it; later, grain would be drawn twice.

    Parameters
    ----------
    steps
        Evaluations of the network with Euler, 2 `steps` - 1 with midpoint and Heun; twice as many with guidance.
    solver
        "euler", "midpoint" or "heun".
    guidance
        g in v = v_null + g (v_cond - v_null), where null knows neither class nor structures but the field of view
        (Ho and Salimans, arXiv 2207.12598); 1 is the plain conditional flow, with one evaluation.
    last_time
        Latest time of the last evaluation, from 0 to 1; what the network was trained to.
    grain_ratio
        Path noise relative to grain at the last evaluation. A share of 1 / (1 + grain_ratio^2) of the grain's
        amplitude is left in the mean. 0: all pictures go on to `last_time`.
    precision
        As of `scintikit.engines.AutocastInferer`.

    Raises
    ------
    ConfigError
        If an argument is not one of the above.
    """

    def __init__(
        self,
        steps: int = 10,
        solver: str = "euler",
        guidance: float = 1.0,
        last_time: float = 0.9,
        grain_ratio: float = 1.5,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        check_solver(solver)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"steps is {steps!r}; expected a whole number of at least 1")
        if not 0 <= last_time < 1:
            raise ConfigError(f"last_time is {last_time!r}; expected a number from 0 to less than 1")
        self.steps = steps
        self.solver = solver
        self.guidance = float(guidance)
        if grain_ratio < 0:
            raise ConfigError(f"grain_ratio is {grain_ratio!r}; expected 0 or more, about 1.5")
        self.last_time = float(last_time)
        self.grain_ratio = float(grain_ratio)
        self.forward = AutocastInferer(precision)

    def recipe(self, device: torch.device) -> dict[str, Any]:
        """Return what decides the pictures' bits, apart from network and noise."""
        return {
            "steps": self.steps,
            "solver": self.solver,
            "guidance": self.guidance,
            "last_time": self.last_time,
            "grain_ratio": self.grain_ratio,
            "precision": self.forward.describe(device),
        }

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., torch.Tensor],
        y: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        level: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return pictures `(B, C, H, W)`.

        Parameters
        ----------
        inputs
            Noise of that shape.
        network, y, mask
            A `FlowNetwork` and its conditions.
        level
            Count levels `(B,)`; None: all pictures go on to `last_time`.
        """
        ends = self._ends(inputs, level)
        wide = ends[:, None, None, None]

        def velocity(x: torch.Tensor, share: float) -> torch.Tensor:
            times = share * ends
            v = self.forward(x, network, times, y, mask)
            if self.guidance == 1:
                return v
            null = self.forward(x, network, times, None, None if mask is None else without_structures(mask))
            return null + self.guidance * (v - null)

        # Every picture has a time of its own: the solver counts the share of its way, of which `ends` is the length.
        shares = np.linspace(0, 1, self.steps).tolist() if self.steps > 1 else [0.0]
        x = integrate(lambda x, share: wide * velocity(x, share), inputs, shares, self.solver)
        x = x + (1 - shares[-1] * wide) * velocity(x, shares[-1])
        return (x + 1) / 2

    def _ends(self, inputs: torch.Tensor, level: torch.Tensor | None) -> torch.Tensor:
        """Return the time `(B,)` of each picture's last evaluation."""
        if level is None or not self.grain_ratio:
            return inputs.new_full((len(inputs),), self.last_time)
        # The network's pictures reach from -1 to 1, twice as far as stabilised ones.
        grain = 2 * grain_deviation(level.to(inputs))
        return (1 / (1 + self.grain_ratio * grain)).clamp(max=self.last_time)


def without_structures(mask: torch.Tensor) -> torch.Tensor:
    """Return masks `(B, M + 1, H, W)` of which the last channel, the camera's field of view, is left."""
    field = torch.zeros_like(mask)
    field[:, -1] = mask[:, -1]
    return field


class Sampler(Protocol):
    """Draws pictures."""

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], **conditions: Any) -> torch.Tensor:
        """Return pictures `(B, C, H, W)` from noise and conditions, of which some may not matter to it."""
        ...

    def recipe(self, device: torch.device) -> dict[str, Any]:
        """Return what decides the pictures' bits, apart from network and noise."""
        ...


class Drawn(NamedTuple):
    """Pictures of a batch.

    Attributes
    ----------
    pictures
        `(B, C, H, W)`, the last one drawn of each item.
    redrawn
        For each item the reasons for which it was drawn again.
    refused
        For each item what is wrong with its last picture, "" for nothing.
    """

    pictures: torch.Tensor
    redrawn: list[list[str]]
    refused: list[str]


class PlausibleSampler(Inferer):
    """Draw pictures, and those that are no plausible scintigrams again with their next sub-seed.

    An item keeps its place in its batch when it is drawn again, because the last bits of a network's answer depend on
    the size of the batch (not on what else is in it).

    Parameters
    ----------
    sampler
        Turns noise and conditions into pictures.
    gate
        Tells what is wrong with a picture.
    seed
        As of the requests.
    attempts
        How often an item may be drawn again.
    """

    def __init__(self, sampler: Sampler, gate: QualityGate, seed: int = 0, attempts: int = 3) -> None:
        super().__init__()
        self.sampler = sampler
        self.gate = gate
        self.seed = seed
        self.attempts = attempts

    def recipe(self, device: torch.device) -> dict[str, Any]:
        """Return what decides the pictures' bits, apart from network and noise."""
        return self.sampler.recipe(device) | {"attempts": self.attempts}

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., torch.Tensor],
        mask: torch.Tensor,
        requests: Sequence[Request],
        **conditions: Any,
    ) -> Drawn:
        """Return the pictures of `requests`, whose first noise is `inputs`; items beyond them only fill the batch."""
        pictures = self.sampler(inputs, network, mask=mask, **conditions)
        redrawn: list[list[str]] = [[] for _ in requests]
        refused = self.gate(pictures, mask)[: len(requests)]
        for redraw in range(1, self.attempts + 1):
            failed = [place for place, fault in enumerate(refused) if fault]
            if not failed:
                break
            inputs = inputs.clone()
            for place in failed:
                redrawn[place].append(refused[place])
                inputs[place] = noise(self.seed, requests[place].index, redraw, inputs.shape[1:]).to(inputs)
            pictures[failed] = self.sampler(inputs, network, mask=mask, **conditions)[failed]
            refused = self.gate(pictures, mask)[: len(requests)]
        return Drawn(pictures, redrawn, refused)
