"""Is it a whole-body scan, upright and not saturated? What is not must not reach the network."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform

from scintikit.data.contract import SYNTHETIC_KINDS
from scintikit.errors import ImageReadError

FIELD_MM = (1000.0, 4000.0)
"""Shortest and longest field of view of a whole-body scan."""

_FULL_NAME = {"ANT": "anterior", "POST": "posterior"}
_CELL_MM = 20.0
"""The checks look at means over cells of this size, in which the noise of a pixel does not count."""


class CheckWholeBodyd(MapTransform):
    """Refuse what is not a whole-body scan in two views, and say so where only one view is there.

    Belongs right after loading: it reads counts `(view, row, column)` as stored, and the meta data of
    `ScintigramReader`. An item whose views are not all there goes on with a `warning`; else its `warning` is "".

    The pictures of a dataset's synthetic items are not looked at. Their orientation and spacing are known, generators
    have a gate of their own, and one odd picture of thousands must not stop a training.

    Parameters
    ----------
    keys
        Scans to check; each must be a MetaTensor.
    views
        The views of the channels.
    field_mm
        Shortest and longest field of view of a whole-body scan.
    min_body_mm
        Length of the shortest body.
    aspect
        Smallest and largest length / width of the field of view, in mm.
    max_saturated
        Largest share of the body's pixels that may have exactly the largest value of their view.

    Raises
    ------
    ImageReadError
        Naming the file: if the files hold more than two views, a view is empty, the field of view or the body is too
        short, the aspect is not a whole body's, the head is not on top, or the counts are saturated.

    Notes
    -----
    The head is taken to be at the bottom if both cues agree: the uptake of the body's upper half is less than that of
    its lower half (pixels capped, so that a hot bladder or knee counts no more than bone), and the upper end is parted
    in the middle, as legs are, more than the lower end. Of 1,527 simulated scans of nine cameras none is refused, and
    all are when turned upside down, either view alone too; of 300 views each with a twentieth of the counts, without
    head or cut above the knees none is refused, and upside down 300, 300 and 261. Which view is which cannot be told
    from the picture, and left from right neither: there the file is believed.
    """

    def __init__(
        self,
        keys: KeysCollection,
        views: Sequence[str] = ("ANT", "POST"),
        field_mm: Sequence[float] = FIELD_MM,
        min_body_mm: float = 800.0,
        aspect: Sequence[float] = (1.7, 8.0),
        max_saturated: float = 0.005,
    ) -> None:
        super().__init__(keys)
        self.views = tuple(views)
        self.field_mm = tuple(field_mm)
        self.min_body_mm = min_body_mm
        self.aspect = tuple(aspect)
        self.max_saturated = max_saturated

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with `warning`."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            try:
                result["warning"] = self._check(image, made=_is_synthetic(result))
            except ImageReadError as error:
                raise ImageReadError(f"{image.meta.get('filename_or_obj', key)}: {error}") from None
        return result

    def _check(self, image: Any, made: bool) -> str:
        present = _listed(image.meta.get("views")) or self.views
        stored = _listed(image.meta.get("stored_views")) or present
        if len(stored) > len(self.views):
            raise ImageReadError(
                f"it holds {len(stored)} views ({', '.join(view or 'unstated' for view in stored)}); expected no more "
                f"than {' and '.join(self.views)}, so split it and give those"
            )
        if not made:
            self._check_pictures(image, present)
        return self._warning(present)

    def _check_pictures(self, image: Any, present: Sequence[str]) -> None:
        spacing = (float(image.affine[0, 0]), float(image.affine[1, 1]))
        self._check_field(tuple(image.shape[1:]), spacing)
        for channel, view in enumerate(self.views):
            if view in present:
                try:
                    self._check_view(image[channel].as_tensor(), spacing)
                except ImageReadError as error:
                    raise ImageReadError(f"in its {_FULL_NAME.get(view, view)} view {error}") from None

    def _check_field(self, size: tuple[int, ...], spacing: tuple[float, float]) -> None:
        length, width = (number * mm for number, mm in zip(size, spacing, strict=True))
        field = f"its field of view is {length:.0f} x {width:.0f} mm (rows x columns)"
        if not self.field_mm[0] <= max(length, width) <= self.field_mm[1]:
            raise ImageReadError(
                f"{field}; a whole-body scan is {self.field_mm[0]:.0f} to {self.field_mm[1]:.0f} mm long: is it a scan "
                "of the thyroid or of another part, or is its pixel spacing wrong?"
            )
        if not self.aspect[0] <= length / width <= self.aspect[1]:
            raise ImageReadError(
                f"{field}; a whole-body scan is {self.aspect[0]:g} to {self.aspect[1]:g} times as long as it is wide. "
                "Turn it so that the head is on top, crop it, or give layout=side_by_side if it shows both views"
            )

    def _check_view(self, counts: torch.Tensor, spacing: tuple[float, float]) -> None:
        if not bool((counts > 0).any()):
            raise ImageReadError("there are no counts; leave that view out")
        body = _Body.of(counts, spacing)
        if body.length_mm < self.min_body_mm:
            raise ImageReadError(
                f"the body is {body.length_mm:.0f} mm long; expected a whole one (from {self.min_body_mm:.0f} mm), or "
                "is the pixel spacing wrong?"
            )
        saturated = float((counts == counts.max()).float().mean()) / body.share
        if saturated > self.max_saturated:
            raise ImageReadError(
                f"{saturated:.1%} of the body's pixels have the same largest value, {float(counts.max()):g}: it is "
                "saturated. Export it again without a window, with 16 bits"
            )
        if body.head_is_down:
            raise ImageReadError("the head is at the bottom; turn it so that the head is on top")

    def _warning(self, present: Sequence[str]) -> str:
        if all(view in present for view in self.views):
            return ""
        names = " and ".join(_FULL_NAME.get(view, view) for view in self.views if view in present)
        return f"only the {names} view is there: predicted from one view, less certain."


@dataclass(frozen=True)
class _Body:
    """The body of one view: uptake in cells `(row, column)`, capped, zero outside; it fills the rows."""

    uptake: torch.Tensor
    share: float

    @classmethod
    def of(cls, counts: torch.Tensor, spacing: tuple[float, float]) -> _Body:
        rows, columns = (max(1, round(n * mm / _CELL_MM)) for n, mm in zip(counts.shape, spacing, strict=True))
        cells = F.adaptive_avg_pool2d(counts[None].float().clamp(min=0), (rows, columns))[0]
        # Soft tissue is far above the scattered background and far below bone; the hottest cells are bladder or foci.
        cap = torch.quantile(cells[cells > 0.05 * torch.quantile(cells, 0.98)], 0.75)
        inside = cells > 0.15 * cap
        filled = inside.any(dim=1).nonzero().flatten()
        uptake = (cells.clamp(max=float(cap)) * inside)[int(filled[0]) : int(filled[-1]) + 1]
        return cls(uptake, float(inside.float().mean()))

    @property
    def length_mm(self) -> float:
        return len(self.uptake) * _CELL_MM

    @property
    def head_is_down(self) -> bool:
        rows = torch.linspace(0, 1, len(self.uptake))
        centre = float((self.uptake.sum(dim=1) * rows).sum() / self.uptake.sum())
        end = max(1, round(0.3 * len(self.uptake)))
        return centre > 0.5 and self._middle(slice(0, end)) < self._middle(slice(-end, None))

    def _middle(self, rows: slice) -> float:
        """Return the uptake in the body's middle as a share of the column with the most: small between two legs."""
        across = self.uptake.sum(dim=0)
        middle = round(float((across * torch.arange(len(across))).sum() / across.sum()))
        columns = self.uptake[rows].sum(dim=0)
        return float(columns[max(0, middle - 1) : middle + 2].mean() / columns.max().clamp(min=1e-9))


def _is_synthetic(item: Mapping[Hashable, Any]) -> bool:
    return item.get("origin", {}).get("kind") in SYNTHETIC_KINDS


def _listed(views: Any) -> tuple[str, ...]:
    return tuple(str(views).split(",")) if views else ()
