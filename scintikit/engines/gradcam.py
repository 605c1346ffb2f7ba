"""Where a classifier looked."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def grad_cam(network: torch.nn.Module, layer: str, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return Grad-CAM maps `(B, H, W)` in 0..1 of the given classes `(B,)` for images `(B, C, H, W)`.

    Selvaraju et al., ICCV 2017; for one image the same as MONAI's GradCAM. MONAI's, given a batch with several classes,
    adds up the gradients of all classes for every image, and leaves its hooks in the network.

    Each map is scaled to its own range, so it shows where, not how much; it is 0 everywhere if nothing speaks for the
    class. Runs in float32 and leaves the network as it was.
    """
    network = getattr(network, "module", network)
    training = network.training
    kept: list[torch.Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            logits = network.eval()(images.float())
            score = logits.gather(1, classes.to(logits.device)[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, kept[0])
    finally:
        hook.remove()
        network.train(training)
    heat = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()
    heat = F.interpolate(heat, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0].detach().cpu()
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return (heat - low) / (high - low).clamp_min(1e-12)
