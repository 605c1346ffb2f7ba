"""Grain and anatomy apart: the power of pictures by spatial frequency, and simple statistics of their intensities.

Feature extractors look at shapes; a generator can please them and still lack the grain that Poisson counts give real
scintigrams. Organs fill the low frequencies, grain the high ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import rfft2
from scipy.signal.windows import hann

from scintikit.errors import MetricError

FAINTEST = 1e-12  # power of float32 rounding; below it a logarithm would tell nothing
BATCH = 256
BINS = 50


def frequencies(height: int, width: int, spacing_mm: float) -> np.ndarray:
    """Return the spatial frequencies (F,) of `radial_spectra` in cycles per mm, for pixels of `spacing_mm`.

    They run in equal steps from one cycle in the picture's longer side to half a cycle per pixel.
    """
    if not spacing_mm > 0:
        raise MetricError(f"The pixel spacing is {spacing_mm} mm; expected a number above 0.")
    side = max(height, width)
    return np.arange(1, side // 2 + 1) / (side * spacing_mm)


def radial_spectra(pictures: ArrayLike) -> np.ndarray:
    """Return the power of each picture at each spatial frequency, averaged over directions and views.

    Parameters
    ----------
    pictures : array_like, shape (N, C, H, W)

    Returns
    -------
    ndarray, shape (N, F)
        log10 of the power, scaled so that white noise has its variance at every frequency. A Hann window keeps the
        picture's borders from leaking into all frequencies.

    Raises
    ------
    MetricError
        The pictures have another shape or are not finite.
    """
    pictures = _check(pictures)
    height, width = pictures.shape[-2:]
    window = np.outer(hann(height, sym=False), hann(width, sym=False)).astype(np.float32)
    rings, parts = _rings(height, width), []
    for start in range(0, len(pictures), BATCH):
        power = np.abs(rfft2(pictures[start : start + BATCH] * window)) ** 2 / (window**2).sum()
        parts.append(power.mean(axis=1).reshape(len(power), -1) @ rings)
    return np.log10(np.maximum(np.concatenate(parts), FAINTEST))


def _rings(height: int, width: int) -> np.ndarray:
    """Return the weights (rows x half columns, F) that average over rings of equal frequency."""
    side = max(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) * side
    # rfft2 leaves out the mirror images of all columns but the first and, if there is one, the one at half a cycle.
    twice = np.full(radius.shape, 2.0)
    twice[:, 0] = 1
    if width % 2 == 0:
        twice[:, -1] = 1
    weights = (np.rint(radius).reshape(-1, 1) == np.arange(1, side // 2 + 1)) * twice.reshape(-1, 1)
    return (weights / weights.sum(axis=0)).astype(np.float32)


def log_ratio(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Return by how much the typical log10 power (F,) of synthetic pictures (M, F) exceeds that of real ones (N, F)."""
    return synthetic.mean(axis=0) - real.mean(axis=0)


def spectral_distance(ratio: np.ndarray) -> float:
    """Return the root mean square of log10 ratios (F,): 0.3 means that powers differ by a factor of about 2."""
    return float(np.sqrt(np.mean(np.square(ratio))))


def grain_band(count: int) -> np.ndarray:
    """Return which of `count` frequencies belong to the upper third, where grain outweighs anatomy."""
    return np.arange(1, count + 1) > count * 2 / 3


def intensity_statistics(pictures: ArrayLike) -> np.ndarray:
    """Return simple statistics (N, 9) of each picture (N, C, H, W).

    Mean, standard deviation, share of empty pixels, share of saturated ones (1 or more) and the 10th, 50th, 75th, 90th
    and 99th percentile.
    """
    pictures = _check(pictures)
    flat = pictures.reshape(len(pictures), -1)
    percentiles = np.percentile(flat, [10, 50, 75, 90, 99], axis=1)
    shares = (flat <= 0).mean(axis=1), (flat >= 1).mean(axis=1)
    return np.stack([flat.mean(axis=1), flat.std(axis=1), *shares, *percentiles], axis=1)


def intensity_histograms(pictures: ArrayLike) -> np.ndarray:
    """Return the share of pixels of each picture (N, C, H, W) in 50 equal bins from 0 to 1, float32 (N, 50).

    What lies outside counts for the outermost bins.
    """
    bins = (_check(pictures) * BINS).clip(0, BINS - 1).astype(np.uint8)
    shares = [np.bincount(picture.ravel(), minlength=BINS) / picture.size for picture in bins]
    return np.array(shares, dtype=np.float32)


def _check(pictures: ArrayLike) -> np.ndarray:
    values = np.asarray(pictures, dtype=np.float32)
    if values.ndim != 4 or not values.size or not np.isfinite(values).all():
        raise MetricError(f"Pictures of shape {values.shape} are unusable; expected finite (N, C, H, W), at least one.")
    return values
