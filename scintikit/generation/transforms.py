"""From a dataset's files to what a generator learns from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from scintikit.errors import DatasetError
from scintikit.generation.counts import count_level, stabilise


class HasFields(Protocol):
    """Knows the field of view of each centre's camera."""

    def field(self, centre: str, matrix: Sequence[int]) -> torch.Tensor:
        """Return it as `(rows, columns)`, 1 inside."""


class MaskAndField(Transform):
    """Turn an item's integer mask into channels, and note where its camera looked, before anything is resampled.

    `mask` becomes `(labels + 1, H, W)`: one channel for each structure, all 0 without a mask, then the camera's field
    of view (what is padded later lies outside and becomes 0). Adds `has_mask`, and of the file `matrix` (rows, columns)
    and `pixel_mm` (row, column), to which a generated picture can be brought back.

    Parameters
    ----------
    labels
        Structures are numbered 1 to `labels`; 0 is background.
    fields
        Knows the cameras' fields of view; None takes the whole image.

    Raises
    ------
    DatasetError
        If a mask has another number, or another size than its image.
    """

    def __init__(self, labels: int, fields: HasFields | None = None) -> None:
        self.labels = labels
        self.fields = fields

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the four entries."""
        image, size = data["image"], data["image"].shape[1:]
        structures = torch.zeros(self.labels, *size)
        if "mask" in data and self.labels:
            values = data["mask"].as_tensor().amax(dim=0)  # the views share one set of structures
            if values.shape != size:
                raise DatasetError(
                    f"the mask of {data['id']} is {tuple(values.shape)}, its image {tuple(size)}; "
                    "a mask must lie on its image's grid"
                )
            if values.max() > self.labels or values.min() < 0:
                raise DatasetError(
                    f"the mask of {data['id']} holds the structure {values.max():g}; known are 1 to {self.labels}, "
                    "see --mask_labels"
                )
            structures = (values == torch.arange(1, self.labels + 1)[:, None, None]).float()
        field = torch.ones(*size) if self.fields is None else self.fields.field(data["centre"], size)
        return {
            **data,
            "mask": MetaTensor(torch.cat([structures, field[None]]), meta=image.meta),
            "has_mask": "mask" in data and self.labels > 0,
            "matrix": torch.tensor(size),
            "pixel_mm": torch.stack([image.affine[axis, axis].abs() for axis in (0, 1)]).float(),
        }


class Stabilised(Transform):
    """Turn an image of counts per model pixel into a variance-stabilised picture, and keep its count level.

    Raises
    ------
    DatasetError
        If the image holds hardly any counts.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with `image` as a picture `(C, H, W)`, and `level`."""
        density = data["image"].as_tensor()
        level = count_level(density)
        if level <= 0:
            raise DatasetError(f"{data['id']} holds hardly any counts in the model's field; leave it out")
        return {**data, "image": stabilise(density, level), "level": level}


class FixedSize(Transform):
    """Refuse an image of another size, for a dataset that is not to be resampled.

    Parameters
    ----------
    image_size
        Rows and columns of every image.

    Raises
    ------
    DatasetError
        If an image differs.
    """

    def __init__(self, image_size: Sequence[int]) -> None:
        self.image_size = tuple(image_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data as it is."""
        size = tuple(data["image"].shape[1:])
        if size != self.image_size:
            raise DatasetError(
                f"{data['id']} has {size[0]} x {size[1]} pixels, expected {self.image_size[0]} x {self.image_size[1]}; "
                "give the common --image_size, or resample all images with --spacing_mm 2.4"
            )
        return dict(data)
