"""From a dataset's files to what a generator learns from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from scintikit.data.views import body_frame
from scintikit.errors import DatasetError
from scintikit.generation.counts import count_level, stabilise


class HasFields(Protocol):
    """Knows the field of view of each centre's camera."""

    def field(self, centre: str, matrix: Sequence[int]) -> torch.Tensor:
        """Return it as `(rows, columns)`, 1 inside."""


class BodyFrame(Transform):
    """Bring the views of image and mask into one frame, see `scintikit.data.body_frame`.

    A network then finds both views of a place of the body at one pixel, and one movement of all channels is a movement
    of the patient.

    Parameters
    ----------
    views
        Of the image.
    """

    def __init__(self, views: Sequence[str]) -> None:
        self.views = tuple(views)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with `image` and, if there is one, `mask` `(views, H, W)` in the frame of the body."""
        return {**data, **{key: body_frame(data[key], self.views) for key in ("image", "mask") if key in data}}


class MaskAndField(Transform):
    """Turn an item's integer mask into channels, and note where its camera looked, before anything is resampled.

    `mask` becomes `(views * labels + 1, H, W)`: a channel for each structure of each view, all 0 without a mask, then
    the camera's field of view (what is padded later lies outside and becomes 0). Adds of the file `matrix` (rows,
    columns) and `pixel_mm` (row, column), to which a generated picture can be brought back.

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
        """Return the data with the three entries."""
        image, views, size = data["image"], len(data["image"]), data["image"].shape[1:]
        structures = torch.zeros(views * self.labels, *size)
        if "mask" in data and self.labels:
            values = data["mask"].as_tensor()
            if values.shape != image.shape:
                raise DatasetError(
                    f"the mask of {data['id']} is {tuple(values.shape)}, its image {tuple(image.shape)}; "
                    "a mask must lie on its image's grid"
                )
            if values.max() > self.labels or values.min() < 0:
                raise DatasetError(
                    f"the mask of {data['id']} holds the structure {values.max():g}; known are 1 to {self.labels}, "
                    "see --mask_labels"
                )
            numbers = torch.arange(1, self.labels + 1)[:, None, None]
            structures = (values[:, None] == numbers).flatten(0, 1).float()
        field = torch.ones(*size) if self.fields is None else self.fields.field(data["centre"], size)
        return {
            **data,
            "mask": MetaTensor(torch.cat([structures, field[None]]), meta=image.meta),
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
