"""Networks that tell several diseases in the two views of one whole-body bone scintigram.

All of them take images `(B, 2, H, W)`, anterior and posterior as displayed, and return one logit for each disease
`(B, D)`; `heat_maps` says where. A view of zeros was not acquired.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from monai.networks.nets import DenseNet121, resnet18
from monai.networks.nets.resnet import ResNetBlock
from torch import nn

from scintikit.data import mirror_posterior
from scintikit.engines import coordinates, grad_cam
from scintikit.errors import ConfigError, did_you_mean

VIEWS = 2
#: Pixels of a side of the places that evidence is read from.
PLACE = 4
#: Evidence to start with: most places are healthy, and it must not take a training to find that out.
HEALTHY = -3.0
#: Beta to start with: a lesion of twenty places must outweigh sixteen thousand healthy ones.
SHARPNESS = 3.0
#: Evidence in a view that was not acquired: attention there is exactly 0, without the gradients of an infinity.
NOTHING = -1e4


class TwoViewNetwork(nn.Module):
    """One encoder for both views, each of which sees the other one; the strongest evidence decides.

    The posterior view is mirrored, so that the same place of the body lies at the same pixel in both. A shared encoder
    reads each view, with the other one as its second channel; two more channels tell where a pixel lies. At every level
    each place then learns what is seen there in the other view, and on the other side of the body in both: a lesion
    shows more in one view than in the other and on one side only, what is normal is symmetric. The maps are handed
    back up to a quarter of the resolution, where a lesion is a few places. There every place of both views has its
    evidence s for each disease, and the scan has the mean of s with the weights softmax(beta s), with a learned beta:
    attention that one metastasis can win as well as thirty can. Its logit is linear in that mean, for a place and a
    scan are not ill equally often. What no single place shows comes from the mean of the deepest maps; it also lets
    labels alone teach the encoder from the first step.

    Parameters
    ----------
    diseases
        D, number of logits.
    stem
        Width of the encoder at 1/2 of the resolution.
    channels
        Its widths at 1/4, 1/8, 1/16, ...
    width
        Of the maps that evidence is read from.
    """

    def __init__(
        self, diseases: int = 2, stem: int = 32, channels: Sequence[int] = (48, 96, 192, 320), width: int = 48
    ) -> None:
        super().__init__()
        self.stem = convolution(VIEWS, stem, kernel_size=7, strides=2)
        inward = [stem + 2, *channels]
        self.levels = nn.ModuleList(halve(*sides) for sides in pairwise(inward))
        self.exchange = nn.ModuleList(convolution(4 * out, out, kernel_size=1) for out in channels)
        self.lateral = nn.ModuleList(nn.Conv2d(out, width, 1) for out in channels)
        self.smooth = convolution(width, width, kernel_size=3)
        self.evidence = nn.Conv2d(width, diseases, 1)
        nn.init.constant_(self.evidence.bias, HEALTHY)
        self.beta = nn.Parameter(torch.full((diseases,), SHARPNESS))
        self.scale = nn.Parameter(torch.ones(diseases))
        self.offset = nn.Parameter(torch.full((diseases,), -HEALTHY))
        self.whole = nn.Linear(channels[-1], diseases, bias=False)
        self.pooled = nn.Identity()  # its input describes the picture, see `scintikit.engines.calibrate`

    def forward(self, x: torch.Tensor, evidence: bool = False) -> torch.Tensor:
        """Return logits `(B, D)` of images `(B, 2, H, W)`; on demand also the evidence, `(B, D + D * 2 * h * w)`."""
        maps, found, whole = self.read(x)
        flat = found.flatten(2)
        attention = (F.softplus(self.beta)[:, None] * flat).softmax(dim=2)
        # Features of the places looked at, for each disease.
        self.pooled(torch.einsum("bdn,bcn->bdc", attention.to(maps), maps.flatten(2)).flatten(1))
        logits = self.scale * (attention * flat).sum(2) + self.offset + self.whole(whole).float()
        return torch.cat([logits, flat.flatten(1)], dim=1) if evidence else logits

    def heat_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the probability of each disease at each place, `(B, D, 2, H / 4, W / 4)`, as displayed."""
        return mirror_posterior(self.read(x)[1].sigmoid())

    def read(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return maps `(B, width, 2, h, w)`, evidence `(B, D, 2, h, w)` and the mean of the deepest maps `(B, C)`."""
        views = mirror_posterior(x).flatten(0, 1)[:, None]  # (2 B, 1, H, W)
        present = (views.amax((1, 2, 3), keepdim=True) > 0).to(views)
        level = self.stem(torch.cat([views, _other(views)], 1).contiguous(memory_format=torch.channels_last))
        level = torch.cat([level, coordinates(level)], 1).contiguous(memory_format=torch.channels_last)
        levels: list[torch.Tensor] = []
        for halved, exchange in zip(self.levels, self.exchange, strict=True):
            level = halved(level)
            level = level + exchange(_around(level, present))
            levels.append(level)
        there = present.unflatten(0, (-1, VIEWS)).sum(1).clamp(min=1)
        whole = (levels[-1].mean((2, 3), keepdim=True) * present).unflatten(0, (-1, VIEWS)).sum(1) / there
        maps = self.lateral[-1](levels[-1])
        for lateral, level in zip(self.lateral[-2::-1], levels[-2::-1], strict=True):
            maps = F.interpolate(maps, level.shape[-2:], mode="nearest") + lateral(level)
        maps = self.smooth(maps)
        evidence = self.evidence(maps).float().masked_fill(present == 0, NOTHING)
        return _by_patient(maps), _by_patient(evidence), whole.flatten(1)


class StackedViews(nn.Module):
    """A network for one picture with both views as its channels, the posterior mirrored: the baselines.

    Parameters
    ----------
    body
        From images `(B, 2, H, W)` to features `(B, F)`.
    features
        F.
    diseases
        D.
    cam_layer
        Of `body`, for the heat maps.
    """

    def __init__(self, body: nn.Module, features: int, diseases: int, cam_layer: str) -> None:
        super().__init__()
        self.body = body
        self.pooled = nn.Identity()
        self.head = nn.Linear(features, diseases)
        self.cam_layer = f"body.{cam_layer}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(B, D)` of images `(B, 2, H, W)`."""
        return self.head(self.pooled(self.body(mirror_posterior(x).contiguous(memory_format=torch.channels_last))))

    def heat_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return Grad-CAM of each disease, `(B, D, 2, H, W)`, as displayed; the views share theirs."""
        diseases = range(self.head.out_features)
        maps = [grad_cam(self, self.cam_layer, x, torch.full((len(x),), disease)) for disease in diseases]
        return mirror_posterior(torch.stack(maps, dim=1)[:, :, None].expand(-1, -1, VIEWS, -1, -1))


def alexnet() -> nn.Sequential:
    """Return the convolutions of AlexNet (Krizhevsky 2014, arXiv 1404.5997) for two views, then 512 features."""
    return nn.Sequential(
        *(nn.Conv2d(VIEWS, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d((8, 2)), nn.Flatten(), nn.Dropout(), nn.Linear(256 * 16, 512), nn.ReLU(), nn.Dropout()),
    )


def densenet121() -> nn.Module:
    """Return MONAI's DenseNet121 for two views, without its last layer."""
    network = DenseNet121(spatial_dims=2, in_channels=VIEWS, out_channels=1)
    network.class_layers.out = nn.Identity()
    return network


def build(architecture: str = "two_view", diseases: int = 2) -> nn.Module:
    """Return a network by name: "two_view", or a baseline: "alexnet", "resnet18", "densenet121".

    Raises
    ------
    ConfigError
        If there is no network of that name.
    """
    match architecture:
        case "two_view":
            return TwoViewNetwork(diseases)
        case "alexnet":
            return StackedViews(alexnet(), 512, diseases, "12")
        case "resnet18":
            body = resnet18(spatial_dims=2, n_input_channels=VIEWS, conv1_t_stride=2, feed_forward=False)
            return StackedViews(body, 512, diseases, "layer3")
        case "densenet121":
            return StackedViews(densenet121(), 1024, diseases, "features.denseblock3")
    known = ("two_view", "alexnet", "resnet18", "densenet121")
    raise ConfigError(
        f"there is no architecture {architecture!r}{did_you_mean(architecture, known)}; known are {', '.join(known)}"
    )


def convolution(inward: int, out: int, **options: Any) -> nn.Module:
    """Return a convolution with batch normalisation and ReLU."""
    return Convolution(2, inward, out, act="RELU", norm="BATCH", adn_ordering="NA", bias=False, **options)


def halve(inward: int, out: int) -> nn.Module:
    """Return a residual block that halves the size; its shortcut is the mean of four pixels, as in ResNet-D."""
    mean = nn.AvgPool2d(2, ceil_mode=True)
    shortcut = nn.Sequential(mean, nn.Conv2d(inward, out, 1, bias=False), nn.BatchNorm2d(out))
    return ResNetBlock(inward, out, spatial_dims=2, stride=2, downsample=shortcut)


def _around(level: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return `(2 B, 4 C, h, w)`: what is seen at each place, there in the other view, and opposite in both."""
    both = torch.cat([level, _other(level * present)], 1)
    return torch.cat([both, both.flip(3)], 1)


def _other(views: torch.Tensor) -> torch.Tensor:
    """Return for each of the views `(2 B, C, h, w)` the other one of the same patient."""
    return views.unflatten(0, (-1, VIEWS)).flip(1).flatten(0, 1)


def _by_patient(maps: torch.Tensor) -> torch.Tensor:
    """Turn maps of views `(2 B, C, h, w)` into maps of patients `(B, C, 2, h, w)`."""
    return maps.unflatten(0, (-1, VIEWS)).transpose(1, 2)
