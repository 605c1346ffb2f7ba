"""Does a generator repeat pictures that it was trained on? Each picture's nearest training picture, and how near it is.

The measure is the distance to the closest record: by structure (`TrainingPictures`) and by features
(`nearest_by_features`). How near is too near is told by real pictures of patients that were not trained on
(`lower_tail_threshold`). Apart from the rest of `scintikit.metrics` because importing torch takes seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics.regression import compute_ssim_and_cs
from monai.networks.layers import GaussianFilter
from numpy.typing import ArrayLike
from tqdm import tqdm

from scintikit.errors import MetricError
from scintikit.metrics.checks import check_fraction

SIDE = 64  # pictures are compared at this many pixels of their longer side; the following are in such pixels
SMOOTHING = 1.0  # standard deviation of the Gaussian that takes away grain
BACKGROUND = 3.0  # what a Gaussian of this standard deviation leaves is outline and field of view, not structure
REACH = 8  # largest shift in each direction
CANDIDATES = 32  # training pictures that are registered, of all that were correlated
NEXT = 5  # training pictures after the nearest, to which it is compared
FINALISTS = 1 + NEXT  # candidates whose structural similarity is measured
WINDOW, WINDOW_SIGMA = 11, 1.5  # of the structural similarity, as in Wang et al.
CONTRAST = 0.06  # its constant K2; twice the usual, so that grain left in even regions counts less
TAIL = 0.1  # share of the reference distances that describe its lower tail
LEAST = 10  # reference distances
BATCH = 64


@dataclass(frozen=True)
class Neighbours:
    """The nearest training picture of each of N pictures.

    Attributes
    ----------
    index : ndarray of int, shape (N,)
        Which training picture.
    distance : ndarray, shape (N,)
        1 - structural similarity after registration.
    ratio : ndarray, shape (N,)
        That distance relative to the mean distance of the next five training pictures: near 0 for a copy, however
        noisy, near 1 where several are about as near (compare Carlini et al., USENIX Security 2023). NaN if there is
        one training picture.
    flip : ndarray of bool, shape (N,)
        Whether the picture had to be mirrored left to right.
    shift : ndarray, shape (N, 2)
        How far the picture, after mirroring, lies below and to the right of the training picture, in its pixels.
    """

    index: np.ndarray
    distance: np.ndarray
    ratio: np.ndarray
    flip: np.ndarray
    shift: np.ndarray


class TrainingPictures:
    """Training pictures, ready to be searched for the nearest by structure.

    Pictures are made smaller and smoothed, because a generator draws fresh grain. For all pairs, both orientations and
    all shifts the correlation of the structure (difference of Gaussians) is computed at half that size; the best
    candidates are registered to a fraction of a pixel by Fourier cross-correlation, and the structural similarity
    (Wang et al., IEEE TIP 2004) of the best of these is measured where both pictures have been seen: its part for
    contrast and structure, because the brightness of a whole picture says nothing, each pixel weighted by the brighter
    of the two, so that dark surroundings do not count.

    Parameters
    ----------
    pictures : ndarray, shape (M, C, H, W)
        In [0, 1], at least 16 pixels a side.

    Raises
    ------
    MetricError
        The pictures are too small, not finite or outside [0, 1].
    """

    def __init__(self, pictures: np.ndarray) -> None:
        self._shape = pictures.shape[1:]
        self._smooth, self._structure = _prepare(pictures)
        self._vectors = _unit(F.avg_pool2d(self._structure, 2)).T.contiguous()
        self._padded = [side + REACH for side in self._structure.shape[-2:]]
        self._spectra = torch.fft.rfft2(self._structure, s=self._padded).conj()

    def nearest(self, pictures: np.ndarray, label: str = "comparing") -> Neighbours:
        """Return the nearest training picture of each of `pictures` (N, C, H, W), with a progress bar.

        Raises
        ------
        MetricError
            The pictures are of another shape than the training pictures, not finite or outside [0, 1].
        """
        if pictures.shape[1:] != self._shape:
            raise MetricError(
                f"The pictures have the shape {pictures.shape[1:]}, the training pictures {self._shape}; preprocess "
                "both in the same way."
            )
        with torch.inference_mode(), tqdm(total=len(pictures), desc=label, unit="image", leave=False) as progress:
            parts = []
            for batch in np.split(pictures, range(BATCH, len(pictures), BATCH)):
                parts.append(self._nearest(*_prepare(batch)))
                progress.update(len(batch))
        index, distance, ratio, flip, shift = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
        return Neighbours(index, distance, ratio, flip, shift * max(self._shape[-2:]) / max(self._smooth.shape[-2:]))

    def _nearest(self, smooth: torch.Tensor, structure: torch.Tensor) -> tuple[torch.Tensor, ...]:
        candidates = self._candidates(structure)
        peak, flip, shift = self._register(structure, candidates)
        best = peak.topk(min(FINALISTS, peak.shape[1])).indices
        candidates, flip = candidates.gather(1, best), flip.gather(1, best)
        shift = shift.gather(1, best[..., None].expand(-1, -1, 2))
        distance, order = (1 - self._similarity(smooth, candidates, flip, shift)).sort(dim=1)
        first = order[:, 0]
        rows = torch.arange(len(first))
        ratio = distance[:, 0] / distance[:, 1 : 1 + NEXT].mean(dim=1).clamp(min=1e-6)
        return candidates[rows, first], distance[:, 0], ratio, flip[rows, first], shift[rows, first]

    def _candidates(self, structure: torch.Tensor) -> torch.Tensor:
        """Return which training pictures correlate best at any shift, mirrored or not: int64 (n, candidates)."""
        small = F.avg_pool2d(structure, 2)
        height, width = small.shape[-2:]
        reach = REACH // 2
        best = torch.full((len(small), self._vectors.shape[1]), -math.inf)
        for side in (small, small.flip(-1)):
            padded = F.pad(side, (reach,) * 4)
            for row in range(2 * reach + 1):
                for column in range(2 * reach + 1):
                    moved = padded[..., row : row + height, column : column + width]
                    torch.maximum(best, _unit(moved) @ self._vectors, out=best)
        return best.topk(min(CANDIDATES, best.shape[1])).indices

    def _register(
        self, structure: torch.Tensor, candidates: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return for each candidate the correlation at its peak (n, k), whether mirrored, and the shift (n, k, 2)."""
        found = []
        for side in (structure, structure.flip(-1)):
            spectra = torch.fft.rfft2(side, s=self._padded)[:, None] * self._spectra[candidates]
            correlation = torch.fft.irfft2(spectra.sum(dim=2), s=self._padded)
            window = correlation.roll((REACH, REACH), (-2, -1))[..., : 2 * REACH + 1, : 2 * REACH + 1]
            found.append(_peak(window))
        (peak, shift), (mirrored_peak, mirrored_shift) = found
        flip = mirrored_peak > peak
        # The same norm for all shifts and both orientations; that of the candidate decides between candidates.
        norms = self._structure.flatten(1).norm(dim=1)[candidates].clamp(min=1e-9)
        return torch.maximum(peak, mirrored_peak) / norms, flip, torch.where(flip[..., None], mirrored_shift, shift)

    def _similarity(
        self, smooth: torch.Tensor, candidates: torch.Tensor, flip: torch.Tensor, shift: torch.Tensor
    ) -> torch.Tensor:
        """Return the structural similarity to each candidate, (n, k), after moving the picture onto it."""
        count = candidates.shape[1]
        pictures = smooth.repeat_interleave(count, dim=0)
        pictures = torch.where(flip.flatten()[:, None, None, None], pictures.flip(-1), pictures)
        moved, seen = _move(pictures, shift.flatten(0, 1))
        training = self._smooth[candidates.flatten()]
        sides = (WINDOW, WINDOW)
        _, similarity = compute_ssim_and_cs(moved, training, 2, sides, (WINDOW_SIGMA, WINDOW_SIGMA), k2=CONTRAST)
        margin = WINDOW // 2
        inside = (..., slice(margin, -margin), slice(margin, -margin))
        whole = -F.max_pool2d(-seen, WINDOW, stride=1)  # 1 where all of the window was seen
        weight = torch.maximum(moved, training)[inside] * whole
        total = weight.sum(dim=(1, 2, 3)).clamp(min=1e-9)
        return ((similarity * weight).sum(dim=(1, 2, 3)) / total).view(-1, count)


def align(pictures: np.ndarray, flip: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return pictures (N, C, H, W) mirrored and moved onto their nearest training pictures, as `Neighbours` says."""
    mirrored = np.where(flip[:, None, None, None], pictures[..., ::-1], pictures)
    moved, _ = _move(torch.from_numpy(mirrored), torch.tensor(shift))
    return moved.numpy()


def nearest_by_features(
    features: np.ndarray, mirrored: np.ndarray, training: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index `(N,)` of the nearest training picture and its distance, 1 - cosine, `(N,)`.

    Parameters
    ----------
    features, mirrored : ndarray, shape (N, D)
        Of the pictures, and of the pictures mirrored left to right; the nearer of the two counts.
    training : ndarray, shape (M, D)
    """
    bank = _unit(torch.from_numpy(training)).T
    cosine = torch.maximum(*(_unit(torch.from_numpy(side)) @ bank for side in (features, mirrored)))
    best, index = cosine.max(dim=1)
    return index.numpy(), (1 - best).clamp(min=0).numpy()


def lower_tail_threshold(reference: ArrayLike, rate: float) -> float:
    """Return the distance below which a share `rate` of pictures like the reference falls.

    The nearest of many neighbours lies nearer than x with a probability that goes like a power of x (the extreme value
    distribution of minima), whose exponent is the number of dimensions in which pictures differ. It is estimated from
    the lowest tenth of the reference (Hill, Annals of Statistics 1975; Levina and Bickel, NeurIPS 2004), so that the
    threshold needs not be one of the few smallest distances, which scatter, and may lie below all of them. What so few
    distances leave open about the exponent is allowed for: the threshold is the quantile of the predictive
    distribution (the exponent's posterior under a flat prior of its scale is a gamma distribution, which makes the
    predictive a Pareto of the logarithm), so that the rate holds on average over references, however short.

    Parameters
    ----------
    reference : array_like, shape (N,)
        Distances of pictures that were not trained on to their nearest training picture.
    rate : float
        Share of false alarms.

    Raises
    ------
    MetricError
        There are fewer than ten distances, they are not finite, or the rate is not between 0 and the tenth.
    """
    rate = check_fraction(rate, "The rate of false alarms")
    values = np.sort(np.asarray(reference, dtype=np.float64).ravel())
    if len(values) < LEAST or not np.isfinite(values).all():
        raise MetricError(f"There are {len(values)} reference distances; expected at least {LEAST}, all finite.")
    count = max(3, round(TAIL * len(values)))
    edge, tail = values[count], values[:count].clip(min=np.finfo(float).tiny)
    if rate * len(values) >= count:
        raise MetricError(f"The rate of false alarms is {rate}; expected one below {count / len(values):.3f}.")
    spread = np.log(edge / tail).sum()
    return float(edge * np.exp(-spread * ((rate * len(values) / count) ** (-1 / count) - 1)))


def _prepare(pictures: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures (n, C, h, w) small and smoothed, and their structure: what is finer than outline and field."""
    if pictures.ndim != 4 or min(pictures.shape[-2:]) < 16 or not np.isfinite(pictures).all():
        raise MetricError(
            f"Pictures of shape {pictures.shape} are unusable; expected finite (N, C, H, W), 16 pixels up."
        )
    values = torch.from_numpy(np.ascontiguousarray(pictures, dtype=np.float32))
    if values.min() < 0 or values.max() > 1:
        raise MetricError(f"Pictures run from {values.min():.3g} to {values.max():.3g}; expected 0 to 1.")
    factor = max(1.0, max(values.shape[-2:]) / SIDE)
    small = F.interpolate(values, [round(side / factor) for side in values.shape[-2:]], mode="area")
    smooth = _blur(small, SMOOTHING)
    return smooth, smooth - _blur(small, BACKGROUND)


def _blur(pictures: torch.Tensor, sigma: float) -> torch.Tensor:
    margin = min(math.ceil(3 * sigma), min(pictures.shape[-2:]) - 1)
    padded = F.pad(pictures, (margin,) * 4, mode="replicate")
    return GaussianFilter(2, sigma)(padded)[..., margin:-margin, margin:-margin]


def _unit(values: torch.Tensor) -> torch.Tensor:
    return F.normalize(values.flatten(1), dim=1)


def _peak(correlation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maximum of each map (..., s, s), and its offset from the centre (..., 2) by a parabola through it."""
    size = correlation.shape[-1]
    peak, place = correlation.flatten(-2).max(dim=-1)
    row, column = place // size, place % size
    shifts = []
    for at, line in (
        (row, correlation.gather(-1, column[..., None, None].expand(*column.shape, size, 1))[..., 0]),
        (column, correlation.gather(-2, row[..., None, None].expand(*row.shape, 1, size))[..., 0, :]),
    ):
        middle = at.clamp(1, size - 2)
        before, here, after = (line.gather(-1, (middle + step)[..., None])[..., 0] for step in (-1, 0, 1))
        bend = (before - 2 * here + after).clamp(max=-1e-12)
        fraction = ((before - after) / bend / 2).clamp(-0.5, 0.5)
        shifts.append(at - size // 2 + torch.where(at == middle, fraction, 0))
    return peak, torch.stack(shifts, dim=-1)


def _move(pictures: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move pictures (n, C, h, w) up and left by `shift` (n, 2); return them, and where they have been seen (0 or 1)."""
    height, width = pictures.shape[-2:]
    affine = torch.eye(2, 3).repeat(len(pictures), 1, 1)
    affine[:, 0, 2], affine[:, 1, 2] = 2 * shift[:, 1] / width, 2 * shift[:, 0] / height
    grid = F.affine_grid(affine, [len(pictures), 1, height, width], align_corners=False)
    moved = F.grid_sample(pictures, grid, mode="bicubic", padding_mode="border", align_corners=False)
    half_pixel = torch.tensor([1 - 1 / width, 1 - 1 / height]) + 1e-4
    return moved.clamp(0, 1), (grid.abs() <= half_pixel).all(dim=-1)[:, None].float()
