"""The imaging chain: what the camera does to the activity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scintikit.phantoms import cameras, draw_patient, expose, load_cameras
from scintikit.phantoms.cameras import COLLIMATORS, Camera, Protocol, _blur, _detector
from scintikit.phantoms.patients import Patient


@pytest.fixture
def patient() -> Patient:
    return draw_patient(2, np.random.default_rng(1))


def camera(**changes: object) -> Camera:
    protocol = Protocol("LEHR", 185, 300, loose=0.0, ripple=0.0)
    return Camera("X", False, 128, 2.0, {}, replace(protocol, **changes))  # type: ignore[arg-type]


def width(profile: np.ndarray, pixel: float) -> float:
    """FWHM of a peak by linear interpolation, mm."""
    half = profile.max() / 2
    above = np.flatnonzero(profile > half)
    first, last = above[0], above[-1]
    left = first - (profile[first] - half) / (profile[first] - profile[first - 1])
    right = last + (profile[last] - half) / (profile[last] - profile[last + 1])
    return float((right - left) * pixel)


def test_cameras_are_those_of_the_table() -> None:
    found = load_cameras()
    assert "".join(found) == "ABCDEFGHI"
    assert [name for name, c in found.items() if c.external] == ["F", "H", "I"]
    assert (found["E"].matrix, found["E"].pixel_mm) == (256, 0.75)
    assert found["C"].patients == {"goitre_diffuse": 213, "goitre_nodular": 333, "thyroiditis": 80}


@pytest.mark.parametrize("centre", "ABCDEFGHI")
def test_picture_has_the_cameras_matrix(centre: str, patient: Patient) -> None:
    device = load_cameras()[centre]
    exposure = expose(patient, device, np.random.default_rng(0))
    assert exposure.counts.shape == exposure.mask.shape == (device.matrix, device.matrix)
    assert exposure.counts.dtype == np.uint16
    assert 2e4 < exposure.counts.sum() < 3e6  # counts of a clinical acquisition
    assert (exposure.mask > 0).any()


def test_counts_are_poisson(patient: Patient) -> None:
    exposure = expose(patient, camera(), np.random.default_rng(0))
    chosen = exposure.expected > 5
    residual = (exposure.counts[chosen] - exposure.expected[chosen]) / np.sqrt(exposure.expected[chosen])
    assert residual.mean() == pytest.approx(0, abs=0.05)
    assert residual.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("distance", [20.0, 120.0])
def test_point_source_is_blurred_by_distance(distance: float) -> None:
    device = camera(scatter=0.0)
    slabs = np.zeros((2, 151, 151), np.float32)
    slabs[0, 75, 75] = 1
    image = _blur(slabs, device, distance)
    expected = np.hypot(COLLIMATORS["LEHR"].fwhm(distance + cameras.SLAB_DEPTHS_MM[0]), 3.8)
    assert width(image[75], 2.0) == pytest.approx(np.hypot(expected, 2.0 * 0.68), rel=0.06)  # and the pixel's width
    assert image.sum() == pytest.approx(1, rel=1e-4)


def test_deep_sources_are_blurred_more() -> None:
    device = camera(scatter=0.0)
    shallow, deep = (np.zeros((2, 151, 151), np.float32) for _ in range(2))
    shallow[0, 75, 75] = deep[1, 75, 75] = 1
    assert _blur(deep, device, 50.0).max() < 0.9 * _blur(shallow, device, 50.0).max()


def test_scatter_makes_up_its_fraction() -> None:
    slabs = np.zeros((2, 201, 201), np.float32)
    slabs[0, 100, 100] = 1
    total = _blur(slabs, camera(scatter=0.3), 50.0)
    assert 1 - 1 / total.sum() == pytest.approx(0.3, abs=1e-3)
    assert total[100, 115] > 20 * abs(_blur(slabs, camera(scatter=0.0), 50.0)[100, 115])  # a tail at 30 mm


def test_preset_counts_end_the_acquisition(patient: Patient) -> None:
    exposure = expose(patient, camera(seconds=3000, stop_counts=100_000), np.random.default_rng(0))
    assert exposure.expected.sum() == pytest.approx(1e5, rel=0.1)
    hot = replace(patient, tissue=patient.tissue * 20)
    shorter = expose(hot, camera(seconds=3000, stop_counts=100_000), np.random.default_rng(0))
    assert shorter.seconds < exposure.seconds


def test_activity_decays(patient: Patient) -> None:
    """Ten half-lives of acquisition give as many counts as the activity at its start lasts: rate / decay constant."""
    half_life = expose(patient, camera(seconds=6.01 * 3600), np.random.default_rng(0)).expected.sum()
    for_ever = expose(patient, camera(seconds=60.1 * 3600), np.random.default_rng(0)).expected.sum()
    assert half_life / for_ever == pytest.approx(0.5, abs=0.001)


def test_pinhole_falls_off_and_round_field_is_cut() -> None:
    response = _detector(camera(collimator="PINHOLE", distance_mm=75.0, field="round"))
    assert response[0, 0] == 0
    angle = np.arctan2(np.hypot(36.5, 0.5) * 2.0, 75.0 + 25.0)
    assert response[64, 100] == pytest.approx(np.cos(angle) ** 3, rel=1e-3)
    assert _detector(load_cameras()["A"])[0, 0] > 0.9


def test_marker_is_a_spot_on_the_midline(patient: Patient) -> None:
    plain, marked = (expose(patient, camera(marker=m), np.random.default_rng(4)) for m in (0.0, 1.0))
    extra = marked.expected - plain.expected
    row, column = np.unravel_index(extra.argmax(), extra.shape)
    assert abs(column - 63.5) * 2.0 < 20
    assert abs(row - 63.5) * 2.0 > 25
    assert extra.max() > 20 * np.abs(np.median(extra))
