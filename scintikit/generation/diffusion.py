"""Latent diffusion: the noise schedule, what a network learns from, and how pictures are drawn with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from monai.engines import PrepareBatch
from monai.inferers import Inferer
from monai.networks.schedulers import Scheduler
from monai.networks.schedulers.scheduler import NoiseSchedules

from scintikit.data.augmentation import mix_seed
from scintikit.engines.inferer import AutocastInferer
from scintikit.errors import ConfigError
from scintikit.generation.sampler import without_structures
from scintikit.generation.text import Tokenizer

SOLVERS = ("dpm", "ddim")
#: Exponent that draws the time steps together towards the clean end.
DENSER = 1.5
PREDICTIONS = ("v_prediction", "epsilon")


@NoiseSchedules.add_def("zero_terminal_snr", "Scaled linear schedule whose last step is noise alone")
def zero_terminal_snr(
    num_train_timesteps: int, beta_start: float = 0.00085, beta_end: float = 0.012
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return betas, alphas and cumulated alphas of Stable Diffusion's schedule, stretched to end in pure noise.

    Otherwise a little of every picture, its mean brightness above all, would be left in the last step, and sampling,
    which starts from pure noise, would start somewhere the network has never been (Lin et al., WACV 2024).
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, dim=0).sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    cumulated = ((signal - last) * first / (first - last)) ** 2
    alphas = torch.cat([cumulated[:1], cumulated[1:] / cumulated[:-1]])
    return (1 - alphas).float(), alphas.float(), cumulated.float()


class PrepareDiffusion(PrepareBatch):
    """Add noise to a batch of latents, each at a time of its own.

    State a z + s e of latents z and noise e ~ N(0, I), a^2 + s^2 = 1; target of a v-prediction a e - s z (Salimans and
    Ho, ICLR 2022), of an epsilon-prediction e. Prompts and structures are forgotten now and then, each on its own, so
    that one network serves every mode and guidance has an unconditional branch that was trained.

    Parameters
    ----------
    scheduler
        Knows the noise of each time step and its `prediction_type`.
    tokenizer
        Of the prompts; knows the tokens of no prompt.
    prompt_dropout
        Probability with which a sample's prompt is replaced by none.
    mask_dropout
        Probability with which its structures are.
    snr_gamma
        gamma of min-SNR weighting (Hang et al., ICCV 2023): errors of the denoised latents count by min(SNR, gamma), so
        that nearly clean states do not take most of the training. Here those times are drawn less often, which is the
        same on average. None: no weighting, every time is drawn as often as any other.

    Raises
    ------
    ConfigError
        If the scheduler's prediction or `snr_gamma` is none of these.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        tokenizer: Tokenizer,
        prompt_dropout: float = 0.1,
        mask_dropout: float = 0.5,
        snr_gamma: float | None = None,
    ) -> None:
        _check_prediction(scheduler)
        if snr_gamma is not None and not snr_gamma > 0:
            raise ConfigError(f"snr_gamma is {snr_gamma!r}; expected more than 0, or none for no weighting")
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.prompt_dropout = prompt_dropout
        self.mask_dropout = mask_dropout
        self.cumulated = _time_weights(scheduler, snr_gamma).cumsum(0)
        self.generator = torch.Generator().manual_seed(0)

    def reseed(self, *numbers: int) -> None:
        """Start the random numbers anew from these non-negative integers."""
        self.generator.manual_seed(mix_seed(*numbers))

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...], dict[str, Any]]:
        """Return the noisy latents and the target `(B, C, h, w)`, and (time `(B,)`, tokens, mask)."""
        latents, mask, tokens = (
            batchdata[name].to(device, non_blocking=non_blocking) for name in ("image", "mask", "tokens")
        )
        noise = torch.randn(latents.shape, generator=self.generator).to(latents)
        t = self._times(len(latents))
        signal, sigma = (part.to(latents)[:, None, None, None] for part in _levels(self.scheduler, t))
        target = signal * noise - sigma * latents if self.scheduler.prediction_type == "v_prediction" else noise
        conditions = (t.to(latents.device), self._forget_prompt(tokens), self._forget_structures(mask.to(latents)))
        return signal * latents + sigma * noise, target, conditions, {}

    def _times(self, count: int) -> torch.Tensor:
        # One time from each of `count` equal slices: the loss of a batch varies less (Kingma et al., NeurIPS 2021).
        slices = torch.randperm(count, generator=self.generator)
        u = (slices + torch.rand(count, generator=self.generator)) / count
        return torch.searchsorted(self.cumulated, (u * self.cumulated[-1]).to(self.cumulated), right=True).clamp(
            max=len(self.cumulated) - 1
        )

    def _forget_prompt(self, tokens: torch.Tensor) -> torch.Tensor:
        forget = torch.rand(len(tokens), generator=self.generator) < self.prompt_dropout
        return torch.where(forget.to(tokens.device)[:, None], without_prompt(tokens, self.tokenizer), tokens)

    def _forget_structures(self, mask: torch.Tensor) -> torch.Tensor:
        keep = torch.rand(len(mask), generator=self.generator) >= self.mask_dropout
        kept = torch.ones(len(mask), mask.shape[1])
        kept[:, :-1] = keep[:, None].float()  # the last channel is the camera's field of view, known for every picture
        return mask * kept.to(mask)[:, :, None, None]


def without_prompt(tokens: torch.Tensor, tokenizer: Tokenizer) -> torch.Tensor:
    """Return the tokens `(B, L)` of no prompt, as many as these."""
    return tokenizer([""]).to(tokens).expand_as(tokens)


class Autoencoder(Protocol):
    """Turns pictures `(B, C, H, W)` into latents of about unit variance and back."""

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return latents `(B, c, h, w)`."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pictures."""
        ...

    def to(self, device: torch.device) -> Any:
        """Move to a device."""
        ...

    @property
    def sha256(self) -> str:
        """Of its weights."""
        ...


class DiffusionSampler(Inferer):
    """Draw latents by denoising, and decode them to pictures.

    Parameters
    ----------
    scheduler, autoencoder, tokenizer
        As of the training.
    steps
        Evaluations of the network, at most; with guidance each is one on twice the batch.
    guidance
        g in v = v_null + g (v_cond - v_null), where null knows neither prompt nor structures but the field of view
        (Ho and Salimans, arXiv 2207.12598); 1 is the plain conditional model.
    strength
        Where sampling starts if there is a picture to start from: 1 is noise alone, near 0 hardly changes it.
    solver
        "dpm", DPM-Solver++(2M) (Lu et al., arXiv 2211.01095), or "ddim", which is its first order.
    mode
        For the record.
    precision
        As of `scintikit.engines.AutocastInferer`.

    Raises
    ------
    ConfigError
        If an argument is not one of the above.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        autoencoder: Autoencoder,
        tokenizer: Tokenizer,
        steps: int = 25,
        guidance: float = 1.5,
        strength: float = 0.8,
        solver: str = "dpm",
        mode: str = "sd2",
        precision: str = "auto",
    ) -> None:
        super().__init__()
        _check_prediction(scheduler)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"steps is {steps!r}; expected a whole number of at least 1")
        if not 0 < strength <= 1:
            raise ConfigError(f"strength is {strength!r}; expected more than 0 (a copy) and at most 1 (noise alone)")
        if solver not in SOLVERS:
            raise ConfigError(f"solver is {solver!r}; choose one of {', '.join(SOLVERS)}")
        self.scheduler = scheduler
        self.autoencoder = autoencoder
        self.tokenizer = tokenizer
        self.steps = steps
        self.guidance = float(guidance)
        self.strength = float(strength)
        self.solver = solver
        self.mode = mode
        self.forward = AutocastInferer(precision)

    def recipe(self, device: torch.device) -> dict[str, Any]:
        """Return what decides the pictures' bits, apart from network and noise."""
        return {
            "mode": self.mode,
            "autoencoder": self.autoencoder.sha256,
            "steps": self.steps,
            "solver": self.solver,
            "guidance": self.guidance,
            "strength": self.strength,
            "precision": self.forward.describe(device),
        }

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., torch.Tensor],
        tokens: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        start: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return pictures `(B, C, H, W)`.

        Parameters
        ----------
        inputs
            Noise `(B, c, h, w)` of the latents' shape.
        network, tokens, mask
            A `DiffusionNetwork` and its conditions.
        start
            Pictures to start from; None: from noise alone.
        """
        autoencoder = self.autoencoder.to(inputs.device)
        times = self._times(1.0 if start is None else self.strength)
        x = inputs
        if start is not None:
            signal, sigma = _levels(self.scheduler, times[:1])
            x = float(signal) * self.forward(start, autoencoder.encode) + float(sigma) * inputs
        denoised = self._denoise(x, times, self._predictor(network, tokens, mask))
        return self.forward(denoised, autoencoder.decode)

    def _times(self, strength: float) -> torch.Tensor:
        """Return the time steps of the evaluations, from the noisiest to 0, denser towards the end.

        With evenly spaced ones the last step is the longest in log(signal / noise): the second order gains little then.
        """
        last = max(round(strength * self.scheduler.num_train_timesteps), 1) - 1
        shares = torch.linspace(1, 0, self.steps) if self.steps > 1 else torch.ones(1)
        return (last * shares**DENSER).round().long().unique_consecutive()

    def _predictor(
        self, network: Callable[..., torch.Tensor], tokens: torch.Tensor | None, mask: torch.Tensor | None
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return what predicts from a state and its time `(B,)`, with guidance."""

        def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            if self.guidance == 1:
                return self.forward(x, network, t, tokens, mask)
            null_tokens = None if tokens is None else torch.cat([tokens, without_prompt(tokens, self.tokenizer)])
            null_mask = None if mask is None else torch.cat([mask, without_structures(mask)])
            both = self.forward(torch.cat([x, x]), network, torch.cat([t, t]), null_tokens, null_mask)
            conditional, null = both.chunk(2)
            return null + self.guidance * (conditional - null)

        return predict

    def _denoise(
        self, x: torch.Tensor, times: torch.Tensor, predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Follow the probability flow from the first time to clean latents."""
        signals, sigmas = (part.double().tolist() for part in _levels(self.scheduler, times))
        signals, sigmas = [*signals, 1.0], [*sigmas, 0.0]
        before: torch.Tensor | None = None
        for step, t in enumerate(times.tolist()):
            a, s = signals[step], sigmas[step]
            predicted = predict(x, torch.full((len(x),), t, device=x.device))
            clean = (
                a * x - s * predicted if self.scheduler.prediction_type == "v_prediction" else (x - s * predicted) / a
            )
            mean = clean
            if self.solver == "dpm" and before is not None and step + 1 < len(times):
                mean = clean + _second_order(signals, sigmas, step) * (clean - before)
            before = clean
            # Of first order this is a step of DDIM.
            ratio = sigmas[step + 1] / s
            x = ratio * x + (signals[step + 1] - a * ratio) * mean
        return x


def _second_order(signals: Sequence[float], sigmas: Sequence[float], step: int) -> float:
    """Return the weight of the latest change, h / (2 h_before) with steps h in the logarithm of signal / noise."""
    if signals[step - 1] == 0:  # from pure noise the step is infinitely long, and its slope says nothing
        return 0.0
    before, here, after = (torch.tensor(signals[k] / sigmas[k]).log().item() for k in (step - 1, step, step + 1))
    return (after - here) / (2 * (here - before))


def _levels(scheduler: Scheduler, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how much signal and how much noise a state at time steps t `(B,)` holds."""
    cumulated = scheduler.alphas_cumprod.to(t.device)[t]
    return cumulated.sqrt(), (1 - cumulated).sqrt()


def _time_weights(scheduler: Scheduler, snr_gamma: float | None) -> torch.Tensor:
    """Return how often each time step `(T,)` is drawn."""
    signal = scheduler.alphas_cumprod.double()
    if snr_gamma is None:
        return torch.ones_like(signal)
    # min(SNR, gamma) / SNR for an error of the noise, / (SNR + 1) for one of v; SNR = signal / noise
    weighted = torch.minimum(signal, snr_gamma * (1 - signal))
    return weighted if scheduler.prediction_type == "v_prediction" else weighted / signal


def _check_prediction(scheduler: Scheduler) -> None:
    if scheduler.prediction_type not in PREDICTIONS:
        raise ConfigError(f"prediction_type is {scheduler.prediction_type!r}; choose one of {', '.join(PREDICTIONS)}")
    if scheduler.prediction_type == "epsilon" and scheduler.alphas_cumprod[-1] <= 0:
        raise ConfigError("the schedule ends in pure noise, from which noise tells nothing; use v_prediction")
