"""Learn from lesion masks where the data has them: what the network gets, and its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import FocalLoss
from torch import nn

from scintikit.data import UNKNOWN
from scintikit.engines import PrepareImages
from scintikit.errors import DatasetError
from scripts.network import PLACE

NOT_KNOWN = -1.0


class PrepareLesions(PrepareImages):
    """Batches of images with labels and, if wanted, of where the lesions are.

    Parameters
    ----------
    diseases
        D; a mask holds disease number + 1, or `scintikit.data.UNKNOWN` where nobody looked.
    lesions
        Ask the network for its evidence as well.
    augmentation
        Called with images `(B, 2, H, W)` and maps `(B, M, 2, H, W)` that move along.
    """

    def __init__(self, diseases: int, lesions: bool = True, augmentation: Any = None) -> None:
        super().__init__(augmentation)
        self.diseases = diseases
        self.lesions = lesions

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Return images and labels `(B, D)`; with lesions, labels `(B, D + D * 2 * h * w)` and how to call the network.

        The further labels say for each disease and place `(D, 2, h, w)`, flattened, whether a lesion reaches there;
        -1 is not known.

        Raises
        ------
        DatasetError
            If a mask holds the number of no disease; names the item.
        """
        if not self.lesions:
            return super().__call__(batchdata, device, non_blocking, **kwargs)
        image = batchdata["image"].to(device, non_blocking=non_blocking)
        mask = batchdata["mask"].to(device, non_blocking=non_blocking)
        unknown = (mask == UNKNOWN).flatten(1).any(1)
        for item in ((mask > self.diseases) & (mask != UNKNOWN)).flatten(1).any(1).nonzero():
            raise DatasetError(
                f"the mask of {batchdata['id'][int(item)]!r} holds the value {int(mask[item].max())}; expected 0 where "
                f"nothing is and 1 to {self.diseases} in the order of the classes"
            )
        maps = torch.stack([mask == disease for disease in range(1, self.diseases + 1)], 1).to(image.dtype)
        if self.augmentation is not None:
            image, maps = self.augmentation(image, maps)
        places = F.max_pool2d(maps.flatten(1, 2), PLACE, ceil_mode=True).unflatten(1, maps.shape[1:3]) > 0.5
        # Of a whole scan, not of places: what comes in from outside when it is moved would count as looked at.
        lesions = places.float().masked_fill(unknown[:, None, None, None, None], NOT_KNOWN)
        label = torch.as_tensor(batchdata["label"]).to(image)
        image = image.contiguous(memory_format=torch.channels_last)
        return image, torch.cat([label, lesions.flatten(1)], 1), (), {"evidence": True}


class DiseaseLoss(nn.Module):
    """Cross entropy of each disease and, where masks are known, focal loss of each place.

    Lesions cover a few places among thousands, so the focal loss (Lin et al., ICCV 2017) is summed and divided by the
    number of places with a lesion, as in the paper.

    Parameters
    ----------
    diseases
        D.
    lesion_weight
        Of the places' loss beside the scans'.
    pos_weight
        `(D,)`, as for `torch.nn.BCEWithLogitsLoss`.
    """

    def __init__(self, diseases: int, lesion_weight: float = 1.0, pos_weight: torch.Tensor | None = None) -> None:
        super().__init__()
        self.diseases = diseases
        self.lesion_weight = lesion_weight
        self.scan = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
        self.place = FocalLoss(gamma=2.0, alpha=0.75, reduction="none")

    def forward(self, pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits `(B, D)`, or of logits and evidence as `PrepareLesions` orders them."""
        loss = self.scan(pred[:, : self.diseases], label[:, : self.diseases])
        if pred.shape[1] == self.diseases:
            return loss
        evidence, lesions = (values[:, self.diseases :].unflatten(1, (self.diseases, -1)) for values in (pred, label))
        known = lesions != NOT_KNOWN
        places = self.place(evidence, lesions.clamp(min=0)) * known
        return loss + self.lesion_weight * places.sum() / (lesions * known).sum().clamp(min=1)
