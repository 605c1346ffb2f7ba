"""The sampler follows the flow, guides it, and draws again what is implausible."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from scintikit.errors import ConfigError
from scintikit.generation import FlowSampler, PlausibleSampler, stabilise
from scintikit.generation.requests import noise


class Straight:
    """The exact flow from noise to one picture for each class; counts and remembers its evaluations."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.asked: list[tuple[Any, Any]] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor:
        self.times.append(float(t[0]))
        self.asked.append((y, mask))
        target = torch.full_like(x, -1) if y is None else y[:, None, None, None].expand_as(x) / 10
        return (target - x) / (1 - t[:, None, None, None])


Y = torch.tensor([1, 2, 3])
MASK = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_straight_flow_ends_at_its_picture(solver: str, steps: int) -> None:
    network = Straight()
    pictures = FlowSampler(steps, solver, precision="fp32")(NOISE, network, Y, MASK)
    torch.testing.assert_close(pictures, ((Y / 10 + 1) / 2)[:, None, None, None].expand_as(NOISE), atol=1e-5, rtol=0)
    assert len(network.times) == (steps if solver == "euler" else 2 * steps - 1)


def test_ten_euler_steps_are_the_uniform_grid() -> None:
    network = Straight()
    FlowSampler(10, precision="fp32")(NOISE, network, Y, MASK)
    assert network.times == pytest.approx(np.linspace(0, 0.9, 10))


def test_last_evaluation_jumps_to_the_conditional_mean() -> None:
    # The exact velocity for pictures N(0.2, 0.3^2): E[x1 | x_t] is known, and at the end of the flow it is not x1.
    def network(x: torch.Tensor, t: torch.Tensor, y: Any, mask: Any) -> torch.Tensor:
        t = t[:, None, None, None]
        mean = 0.2 + t * 0.09 / ((1 - t) ** 2 + t**2 * 0.09) * (x - t * 0.2)
        return (mean - x) / (1 - t)

    x0 = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    samplers = (FlowSampler(50, "heun", last_time=end, precision="fp32") for end in (0.5, 0.99))
    early, late = (sampler(x0, network) * 2 - 1 for sampler in samplers)
    assert late.mean().item() == pytest.approx(0.2, abs=0.01)
    assert late.std().item() == pytest.approx(0.3, abs=0.01)
    # Var of the conditional mean at t = 0.5: rho^2 * 0.09 with rho^2 = t^2 0.09 / ((1 - t)^2 + t^2 0.09)
    assert early.std().item() == pytest.approx(0.3 * (0.0225 / 0.2725) ** 0.5, abs=0.01)


def test_guidance_leaves_the_unconditional_flow_behind() -> None:
    network = Straight()
    pictures = FlowSampler(4, guidance=2.0, precision="fp32")(NOISE, network, Y, MASK)
    expected = (-1 + 2 * (Y / 10 + 1) + 1) / 2
    torch.testing.assert_close(pictures, expected[:, None, None, None].expand_as(NOISE), atol=1e-5, rtol=0)
    assert len(network.times) == 8
    nothing_known, mask = network.asked[1]
    assert nothing_known is None
    assert not mask[:, :-1].any()
    assert torch.equal(mask[:, -1], MASK[:, -1])


def test_guidance_zero_ignores_the_class() -> None:
    pictures = FlowSampler(3, guidance=0.0, precision="fp32")(NOISE, Straight(), Y, MASK)
    torch.testing.assert_close(pictures, torch.zeros_like(NOISE), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"steps": 2.5}, "whole number"),
        ({"solver": "rk4"}, "rk4"),
        ({"last_time": 1}, "less than 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FlowSampler(**settings)


class Gate:
    """Refuses pictures whose first pixel is below a limit."""

    def __call__(self, pictures: torch.Tensor, mask: torch.Tensor) -> list[str]:
        return ["" if value > 0 else "dark" for value in pictures[:, 0, 0, 0].tolist()]


def _identity(inputs: torch.Tensor, network: Any, **conditions: Any) -> torch.Tensor:
    return inputs.clone()


def _first(index: int, redraw: int) -> float:
    return float(noise(0, index, redraw, (1, 8, 8))[0, 0, 0])


def test_refused_pictures_are_drawn_again_in_their_place() -> None:
    requests = [SimpleNamespace(index=index) for index in range(40, 70)]
    x0 = torch.stack([noise(0, request.index, 0, (1, 8, 8)) for request in requests] + [torch.ones(1, 8, 8)] * 2)
    drawn = PlausibleSampler(_identity, Gate(), seed=0, attempts=3)(
        x0, None, mask=torch.zeros(32, 1, 8, 8), requests=requests
    )
    assert len(drawn.redrawn) == len(drawn.refused) == 30
    for place, request in enumerate(requests):
        values = [_first(request.index, redraw) for redraw in range(4)]
        tries = next((k for k, value in enumerate(values) if value > 0), None)
        kept = 3 if tries is None else tries
        assert drawn.redrawn[place] == ["dark"] * kept
        assert drawn.refused[place] == ("dark" if tries is None else "")
        assert drawn.pictures[place, 0, 0, 0].item() == pytest.approx(values[kept])
    assert "dark" in drawn.refused  # about two of thirty fail four times
    assert torch.equal(drawn.pictures[30:], x0[30:])


def test_noise_depends_on_seed_item_and_draw_only() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1)]
    first = [noise(*key, (1, 16, 16)) for key in keys]
    assert all(torch.equal(a, noise(*key, (1, 16, 16))) for a, key in zip(first, keys, strict=True))
    assert len({tensor.sum().item() for tensor in first}) == len(keys)
    many = noise(3, 4, 0, (1, 256, 256))
    assert many.mean().item() == pytest.approx(0, abs=0.02)
    assert many.std().item() == pytest.approx(1, abs=0.02)


def test_faint_pictures_jump_earlier_and_grain_is_the_measure() -> None:
    levels = torch.tensor([20.0, 100.0, 300.0, 1e9])

    class Clock(Straight):
        def __call__(self, x: torch.Tensor, t: torch.Tensor, y: Any = None, mask: Any = None) -> torch.Tensor:
            self.last = t
            return super().__call__(x, t, y, mask)

    network = Clock()
    sampler = FlowSampler(5, grain_ratio=2.0, precision="fp32")
    x, y, mask = torch.randn(4, 1, 8, 8), torch.arange(4), torch.rand(4, 4, 8, 8)
    sampler(x, network, y, mask, levels)
    times = network.last
    assert torch.all(times.diff() > 0)
    assert float(times[-1]) == pytest.approx(0.9)
    counts = torch.poisson(torch.full((200_000,), 60.0), generator=torch.Generator().manual_seed(0))
    grain = 2 * float(stabilise(counts, 100.0).std())  # in the network's space, from -1 to 1
    assert float((1 - times[1]) / times[1]) == pytest.approx(2 * grain, rel=0.03)
    FlowSampler(5, grain_ratio=0.0, precision="fp32")(x, network, y, mask, levels)
    assert torch.all(network.last == 0.9)
