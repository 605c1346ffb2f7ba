"""A generative adversarial network of whole-body scans with a label vector, for MONAI's GanTrainer.

The generator draws expected pictures, without grain; what the discriminator sees of them has the Poisson grain of a
real scan's count level. So grain is never learned, and is drawn when a scan is written, as for every generator here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.engines import PrepareBatch
from monai.inferers import Inferer
from monai.networks.blocks import Convolution, ResidualUnit, SubpixelUpsample
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from scintikit.data.augmentation import mix_seed
from scintikit.engines import AutocastInferer
from scintikit.engines.handlers import check_interval
from scintikit.engines.saving import save_atomic
from scintikit.errors import ConfigError, ScintikitError
from scintikit.generation import stabilise, unstabilise
from scintikit.generation.flow import batch_labels

SLOPE = ("leakyrelu", {"negative_slope": 0.2})


class StyleBlock(nn.Module):
    """Twice the size, a convolution, and features scaled and shifted as a style says (Huang and Belongie, ICCV 2017).

    Parameters
    ----------
    in_channels, out_channels
        Of the features.
    style
        Length of the style.
    """

    def __init__(self, in_channels: int, out_channels: int, style: int) -> None:
        super().__init__()
        self.convolution = Convolution(2, in_channels, out_channels, conv_only=True)
        self.norm = nn.GroupNorm(out_channels // 8, out_channels, affine=False)
        self.style = nn.Linear(style, 2 * out_channels)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Return `(B, out_channels, 2 H, 2 W)` of features `(B, in_channels, H, W)` and styles `(B, style)`."""
        x = self.norm(self.convolution(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        return F.leaky_relu(x * (1 + scale) + shift, 0.2)


class Generator(nn.Module):
    """Draw expected pictures of both views from noise and a label vector.

    Parameters
    ----------
    image_channels
        Views of a scan.
    classes
        Length of the label vector.
    image_size
        Rows and columns; multiples of `unshuffle` times 2 for each entry of `channels`.
    latent
        Length of the noise.
    channels
        Of each level from the coarsest on, multiples of 8; each doubles the size.
    unshuffle
        Pixels of a block's side that the last layer unfolds from channels: full size costs a CPU most of its time.

    Raises
    ------
    ConfigError
        If the size does not divide.
    """

    def __init__(
        self,
        image_channels: int = 2,
        classes: int = 2,
        image_size: Sequence[int] = (256, 64),
        latent: int = 128,
        channels: Sequence[int] = (160, 96, 48),
        unshuffle: int = 4,
    ) -> None:
        super().__init__()
        self.start = (channels[0], *coarsest(image_size, unshuffle * 2 ** len(channels)))
        self.latent = latent
        self.classes = classes
        self.style = nn.Sequential(nn.Linear(latent + classes, latent), nn.LeakyReLU(0.2))
        self.begin = nn.Linear(latent, self.start[0] * self.start[1] * self.start[2])
        wide = [channels[0], *channels]
        self.levels = nn.ModuleList(StyleBlock(a, b, latent) for a, b in pairwise(wide))
        # Its weights start alike for all pixels of a block, or the blocks would long be seen as a grid of dots.
        unfold = SubpixelUpsample(2, channels[-1], image_channels, scale_factor=unshuffle, apply_pad_pool=False)
        self.end = nn.Sequential(unfold, nn.Softplus())

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return stabilised pictures `(B, C, H, W)`, not negative, in the frame of the body.

        Parameters
        ----------
        x
            Noise `(B, latent)` or `(B, latent, 1, 1)`.
        y
            Labels, 0/1 `(B, classes)`; None: no disease.
        mask
            `(B, M + 1, H, W)` whose last channel is the share of a pixel that the camera sees; what it does not see is
            dark. None: it sees everything.
        """
        noise = x.flatten(1)
        label = noise.new_zeros(len(noise), self.classes) if y is None else y.to(noise)
        style = self.style(torch.cat([noise, 2 * label - 1], dim=1))
        features = self.begin(style).unflatten(1, self.start).contiguous(memory_format=torch.channels_last)
        for level in self.levels:
            features = level(features, style)
        picture = self.end(features)
        return picture if mask is None else picture * mask[:, -1:].to(picture).sqrt()


class Discriminator(nn.Module):
    """Tell real pictures with their labels from drawn ones: a residual network with spectral norm and projection.

    The verdict is a plain one plus the product of features with an embedding of the label (Miyato and Koyama, ICLR
    2018), so that a drawn picture must also show what its label says.

    Parameters
    ----------
    image_channels, classes, image_size, unshuffle
        As of `Generator`.
    channels
        Of each level from the finest on; each halves the size.

    Raises
    ------
    ConfigError
        If the size does not divide.
    """

    def __init__(
        self,
        image_channels: int = 2,
        classes: int = 2,
        image_size: Sequence[int] = (256, 64),
        channels: Sequence[int] = (48, 96, 192),
        unshuffle: int = 4,
    ) -> None:
        super().__init__()
        rows, columns = coarsest(image_size, unshuffle * 2 ** len(channels))
        wide = [unshuffle**2 * image_channels, *channels]
        self.features = nn.Sequential(
            nn.PixelUnshuffle(unshuffle),
            *(ResidualUnit(2, a, b, strides=2, act=SLOPE, norm=None, adn_ordering="A") for a, b in pairwise(wide)),
        )
        # One channel more: how much the pictures of a batch differ, which gives a generator of one picture away.
        self.verdict = nn.Linear((channels[-1] + 1) * rows * columns, 1)
        self.embedding = nn.Linear(classes, channels[-1], bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                spectral_norm(module)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return verdicts `(B, 1)`, high for real, on pictures `(B, C, H, W)` with labels, 0/1 `(B, classes)`."""
        features = self.features(x.contiguous(memory_format=torch.channels_last))
        spread = features.float().std(dim=0, correction=0).mean().to(features)
        whole = torch.cat([features, spread.expand(len(x), 1, *features.shape[2:])], dim=1)
        label = self.embedding(2 * y.to(features) - 1)
        return self.verdict(whole.flatten(1)) + (label * features.mean(dim=(2, 3))).sum(dim=1, keepdim=True)


class Scans(NamedTuple):
    """A batch on its way through the trainer.

    Attributes
    ----------
    x
        Noise `(B, latent)`, or pictures `(B, C, H, W)`.
    y
        Labels `(B, classes)`.
    mask
        The cameras' fields of view, `(B, 1, H, W)`.
    level
        Count levels `(B,)`.
    """

    x: torch.Tensor
    y: torch.Tensor
    mask: torch.Tensor
    level: torch.Tensor


class PrepareScans(PrepareBatch):
    """Real scans for the discriminator, and noise for the generator, for the labels and cameras of these scans.

    GanTrainer asks for the noise without telling for what; it has asked for the real scans before.
    """

    def __init__(self) -> None:
        self.reals: Scans | None = None
        self.generator = torch.Generator().manual_seed(0)

    def reseed(self, *numbers: int) -> None:
        """Start the random numbers anew from these non-negative integers."""
        self.generator.manual_seed(mix_seed(*numbers))

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> Scans:
        """Return the real scans."""
        label = batch_labels(batchdata["label"])
        if label.ndim != 2:
            raise ConfigError("labels are class numbers, this GAN learns lists of 0/1; index with --multi_label")
        values = (batchdata["image"], label, batchdata["mask"], batchdata["level"])
        self.reals = Scans(*(value.to(device, torch.float32, non_blocking=non_blocking) for value in values))
        return self.reals

    def latents(self, num_latents: int, latent_size: int, device: Any = None, **kwargs: Any) -> Scans:
        """Return noise for as many drawn scans; a last batch may be smaller than `num_latents`."""
        assert self.reals is not None
        noise = torch.randn(len(self.reals.x), latent_size, generator=self.generator)
        return self.reals._replace(x=noise.to(device))


class DrawScans(Inferer):
    """Run the generator on noise.

    Parameters
    ----------
    precision
        As of `scintikit.engines.AutocastInferer`.
    """

    def __init__(self, precision: str = "auto") -> None:
        super().__init__()
        self.forward = AutocastInferer(precision)

    def __call__(self, inputs: Scans, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Scans:
        """Return expected pictures."""
        return inputs._replace(x=self.forward(inputs.x, network, inputs.y, inputs.mask))


class Adversary:
    """Losses of discriminator and generator: the hinge loss (Lim and Ye, arXiv 1705.02894), with grain, augmented.

    MONAI's PatchAdversarialLoss puts verdicts through a tanh before the hinge; where that saturates, both networks stop
    learning, and with a projection they soon do.

    Real and drawn pictures are augmented alike, on the way to the discriminator only (Zhao et al., NeurIPS 2020): a few
    hundred scans do not last a discriminator long, and what is drawn is not augmented.

    Parameters
    ----------
    discriminator
        Judges pictures and labels.
    augmentation
        Differentiable, called with pictures on the device; None for none.
    precision
        As of `scintikit.engines.AutocastInferer`.

    Raises
    ------
    ConfigError
        For fp16, which needs a scaled loss: MONAI's GanTrainer has none.
    ScintikitError
        In training, if a picture or a loss is not finite.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        augmentation: Callable[[torch.Tensor], torch.Tensor] | None = None,
        precision: str = "auto",
    ) -> None:
        if precision == "fp16":
            raise ConfigError("this training has no scaled loss for fp16; give --precision bf16 or fp32")
        self.discriminator = discriminator
        self.augmentation = augmentation
        self.inferer = AutocastInferer(precision)
        self.generator = torch.Generator().manual_seed(0)

    def reseed(self, *numbers: int) -> None:
        """Start the random numbers, the augmentation's too, anew from these non-negative integers."""
        self.generator.manual_seed(mix_seed(*numbers, 1))
        if self.augmentation is not None:
            self.augmentation.reseed(*numbers)  # type: ignore[attr-defined]

    def discriminator_loss(self, fakes: Scans, reals: Scans) -> torch.Tensor:
        """Return the loss of telling real from drawn scans."""
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            drawn = self._grainy(fakes)
        on_fakes, on_reals = self._judge(drawn, fakes.y), self._judge(reals.x, reals.y)
        loss = F.relu(1 + on_fakes).mean() + F.relu(1 - on_reals).mean()
        return _finite(loss, "the loss of the discriminator")

    def generator_loss(self, fakes: Scans) -> torch.Tensor:
        """Return how far drawn scans are from being taken for real."""
        self.discriminator.requires_grad_(False)
        return _finite(-self._judge(self._grainy(fakes), fakes.y).mean(), "the loss of the generator")

    def _judge(self, pictures: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        if self.augmentation is not None:
            pictures = self.augmentation(pictures)
        return self.inferer(pictures, self.discriminator, label)

    def _grainy(self, fakes: Scans) -> torch.Tensor:
        """Return the pictures with the Poisson grain of their count levels; gradients pass as if it were a constant."""
        expected = _finite(fakes.x.detach(), "a picture of the generator").cpu()
        level = fakes.level.cpu()[:, None, None, None]
        counts = torch.poisson(unstabilise(expected, level), generator=self.generator)
        return fakes.x + (stabilise(counts, level) - expected).to(fakes.x)


class KeepState:
    """Keep all that the training needs to be resumed, and in the end the averaged generator, `model.pt`.

    MONAI's CheckpointSaver writes in place, removes the last state before the next one is written, and writes
    `model.pt` over that of an earlier training also when this one is stopped or fails.

    Parameters
    ----------
    folder
        Where the files go.
    state
        What has a `state_dict`, by name.
    average
        The averaged generator.
    interval
        Every how many epochs `checkpoint_epoch=N.pt` is written; the one before is then removed.
    """

    def __init__(self, folder: str, state: Mapping[str, Any], average: nn.Module, interval: int) -> None:
        check_interval(interval)
        self.folder = Path(folder)
        self.state = state
        self.average = average
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._keep)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _keep(self, engine: Engine) -> None:
        path = self.folder / f"checkpoint_epoch={engine.state.epoch}.pt"
        save_atomic(path, {name: part.state_dict() for name, part in self.state.items()})
        for old in self.folder.glob("checkpoint_epoch=*.pt"):
            if old != path:
                old.unlink()

    def _finish(self, engine: Engine) -> None:
        save_atomic(self.folder / "model.pt", self.average.state_dict())


class GanSampler:
    """Draw pictures in one pass, for `scintikit.generation.PlausibleSampler`.

    Parameters
    ----------
    precision
        As of `scintikit.engines.AutocastInferer`.
    """

    def __init__(self, precision: str = "auto") -> None:
        self.forward = AutocastInferer(precision)

    def recipe(self, device: torch.device) -> dict[str, Any]:
        """Return what decides the pictures' bits, apart from network and noise."""
        return {"precision": self.forward.describe(device)}

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., torch.Tensor],
        y: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        **conditions: Any,
    ) -> torch.Tensor:
        """Return pictures `(B, C, H, W)` from noise `(B, latent, 1, 1)`, labels and masks as of `Generator`."""
        return self.forward(inputs, network, y, mask)


def coarsest(image_size: Sequence[int], step: int) -> tuple[int, int]:
    """Return the size divided by `step`; `ConfigError` if that leaves a rest."""
    rows, columns = image_size
    if rows % step or columns % step:
        raise ConfigError(f"image_size is {[rows, columns]}; expected multiples of {step}, see channels and unshuffle")
    return rows // step, columns // step


def _finite(values: torch.Tensor, what: str) -> torch.Tensor:
    if not bool(torch.isfinite(values).all()):
        raise ScintikitError(f"{what} is not finite; lower --learning_rate and --discriminator_learning_rate")
    return values
