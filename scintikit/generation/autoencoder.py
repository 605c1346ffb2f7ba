"""Training of an autoencoder of scintigrams, and the scale of its latents."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.engines import IterationEvents, PrepareBatch, SupervisedTrainer
from monai.losses import PatchAdversarialLoss
from monai.utils.enums import CommonKeys as Keys
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from scintikit.data.augmentation import mix_seed
from scintikit.engines.device import pick_dtype
from scintikit.engines.saving import save_atomic
from scintikit.errors import ConfigError
from scintikit.files import file_sha256
from scintikit.generation.counts import grain_deviation
from scintikit.generation.statistics import check_trained

logger = logging.getLogger(__name__)

FILE_NAME = "autoencoder.pt"
#: Least variance of a latent channel; one that says nothing must not be blown up.
SILENT = 1e-4


class PreparePictures(PrepareBatch):
    """Pictures, to be compared with themselves."""

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pictures `(B, C, H, W)` twice."""
        pictures = batchdata["image"].to(device, non_blocking=non_blocking)
        return pictures, pictures


class AutoencoderStep:
    """One step of the training, for a SupervisedTrainer's `iteration_update`: L1, KL and a patch adversary.

    As in latent diffusion (Rombach et al., CVPR 2022), without the perceptual loss, whose network has seen photographs
    only. L1 keeps what the latents can hold and averages over the Poisson grain, which they cannot. The adversary sees
    reconstructions to which grain of the picture's count level was added, so that it asks the decoder for structure,
    not for grain; grain is drawn when a scintigram is written.

    Parameters
    ----------
    discriminator, optimizer
        The adversary, such as MONAI's PatchDiscriminator, and what trains it.
    augmentation
        Called with pictures on the device; None for none.
    kl_weight
        Of the divergence of the latents from a standard normal distribution, summed over a picture's latents and
        divided by the number of its pixels.
    adversarial_weight
        Of the adversary's verdict; 0 leaves it out.
    warmup_epochs
        Epochs without the adversary.
    precision
        As of `scintikit.engines.AutocastInferer`.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        optimizer: torch.optim.Optimizer,
        augmentation: Callable[[torch.Tensor], torch.Tensor] | None = None,
        kl_weight: float = 1e-4,
        adversarial_weight: float = 0.02,
        warmup_epochs: int = 5,
        precision: str = "auto",
    ) -> None:
        self.discriminator = discriminator
        self.optimizer = optimizer
        self.augmentation = augmentation
        self.kl_weight = kl_weight
        self.adversarial_weight = adversarial_weight
        self.warmup_epochs = warmup_epochs
        if precision == "fp16":
            raise ConfigError("this training has no scaled loss for fp16; give --precision bf16 or fp32")
        self.precision = precision
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")
        self.generator = torch.Generator().manual_seed(0)

    def reseed(self, *numbers: int) -> None:
        """Start the random numbers, the augmentation's too, anew from these non-negative integers."""
        self.generator.manual_seed(mix_seed(*numbers))
        if self.augmentation is not None:
            self.augmentation.reseed(*numbers)  # type: ignore[attr-defined]

    def __call__(self, engine: SupervisedTrainer, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Train on a batch with `image` `(B, C, H, W)` and `level` `(B,)`; return pictures, reconstructions, loss."""
        device = engine.state.device
        pictures = batch["image"].to(device)
        if self.augmentation is not None:
            pictures = self.augmentation(pictures)
        deviation = grain_deviation(batch["level"].to(pictures))[:, None, None, None]
        critical = self.adversarial_weight > 0 and engine.state.epoch > self.warmup_epochs

        network: Any = engine.network
        network.train()
        engine.optimizer.zero_grad()
        dtype = pick_dtype(device, self.precision)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            mean, sigma = (part.float() for part in network.posterior(pictures))
            drawn = network.restore(mean + sigma * self._normal(mean)).float()
            grainy = drawn + deviation * self._normal(drawn)
            loss = (drawn - pictures).abs().mean() + self.kl_weight * _divergence(mean, sigma) / pictures[0].numel()
            if critical:
                self.discriminator.requires_grad_(False)
                verdict = self.discriminator(grainy)[-1].float()
                loss = loss + self.adversarial_weight * self.adversarial(verdict, True, for_discriminator=False)
        output: dict[str, Any] = {
            Keys.IMAGE: pictures,
            Keys.LABEL: pictures,
            Keys.PRED: drawn.detach(),
            Keys.LOSS: loss,
        }
        engine.state.output = output
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        loss.backward()
        engine.optimizer.step()
        if critical:
            self._train_discriminator(pictures, grainy.detach(), dtype)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _train_discriminator(self, real: torch.Tensor, drawn: torch.Tensor, dtype: torch.dtype) -> None:
        self.discriminator.requires_grad_(True)
        self.optimizer.zero_grad()
        with torch.autocast(real.device.type, dtype, enabled=dtype != torch.float32):
            on_drawn, on_real = (self.discriminator(pictures)[-1].float() for pictures in (drawn, real))
        losses = self.adversarial(on_drawn, False, True), self.adversarial(on_real, True, True)
        (0.5 * (losses[0] + losses[1])).backward()
        self.optimizer.step()

    def _normal(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like)


def _divergence(mean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence from N(0, 1), summed over latents, mean over the batch."""
    each = 0.5 * (mean.square() + sigma.square() - 1 - 2 * sigma.clamp(min=1e-6).log())
    return each.flatten(1).sum(dim=1).mean()


@torch.no_grad()
def measure_latents(autoencoder: Any, weights: str, ckpt_dir: str, pictures: Dataset, rank: int = 0) -> Path:
    """Measure mean and deviation of each latent channel over the training pictures; write `autoencoder.pt`.

    Parameters
    ----------
    autoencoder
        Such as `ScintigramAutoencoder` of the bundle sd_generator; gets the weights.
    weights
        File with the best weights of the training.
    ckpt_dir
        Where `autoencoder.pt` goes: weights, shift and scale.
    pictures
        Preprocessed training items without augmentation.
    rank
        Process rank in distributed training; only rank 0 works.

    Raises
    ------
    ConfigError
        If there are no weights.
    """
    path = Path(ckpt_dir) / FILE_NAME
    if rank != 0:
        return path
    check_trained(Path(weights))
    device = next(autoencoder.parameters()).device
    autoencoder.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
    autoencoder.eval()
    sums = torch.zeros(2, len(autoencoder.shift), dtype=torch.float64)  # on the CPU: Apple's GPUs have no float64
    count = 0
    for batch in tqdm(DataLoader(pictures, batch_size=32), desc="measuring latents", leave=False):
        mean = autoencoder.posterior(batch["image"].to(device))[0].cpu().double()
        sums += torch.stack([mean.sum(dim=(0, 2, 3)), mean.square().sum(dim=(0, 2, 3))])
        count += mean.numel() // mean.shape[1]
    mean, square = sums / count
    deviation = (square - mean**2).clamp(min=SILENT).sqrt()
    autoencoder.shift.copy_(mean)
    autoencoder.scale.copy_(deviation)
    save_atomic(path, {name: value.cpu().contiguous() for name, value in autoencoder.state_dict().items()})
    logger.info("wrote %s: latents have deviations %s", path, [round(value, 3) for value in deviation.tolist()])
    return path


class TrainedAutoencoder:
    """The autoencoder of `autoencoder.pt`, read on first use, so that a config resolves without it.

    Parameters
    ----------
    autoencoder
        A network of the shape that was trained, `ScintigramAutoencoder` for instance.
    ckpt_dir
        Folder of `autoencoder.pt`.
    """

    def __init__(self, autoencoder: Any, ckpt_dir: str) -> None:
        self.path = Path(ckpt_dir) / FILE_NAME
        self._network = autoencoder
        self._loaded = False

    @property
    def network(self) -> Any:
        """The network, frozen.

        Raises
        ------
        ConfigError
            If the file is missing, does not fit, or its latents were not measured.
        """
        if not self._loaded:
            self._load()
            self._loaded = True
        return self._network

    @property
    def sha256(self) -> str:
        """Of the file."""
        self.check()
        return file_sha256(self.path)

    def check(self) -> None:
        """Raise `ConfigError` if there is no file."""
        if not self.path.is_file():
            raise ConfigError(
                f"there is no {self.path}: train the autoencoder first, with the overlay train_autoencoder, or name "
                "the folder of a trained one with --ckpt_dir"
            )

    def to(self, device: torch.device) -> TrainedAutoencoder:
        """Move to a device."""
        self.network.to(device=device, memory_format=torch.channels_last)
        return self

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return latents `(B, c, h, w)`, mean 0 and variance 1 in training, of pictures `(B, C, H, W)`."""
        return self.network.encode(pictures)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pictures."""
        return self.network.decode(latents)

    def _load(self) -> None:
        self.check()
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        own = self._network.state_dict()
        wrong = [name for name in {**own, **state} if name not in own or name not in state]
        wrong += [name for name in own if name in state and own[name].shape != state[name].shape]
        if wrong:
            raise ConfigError(
                f"{self.path} does not fit {type(self._network).__name__}: {len(wrong)} tensors are missing, unknown "
                f"or of another shape, first {wrong[:3]}; use the views and latent_channels of its training"
            )
        self._network.load_state_dict(state)
        if not (self._network.scale > 0).all():
            raise ConfigError(f"the latents of {self.path} were not measured; let the training of the autoencoder end")
        self._network.eval().requires_grad_(False)
