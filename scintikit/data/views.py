"""Views of the same patient, and what becomes of them when the patient is mirrored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from scintikit.data.augmentation import BatchAugmentation


def mirror_posterior(pictures: torch.Tensor) -> torch.Tensor:
    """Flip the columns of the second view of `(..., 2, H, W)`, which is displayed as seen from behind.

    Both views then show the same place of the body at the same pixel. Applied twice it changes nothing.
    """
    anterior, posterior = pictures.unbind(-3)
    return torch.stack([anterior, posterior.flip(-1)], dim=-3)


def body_frame(x: torch.Tensor, views: Sequence[str]) -> torch.Tensor:
    """Return `x` `(..., views, H, W)`, as displayed, so that its views agree about the patient's sides; and back again.

    Beside other views the columns of POST are flipped, as by `mirror_posterior`. Every other view, and one alone,
    stays as it is displayed.
    """
    if "POST" not in views or len(views) == 1:
        return x
    frames = zip(x.unbind(-3), views, strict=True)
    return torch.stack([frame.flip(-1) if view == "POST" else frame for frame, view in frames], dim=-3)


def mirrored_view(view: str) -> str:
    """Return the view that a picture of it, mirrored left to right, shows of the mirrored patient: LAO becomes RAO."""
    return {"L": "R", "R": "L"}.get(view[:1], view[:1]) + view[1:]


def mirrored_prompt(prompt: str) -> str:
    """Return what an English prompt says of the picture mirrored left to right."""
    other = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    return re.sub(r"\b([Ll]eft|[Rr]ight)\b", lambda match: other[match[0]], prompt)


class TwoViewAugmentation(BatchAugmentation):
    """`BatchAugmentation` of a patient rather than of two pictures, and now and then only one of the views.

    What turns or shifts a patient on the table to the right in the anterior view does so to the left in the posterior
    one; a flip swaps the patient's left and right in both and leaves each the view that it is.

    Parameters
    ----------
    rotate_deg, shift, scale, flip, brightness
        As for `BatchAugmentation`.
    one_view
        Probability that a patient keeps one view alone, either with the same chance; the other becomes 0, as a view
        that was not acquired.
    """

    def __init__(
        self,
        rotate_deg: float = 3.0,
        shift: float = 0.04,
        scale: float = 0.06,
        flip: float = 0.5,
        brightness: float = 0.1,
        one_view: float = 0.1,
    ) -> None:
        super().__init__(rotate_deg, shift, scale, flip, brightness)
        self.one_view = one_view

    def __call__(self, images: torch.Tensor, maps: torch.Tensor | None = None) -> Any:
        """Return augmented images `(B, 2, H, W)`, anterior view first; with `maps` `(B, M, 2, H, W)`, both."""
        everything = images[:, None] if maps is None else torch.cat([images[:, None], maps], dim=1)
        body = mirror_posterior(everything)
        moved = super().__call__(body[:, 0], body[:, 1:].flatten(1, 2))
        body = torch.cat([moved[0][:, None], moved[1].unflatten(1, body[:, 1:].shape[1:3])], dim=1)
        draw = torch.rand(len(images), generator=self.generator)
        absent = torch.stack([draw < self.one_view / 2, draw > 1 - self.one_view / 2], dim=1)
        # A patient of whom there is one view keeps it.
        absent = absent.to(images.device) & (images.amax((2, 3)) > 0).all(dim=1, keepdim=True)
        everything = mirror_posterior(body).masked_fill(absent[:, None, :, None, None], 0)
        return everything[:, 0] if maps is None else (everything[:, 0], everything[:, 1:])
