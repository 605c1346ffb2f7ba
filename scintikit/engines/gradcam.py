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
    maps = GradCAM(network, target_layers=layer)(images.float(), class_idx=classes.to(images.device))
    network.train(training)
    network.zero_grad(set_to_none=True)
    return maps[:, 0].clamp(0, 1).float().cpu()
