"""What a plausible scintigram looks like in simple numbers, and how far pictures differ from each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F

#: Side of the small pictures in which the Poisson grain, which generated pictures do not have yet, is averaged out.
SMALL = 32
#: How far beyond the training pictures' 0.1 and 99.9 percentiles a statistic may lie, as a share of their distance.
MARGIN = 0.2


def shrink(pictures: torch.Tensor) -> torch.Tensor:
    """Return pictures `(B, C, H, W)` averaged to `(B, C, 32, 32)`, float32."""
    return F.adaptive_avg_pool2d(pictures.float(), SMALL)


def picture_statistics(pictures: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return simple numbers of stabilised pictures.

    Parameters
    ----------
    pictures
        `(B, C, H, W)`.
    mask
        `(B, M + 1, H, W)`: structures, view by view, then the camera's field of view.

    Returns
    -------
    dict
        For each name a tensor `(B,)`; NaN where there is no such number, as uptake in structures without a mask. Each
        of several views has its own.
    """
    small, masks = shrink(pictures), shrink(mask)
    structures = masks[:, :-1].unflatten(1, (small.shape[1], -1)).sum(dim=2)
    field = masks[:, -1]
    result: dict[str, torch.Tensor] = {}
    for number, (view, marked) in enumerate(zip(small.unbind(dim=1), structures.unbind(dim=1), strict=True), 1):
        suffix = f" of view {number}" if small.shape[1] > 1 else ""
        result |= {name + suffix: values for name, values in _statistics(view, marked, field).items()}
    return result


def _statistics(picture: torch.Tensor, structures: torch.Tensor, field: torch.Tensor) -> dict[str, torch.Tensor]:
    place = torch.linspace(-1, 1, SMALL, device=picture.device)
    row, column = place[:, None], place[None]
    uptake = picture.clamp(min=0) * field
    centre_row, centre_column = _mean(row, uptake), _mean(column, uptake)
    distance = (row - centre_row[:, None, None]) ** 2 + (column - centre_column[:, None, None]) ** 2
    marked = structures.sum((1, 2)) > 0
    around = _mean(picture, (field - structures).clamp(min=0))
    return {
        "brightest": picture.flatten(1).quantile(0.99, dim=1),
        "mean uptake": _mean(picture, field),
        "background": picture.masked_fill(field < 0.5, torch.nan).flatten(1).nanquantile(0.2, dim=1),
        "area above a quarter": (picture > 0.25).float().mean((1, 2)),
        "centre row": centre_row,
        "centre column": centre_column,
        "spread": _mean(distance, uptake).sqrt(),
        "uptake in structures": _mean(picture, structures),
        "uptake around structures": around.masked_fill(~marked, torch.nan),
    }


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (values * weights).sum((1, 2)) / weights.sum((1, 2))  # 0 / 0 is NaN: there is no such number


def plausible_limits(statistics: Mapping[str, torch.Tensor]) -> dict[str, list[float]]:
    """Return for each statistic of the training pictures how low and how high it may be."""
    limits = {}
    for name, values in statistics.items():
        known = values[values.isfinite()].double()
        if len(known):
            low, high = known.quantile(torch.tensor([0.001, 0.999], dtype=torch.float64)).tolist()
            limits[name] = [low - MARGIN * (high - low), high + MARGIN * (high - low)]
    return limits


class HasLimits(Protocol):
    """What a gate needs to know, `scintikit.generation.TrainingStatistics` for instance."""

    @property
    def gate(self) -> Mapping[str, Sequence[float]]:
        """Lowest and highest plausible value of each statistic."""
        ...


class QualityGate:
    """Tell pictures that are no plausible scintigrams.

    Parameters
    ----------
    statistics
        Knows the limits, which are read on first use.
    """

    def __init__(self, statistics: HasLimits) -> None:
        self.statistics = statistics

    def __call__(self, pictures: torch.Tensor, mask: torch.Tensor) -> list[str]:
        """Return for each picture of `(B, C, H, W)` what is wrong with it, "" for nothing."""
        finite = pictures.isfinite().flatten(1).all(dim=1)
        values = picture_statistics(pictures.nan_to_num(0, 0, 0), mask)
        faults = ["" if good else "not finite" for good in finite.tolist()]
        for name, (low, high) in self.statistics.gate.items():
            for place, value in enumerate(values[name].tolist()):
                if not faults[place] and (value < low or value > high):
                    faults[place] = _fault(name, "low" if value < low else "high")
        return faults


def _fault(name: str, where: str) -> str:
    plain = {"brightest low": "empty", "brightest high": "saturated"}
    return plain.get(f"{name.removesuffix(' of view 1')} {where}", f"{name} too {where}")


class Diversity:
    """Root mean square distance between the pictures of a set, from running sums.

    Parameters
    ----------
    count, total, square
        Number of small pictures, their sum `(D,)` and the sum of their squared norms.
    """

    def __init__(self, count: int = 0, total: Iterable[float] = (), square: float = 0.0) -> None:
        self.count = count
        self.total = torch.tensor(list(total), dtype=torch.float64)
        self.square = square

    @classmethod
    def of(cls, pictures: torch.Tensor) -> Diversity:
        """Return the diversity of pictures `(B, C, H, W)`."""
        small = shrink(pictures).flatten(1).cpu().double()
        return cls(len(small), small.sum(dim=0).tolist(), float(small.square().sum()))

    def __add__(self, other: Diversity) -> Diversity:
        """Return the diversity of both sets together."""
        if not self.count or not other.count:
            return self if self.count else other
        return Diversity(self.count + other.count, (self.total + other.total).tolist(), self.square + other.square)

    @property
    def distance(self) -> float:
        """Root of the mean over all pairs of the mean squared difference of their small pictures; NaN for one."""
        if self.count < 2:
            return math.nan
        scatter = self.square - float(self.total.square().sum()) / self.count
        return math.sqrt(2 * max(scatter, 0) / (self.count - 1) / len(self.total))

    def to_json(self) -> dict[str, Any]:
        """Return what `Diversity(**content)` makes the same from."""
        return {"count": self.count, "total": self.total.tolist(), "square": self.square}
