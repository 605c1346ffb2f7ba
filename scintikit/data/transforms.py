"""Deterministic preprocessing of scintigrams that MONAI lacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from scintikit.errors import ImageReadError


class RefuseEmptyd(MapTransform):
    """Raise `ImageReadError` for an image without a single count: every class would be a guess."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data as it is."""
        for key in self.key_iterator(dict(data)):
            image = data[key]
            if not bool((image > 0).any()):
                raise ImageReadError(
                    f"{image.meta.get('filename_or_obj', key)} holds no counts where the network looks; leave it out"
                )
        return dict(data)


class Resampled(MapTransform):
    """Resample 2-D scintigrams to a common pixel spacing, averaging over the area a new pixel covers.

    Cameras store pixels of 0.75 to 3.3 mm. MONAI's Spacing interpolates between the nearest pixels only, which for a
    coarser grid throws most counts away and adds noise; antialiasing keeps them. Reads the spacing from the affine
    matrix that the reader set, `(C, H, W)` in and `(C, H', W')` out.

    Parameters
    ----------
    keys
        Items to resample; each must be a MetaTensor.
    spacing_mm
        New pixel spacing (row, column) in mm.
    keep_counts
        Scale the image so that its sum, not its mean, stays: counts per new pixel.
    labels
        The images hold labels: take the nearest pixel's, for there is nothing between two of them.
    allow_missing_keys
        Leave items without a key as they are.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: Sequence[float],
        keep_counts: bool = False,
        labels: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.how = {"mode": "nearest-exact"} if labels else {"mode": "bilinear", "antialias": True}
        self.spacing_mm = tuple(float(value) for value in spacing_mm)
        self.keep_counts = keep_counts

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with resampled images; their affine then tells the new spacing."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key].clone()
            old = [float(image.affine[axis, axis]) for axis in (0, 1)]
            # At least a pixel: a thin strip must not vanish.
            size = [max(1, round(n * o / s)) for n, o, s in zip(image.shape[1:], old, self.spacing_mm, strict=True)]
            new = F.interpolate(image.as_tensor()[None].float(), size=size, **self.how)[0]
            if self.keep_counts:
                new *= image[0].numel() / new[0].numel()
            image.affine[[0, 1], [0, 1]] = torch.tensor(self.spacing_mm, dtype=image.affine.dtype)
            result[key] = MetaTensor(new, meta=image.meta)
        return result


#: Value of a mask where nobody looked.
UNKNOWN = 255


class UnknownMaskd(MapTransform):
    """Give items without a mask one that says so: `UNKNOWN` everywhere, so that batches keep their shape.

    Parameters
    ----------
    keys
        Of the masks.
    like
        Key of an image of the masks' shape `(C, H, W)`.

    Raises
    ------
    ImageReadError
        If a mask from a file holds a value that cannot be the number of a structure, such as 255 in a black and white
        picture, which would be taken for `UNKNOWN`; or lacks a view of its image, where nothing would seem to be.
    """

    def __init__(self, keys: KeysCollection, like: str = "image") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.like = like

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with all masks."""
        result = dict(data)
        for key in self.keys:
            if key in result:
                _check_mask(result[key], result[self.like])
            else:
                result[key] = torch.full(result[self.like].shape, UNKNOWN, dtype=torch.uint8)
        return result


def _check_mask(mask: MetaTensor, image: MetaTensor) -> None:
    name = mask.meta.get("filename_or_obj", "a mask")
    if mask.max() >= UNKNOWN:
        raise ImageReadError(
            f"{name} holds the value {float(mask.max()):g}; expected a mask with 0 where nothing is and the numbers of "
            "structures, 1, 2, ..."
        )
    seen, shown = (picture.meta.get("views") for picture in (mask, image))
    if seen != shown:
        raise ImageReadError(f"{name} is a mask of the views {seen} of an image of {shown}; expected all of them")
