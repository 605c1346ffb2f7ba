"""Where a classifier looked."""

from __future__ import annotations

import torch
from monai.visualize import GradCAM


def grad_cam(network: torch.nn.Module, layer: str, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return Grad-CAM maps `(B, H, W)` in 0..1 of the given classes `(B,)` for images `(B, C, H, W)`.

    Selvaraju et al., ICCV 2017, by MONAI's implementation. Each map is scaled to its own range, so a map shows where,
    not how much. Runs in float32 and leaves the network in the mode it was in.
    """
    network = getattr(network, "module", network)
    training = network.training
    # MONAI's own normalisation turns the map upside down.
    cam = GradCAM(network, target_layers=layer, postprocessing=_as_it_is)
    heat = cam(images.float(), class_idx=classes.to(images.device))[:, 0].detach().float().cpu()
    network.train(training)
    network.zero_grad(set_to_none=True)
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return (heat - low) / (high - low).clamp_min(1e-12)


def _as_it_is(heat: torch.Tensor) -> torch.Tensor:
    return heat
