"""Noise schedule, targets, and solvers on a diffusion whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler

from scintikit.errors import ConfigError
from scintikit.generation import DiffusionSampler, PrepareDiffusion, WordTokenizer
from scintikit.generation.diffusion import without_prompt

SHAPE = (2, 8, 8)


def _scheduler(prediction: str = "v_prediction", schedule: str = "zero_terminal_snr") -> DDIMScheduler:
    return DDIMScheduler(schedule=schedule, prediction_type=prediction, clip_sample=False)


def _words(length: int) -> WordTokenizer:
    return WordTokenizer(["hot", "cold"], length)


class Plain:
    """An autoencoder that does nothing."""

    sha256 = "0"

    def to(self, device: torch.device) -> Plain:
        return self

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


def _sampler(**options: Any) -> DiffusionSampler:
    return DiffusionSampler(_scheduler(), Plain(), _words(2), **({"guidance": 1.0, "precision": "fp32"} | options))


class Gaussian:
    """The exact denoiser of latents that are normal with the given mean and deviation, by v-prediction."""

    def __init__(self, mean: float, deviation: float) -> None:
        self.mean, self.variance = mean, deviation**2
        self.calls = 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor, tokens: Any = None, mask: Any = None) -> torch.Tensor:
        self.calls += 1
        cumulated = _scheduler().alphas_cumprod[t].double()[:, None, None, None]
        a, s = cumulated.sqrt(), (1 - cumulated).sqrt()
        clean = self.mean + a * self.variance / (cumulated * self.variance + s**2) * (x.double() - a * self.mean)
        return ((a * x.double() - clean) / s).float()  # v = (a x - clean) / s


def test_schedule_ends_in_pure_noise_and_else_follows_stable_diffusion() -> None:
    ours = _scheduler().alphas_cumprod
    usual = DDIMScheduler(schedule="scaled_linear_beta", beta_start=0.00085, beta_end=0.012).alphas_cumprod
    assert ours[-1] == 0
    assert ours[0] == pytest.approx(usual[0].item(), rel=1e-6)
    assert (ours.diff() < 0).all()
    assert usual[-1] > 0.004
    assert (ours - usual).abs().max() < 0.04


def test_target_and_state_give_back_latents_and_noise() -> None:
    latents, tokens = torch.randn(50, *SHAPE), torch.ones(50, 5, dtype=torch.int64)
    batch = {"image": latents, "mask": torch.ones(50, 3, 8, 8), "tokens": tokens}
    x, v, (t, _, _), _ = PrepareDiffusion(_scheduler(), _words(5))(batch)
    cumulated = _scheduler().alphas_cumprod[t][:, None, None, None]
    a, s = cumulated.sqrt(), (1 - cumulated).sqrt()
    torch.testing.assert_close(a * x - s * v, latents, atol=1e-5, rtol=1e-5)
    assert (s * x + a * v).std().item() == pytest.approx(1, abs=0.05)
    assert sorted((t // 20).tolist()) == list(range(50))  # one from each slice of time

    x, noise, (t, _, _), _ = PrepareDiffusion(_scheduler("epsilon", "scaled_linear_beta"), _words(5))(batch)
    cumulated = _scheduler("epsilon", "scaled_linear_beta").alphas_cumprod[t][:, None, None, None]
    torch.testing.assert_close(cumulated.sqrt() * latents + (1 - cumulated).sqrt() * noise, x)


@pytest.mark.parametrize(
    ("prediction", "schedule"), [("v_prediction", "zero_terminal_snr"), ("epsilon", "scaled_linear_beta")]
)
def test_min_snr_draws_times_as_often_as_its_weights_say(prediction: str, schedule: str) -> None:
    scheduler, gamma, count = _scheduler(prediction, schedule), 5.0, 20000
    batch = {"image": torch.zeros(count, 1, 1, 1), "mask": torch.ones(count, 3, 1, 1), "tokens": torch.ones(count, 2)}
    _, _, (t, _, _), _ = PrepareDiffusion(scheduler, _words(2), snr_gamma=gamma)(batch)
    snr = scheduler.alphas_cumprod.double() / (1 - scheduler.alphas_cumprod.double())
    weights = snr.clamp(max=gamma) / (snr + 1 if prediction == "v_prediction" else snr)
    expected = (weights / weights.sum()).reshape(20, -1).sum(1)
    drawn = torch.bincount(t, minlength=1000).reshape(20, -1).sum(1) / count
    torch.testing.assert_close(drawn, expected.float(), atol=2e-4, rtol=0)
    with pytest.raises(ConfigError, match="snr_gamma is 0"):
        PrepareDiffusion(scheduler, _words(2), snr_gamma=0)


def test_prompts_and_structures_are_forgotten_each_on_its_own() -> None:
    count = 4000
    tokens = torch.tensor([1, 7, 8, 0]).repeat(count, 1)
    batch = {"image": torch.zeros(count, 1, 1, 1), "mask": torch.ones(count, 3, 1, 1), "tokens": tokens}
    prepare = PrepareDiffusion(_scheduler(), _words(4), prompt_dropout=0.1, mask_dropout=0.5)
    _, _, (_, kept, mask), _ = prepare(batch)
    forgotten = (kept == torch.tensor([1, 0, 0, 0])).all(dim=1)
    assert (forgotten | (kept == tokens).all(dim=1)).all()
    bare = (mask[:, :-1] == 0).flatten(1).all(dim=1)
    assert (mask[:, -1] == 1).all()
    assert forgotten.float().mean() == pytest.approx(0.1, abs=0.02)
    assert bare.float().mean() == pytest.approx(0.5, abs=0.03)
    assert (forgotten & bare).float().mean() == pytest.approx(0.05, abs=0.015)
    prepare.reseed(3)
    one = prepare(batch)
    prepare.reseed(3)
    assert torch.equal(one[0], prepare(batch)[0])
    assert without_prompt(tokens, _words(4))[0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("solver", ["ddim", "dpm"])
def test_samples_of_a_known_distribution(solver: str) -> None:
    """The probability flow of normal latents is known: noise n ends at mean + deviation n."""
    noise = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(0))
    network = Gaussian(0.3, 0.5)
    drawn = _sampler(solver=solver, steps=200)(noise, network)
    assert 190 < network.calls <= 200  # of time steps that fall together one is left
    torch.testing.assert_close(drawn, 0.3 + 0.5 * noise, atol=0.02, rtol=0.02)


def test_second_order_solver_needs_fewer_evaluations() -> None:
    noise = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(0))
    error = {
        (solver, steps): (_sampler(solver=solver, steps=steps)(noise, Gaussian(0.3, 0.5)) - 0.3 - 0.5 * noise)
        .abs()
        .mean()
        .item()
        for solver in ("ddim", "dpm")
        for steps in (12, 25, 50)
    }
    assert error["dpm", 25] < error["ddim", 50]
    assert error["dpm", 50] < 0.3 * error["dpm", 25] < 0.3 * error["ddim", 25]


def test_strength_says_how_much_of_the_start_is_left() -> None:
    start, noise = torch.full((4, *SHAPE), 2.0), torch.randn(4, *SHAPE)
    near, far, all_new = (
        (_sampler(strength=strength, steps=20)(noise, Gaussian(0.0, 1.0), start=start) - start).abs().mean().item()
        for strength in (0.1, 0.5, 1.0)
    )
    assert near < 0.5 < far < all_new
    plain = _sampler(steps=20)(noise, Gaussian(0.0, 1.0))
    torch.testing.assert_close(_sampler(strength=1.0, steps=20)(noise, Gaussian(0.0, 1.0), start=start), plain)


def test_guidance_goes_beyond_the_condition() -> None:
    def network(x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        told = (tokens[:, 1] > 0).float() + mask[:, 0, 0, 0]
        mean = torch.where(told > 0, 1.0, 0.0)
        return torch.stack([Gaussian(m.item(), 0.5)(x[[k]], t[[k]])[0] for k, m in enumerate(mean)])

    noise, tokens = torch.randn(2, *SHAPE), torch.tensor([[1, 5], [1, 5]])
    mask = torch.ones(2, 2, 8, 8)
    plain, guided = (
        _sampler(guidance=g, steps=30)(noise, network, tokens=tokens, mask=mask).mean().item() for g in (1.0, 2.0)
    )
    assert plain == pytest.approx(1 + 0.5 * noise.mean().item(), abs=0.1)
    assert guided > plain + 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"strength": 0}, "strength is 0; expected more than 0"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"solver": "euler"}, "choose one of dpm, ddim"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _sampler(**options)


def test_noise_cannot_be_predicted_from_noise_alone() -> None:
    with pytest.raises(ConfigError, match="ends in pure noise"):
        PrepareDiffusion(_scheduler("epsilon"), _words(2))
    with pytest.raises(ConfigError, match="prediction_type is 'sample'"):
        PrepareDiffusion(_scheduler("sample"), _words(2))
