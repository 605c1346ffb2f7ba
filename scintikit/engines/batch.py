"""From a loader's batch to a network's input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import PrepareBatch


class PrepareImages(PrepareBatch):
    """Move a batch of images and labels to the device, in channels-last order, and augment it there.

    Parameters
    ----------
    augmentation
        Called with the images `(B, C, H, W)` on the device; None for validation and inference. Augmenting the whole
        batch at once costs about a tenth of transforming the items one by one.
    """

    def __init__(self, augmentation: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self.augmentation = augmentation

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return images `(B, C, H, W)` and labels `(B,)`, or None for a batch without labels."""
        image = batchdata["image"]
        # MetaTensor would nearly double the launch cost of a small network.
        image = image.as_tensor() if isinstance(image, MetaTensor) else image
        image = image.to(device, non_blocking=non_blocking)
        if self.augmentation is not None:
            image = self.augmentation(image)
        label = batchdata.get("label")
        if label is not None:
            label = torch.as_tensor(label).to(device, non_blocking=non_blocking)
        return image.contiguous(memory_format=torch.channels_last), label
