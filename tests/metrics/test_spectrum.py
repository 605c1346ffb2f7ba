"""Spectra of pictures with known power, and statistics of known intensities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import hann

from scintikit.errors import MetricError
from scintikit.metrics.spectrum import (
    frequencies,
    grain_band,
    intensity_histograms,
    intensity_statistics,
    log_ratio,
    radial_spectra,
    spectral_distance,
)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (40, 1, 64, 64)).astype(np.float32)


def test_white_noise_has_its_variance_at_every_frequency(noise: np.ndarray) -> None:
    log_power = radial_spectra(noise)
    assert log_power.shape == (40, 32)
    # Rings of few frequencies scatter more; the mean of a logarithm lies below the logarithm of the mean.
    np.testing.assert_allclose(log_power.mean(axis=0)[8:], -2, atol=0.05)
    np.testing.assert_allclose(radial_spectra(2 * noise) - log_power, np.log10(4), atol=1e-4)


def test_a_wave_stands_at_its_frequency_in_cycles_per_mm() -> None:
    scale = frequencies(64, 64, 2.0)
    assert (scale[0], scale[-1]) == (1 / 128, 0.25)
    wave = np.cos(2 * np.pi * 0.125 * 2.0 * np.arange(64))  # 0.125 cycles/mm in pixels of 2 mm
    pictures = np.stack([np.tile(wave, (64, 1)), np.tile(wave, (64, 1)).T])[:, None]
    assert scale[radial_spectra(pictures).argmax(axis=1)] == pytest.approx([0.125, 0.125])


@pytest.mark.parametrize("shape", [(16, 16), (15, 17), (16, 11), (12, 20)])
def test_it_is_the_mean_over_rings_of_the_whole_transform(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).random(shape)
    window = np.outer(hann(shape[0], sym=False), hann(shape[1], sym=False))
    power = np.abs(np.fft.fft2(picture * window)) ** 2 / (window**2).sum()
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")) * max(shape)
    expected = [power[np.rint(radius) == ring].mean() for ring in range(1, max(shape) // 2 + 1)]
    np.testing.assert_allclose(10 ** radial_spectra(picture[None, None])[0], expected, rtol=1e-4)
    assert len(frequencies(*shape, 1.0)) == len(expected)


def test_views_are_averaged(noise: np.ndarray) -> None:
    both = np.concatenate([noise[:1], 3 * noise[:1]], axis=1)
    np.testing.assert_allclose(radial_spectra(both), radial_spectra(noise[:1]) + np.log10(5), atol=1e-4)


def test_blurring_takes_the_grain_away(noise: np.ndarray) -> None:
    ratio = log_ratio(radial_spectra(noise), radial_spectra(gaussian_filter(noise, (0, 0, 0.5, 0.5))))
    band = grain_band(len(ratio))
    assert band.sum() == 11
    assert band[-1]
    assert ratio[band].mean() < -0.4
    assert abs(ratio[:5]).max() < 0.05
    assert spectral_distance(ratio[band]) > spectral_distance(ratio) > 0.2
    assert spectral_distance(np.zeros(5)) == 0
    assert spectral_distance(np.array([0.3, -0.3])) == pytest.approx(0.3)


def test_a_picture_without_grain_has_a_finite_spectrum() -> None:
    assert np.isfinite(radial_spectra(np.zeros((1, 1, 16, 16)))).all()


def test_statistics_and_histograms_of_known_intensities() -> None:
    picture = np.concatenate([np.zeros(25), np.full(50, 0.5), np.full(25, 1.0)]).reshape(1, 1, 10, 10)
    mean, deviation, empty, saturated, *percentiles = intensity_statistics(picture)[0]
    assert (mean, deviation) == pytest.approx((0.5, np.sqrt(0.125)))
    assert (empty, saturated) == (0.25, 0.25)
    assert percentiles == pytest.approx([0, 0.5, 0.625, 1, 1])
    histogram = intensity_histograms(np.concatenate([picture, picture + 3]))
    assert histogram.shape == (2, 50)
    assert (histogram[0, 0], histogram[0, 25], histogram[0, -1], histogram[1, -1]) == (0.25, 0.5, 0.25, 1)


@pytest.mark.parametrize("pictures", [np.zeros((3, 8, 8)), np.zeros((0, 1, 8, 8)), np.full((1, 1, 8, 8), np.nan)])
def test_unusable_pictures_are_refused(pictures: np.ndarray) -> None:
    for measure in (radial_spectra, intensity_statistics, intensity_histograms):
        with pytest.raises(MetricError, match="expected finite"):
            measure(pictures)


def test_a_spacing_must_be_positive() -> None:
    with pytest.raises(MetricError, match="above 0"):
        frequencies(8, 8, 0)
