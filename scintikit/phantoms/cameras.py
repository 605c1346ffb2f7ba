"""The nine cameras, and how each turns a body into counts.

Matrix and pixel size are measured values of nine real centres (`centres.csv`, from Thyroidiomics, arXiv 2407.10336).
Collimators, activities, protocols and habits are not published: the table below assumes typical ones, different
enough that a classifier meets on the external cameras what it never saw.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources

import numpy as np
from scipy import fft

from scintikit.phantoms.body import SLAB_DEPTHS_MM, look
from scintikit.phantoms.patients import Patient

DECAY = np.log(2) / (6.01 * 3600)  # of Tc-99m, 1/s
MARGIN_MM = 20.0  # what lies just outside the field of view still blurs into it


@dataclass(frozen=True)
class Collimator:
    """Hole diameter and length, mm (of a pinhole: diameter and focal length), and sensitivity, counts/s per MBq."""

    hole_mm: float
    length_mm: float
    sensitivity: float
    pinhole: bool = False

    def fwhm(self, distance_mm: float) -> float:
        """Return the geometric resolution at a distance from the face (Cherry, Sorenson, Phelps; ch. 14), mm."""
        return self.hole_mm * (self.length_mm + distance_mm) / self.length_mm


COLLIMATORS = {
    "LEHR": Collimator(1.11, 20.0, 90),
    "LEAP": Collimator(1.45, 20.0, 145),
    "LEUHR": Collimator(1.05, 27.0, 50),
    "PINHOLE": Collimator(4.0, 180.0, 110, pinhole=True),
}


@dataclass(frozen=True)
class Protocol:
    """How one centre acquires (assumed).

    The acquisition ends after `seconds`, or earlier when the whole picture holds `stop_counts`. `scatter` is the
    scattered fraction of all counts in the window, `intrinsic_mm` the crystal's FWHM, `distance_mm` that from the
    collimator to the skin, `low_mm` how far below the middle of the picture the gland is put, `loose` scales how
    much positioning varies, `field` masks the picture ("full", "round" or "frame"), `ripple` is the amplitude of the
    uniformity's error, `marker` the probability of a point source on the chin or sternal notch, `minutes` the usual
    time from injection to picture (guidelines: 15 to 30).
    """

    collimator: str
    mbq: float
    seconds: float
    stop_counts: float | None = None
    scatter: float = 0.25
    intrinsic_mm: float = 3.8
    distance_mm: float = 50.0
    low_mm: float = 15.0
    loose: float = 1.0
    field: str = "full"
    ripple: float = 0.02
    marker: float = 0.0
    minutes: float = 20.0


PROTOCOLS = {
    "A": Protocol("LEHR", 185, 300, low_mm=25),
    "B": Protocol("LEAP", 111, 600, 150_000, scatter=0.30, distance_mm=70, low_mm=30, field="round", marker=0.10),
    "C": Protocol("LEHR", 148, 300, distance_mm=60, low_mm=20, loose=1.3),
    "D": Protocol("PINHOLE", 111, 600, 100_000, scatter=0.22, distance_mm=75, low_mm=5, field="round", minutes=25),
    "E": Protocol("LEUHR", 185, 600, scatter=0.22, intrinsic_mm=3.3, distance_mm=40, low_mm=15),
    "F": Protocol(
        "PINHOLE", 74, 300, scatter=0.32, distance_mm=95, low_mm=0, loose=1.4, field="round", ripple=0.04, minutes=15
    ),
    "G": Protocol("LEHR", 111, 200, scatter=0.28, low_mm=15, field="frame", marker=0.15, minutes=15),
    "H": Protocol(
        "LEUHR", 185, 900, 200_000, scatter=0.30, intrinsic_mm=3.3, distance_mm=90, low_mm=-5, marker=0.05, minutes=30
    ),
    "I": Protocol(
        "LEAP", 111, 120, scatter=0.38, intrinsic_mm=4.6, distance_mm=80, low_mm=30, loose=1.3, ripple=0.05, minutes=10
    ),
}


@dataclass(frozen=True)
class Camera:
    """One centre's camera: `matrix` pixels of `pixel_mm` a side; `patients` counts its classes in the csv."""

    centre: str
    external: bool
    matrix: int
    pixel_mm: float
    patients: dict[str, int] = field(hash=False)
    protocol: Protocol

    @property
    def collimator(self) -> Collimator:
        """The collimator that the protocol names."""
        return COLLIMATORS[self.protocol.collimator]


@dataclass(frozen=True, eq=False)
class Exposure:
    """A simulated acquisition.

    `counts` (row, column) uint16 as acquired, `expected` (row, column) float32 the same without Poisson noise,
    `mask` (row, column) uint8, `seconds` the acquisition time.
    """

    counts: np.ndarray
    expected: np.ndarray
    mask: np.ndarray
    seconds: float


@lru_cache(maxsize=1)
def load_cameras() -> dict[str, Camera]:
    """Return the cameras of `centres.csv` by the name of their centre."""
    text = (resources.files("scintikit.phantoms") / "centres.csv").read_text(encoding="utf-8")
    cameras = {}
    for row in csv.DictReader(text.splitlines()):
        centre = row["centre"]
        classes = ("goitre_diffuse", "goitre_nodular", "thyroiditis")
        patients = {name: int(row[name]) for name in classes}
        external = row["role"] == "external"
        matrix, pixel = int(row["matrix"]), float(row["pixel_mm"])
        cameras[centre] = Camera(centre, external, matrix, pixel, patients, PROTOCOLS[centre])
    return cameras


def expose(patient: Patient, camera: Camera, rng: np.random.Generator) -> Exposure:
    """Position a patient under a camera and acquire the anterior view."""
    protocol, n = camera.protocol, camera.matrix
    pad = int(np.ceil(MARGIN_MM / camera.pixel_mm))
    size = fft.next_fast_len(n + 2 * pad, real=True)
    inner = (slice(pad, pad + n), slice(pad, pad + n))

    shift = rng.normal(0, 6, 2) * protocol.loose + (0, protocol.low_mm)
    roll, turn = rng.normal(0, np.radians(4), 2) * protocol.loose
    axis = (np.arange(size, dtype=np.float32) - (pad + (n - 1) / 2)) * np.float32(camera.pixel_mm)
    x, y = _patient_coordinates(axis, shift, roll)
    minutes = float(np.clip(rng.normal(protocol.minutes, 3), 5, 40))  # injection to picture
    sight = look(patient.at(minutes), x, y, float(turn))

    distance = max(protocol.distance_mm + rng.normal(0, 10) * protocol.loose, 10.0)
    image = _blur(sight.slabs, camera, float(distance))[inner]
    rate = image * camera.pixel_mm**2 * protocol.mbq * rng.normal(1, 0.07) * camera.collimator.sensitivity
    rate = np.maximum(rate, 0) * _detector(camera)
    if rng.random() < protocol.marker:
        rate += _marker(camera, x[inner], y[inner], rng)

    seconds = _seconds(protocol, float(rate.sum()))
    expected = rate * np.exp(-DECAY * 60 * minutes) * (1 - np.exp(-DECAY * seconds)) / DECAY
    counts = np.minimum(rng.poisson(expected), 65535).astype(np.uint16)
    return Exposure(counts, expected.astype(np.float32), sight.mask[inner], seconds)


def _patient_coordinates(axis: np.ndarray, shift: np.ndarray, roll: float) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y, mm, of every pixel in the patient's coordinates, each (row, column) float32."""
    across, down = axis[None, :] - np.float32(shift[0]), axis[:, None] - np.float32(shift[1])
    cosine, sine = np.float32(np.cos(roll)), np.float32(np.sin(roll))
    return cosine * across + sine * down, cosine * down - sine * across


def _blur(slabs: np.ndarray, camera: Camera, distance: float) -> np.ndarray:
    """Collimator and crystal response per depth, the pixel's own width, and the scatter tail; sum over the slabs.

    All are products in Fourier space, and Gaussians are products of one-dimensional ones, so the whole chain costs one
    transform per slab. Scatter (about 20 mm wide around its source) is added so that it makes up its fraction of all
    counts.
    """
    size, pixel = slabs.shape[-1], camera.pixel_mm
    rows = fft.fftfreq(size, pixel).astype(np.float32)
    columns = fft.rfftfreq(size, pixel).astype(np.float32)
    scattered = camera.protocol.scatter / (1 - camera.protocol.scatter)
    total: np.ndarray | float = 0.0
    for slab, depth in zip(slabs, SLAB_DEPTHS_MM, strict=True):
        fwhm = np.hypot(camera.collimator.fwhm(distance + depth), camera.protocol.intrinsic_mm)
        sharp = np.outer(
            _gaussian(rows, fwhm) * np.sinc(rows * pixel), _gaussian(columns, fwhm) * np.sinc(columns * pixel)
        )
        tail = np.outer(_gaussian(rows, 45.0), _gaussian(columns, 45.0))
        total = total + fft.rfft2(slab) * (sharp + np.float32(scattered) * tail)
    return fft.irfft2(total, s=(size, size))


def _gaussian(frequency: np.ndarray, fwhm_mm: float) -> np.ndarray:
    """Return the Fourier transform of a Gaussian of unit area."""
    return np.exp(-((np.pi * fwhm_mm * frequency) ** 2) / (4 * np.log(2))).astype(np.float32)


@lru_cache(maxsize=16)
def _detector(camera: Camera) -> np.ndarray:
    """Return the detector's sensitivity relative to its middle, (row, column): what stays the same on one camera."""
    n = camera.matrix
    axis = (np.arange(n, dtype=np.float32) - (n - 1) / 2) / (n / 2)
    across, down = axis[None, :], axis[:, None]
    radius = np.hypot(across, down)
    waves = np.random.default_rng(list(camera.centre.encode())).uniform(0, 2 * np.pi, 4)
    first = np.sin(2.1 * across + waves[0]) * np.sin(2.6 * down + waves[1])
    second = np.sin(5.3 * across + waves[2]) * np.sin(4.7 * down + waves[3])
    response = 1 + camera.protocol.ripple * (first + 0.5 * second)
    if camera.collimator.pinhole:  # cos^3 of the angle of incidence
        offset = radius * n / 2 * camera.pixel_mm
        response *= (1 + (offset / (camera.protocol.distance_mm + 25)) ** 2) ** -1.5
    if camera.protocol.field == "round":
        response *= np.clip((0.98 - radius) * n / 2, 0, 1)
    elif camera.protocol.field == "frame":
        response *= np.maximum(np.abs(across), np.abs(down)) < 0.95
    return response.astype(np.float32)


def _marker(camera: Camera, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Count rate of a point source taped to the skin at the chin or at the sternal notch."""
    fwhm = np.hypot(camera.collimator.fwhm(camera.protocol.distance_mm), camera.protocol.intrinsic_mm)
    height = (-60.0, 70.0)[rng.integers(2)] + rng.normal(0, 5)
    spread = fwhm / np.sqrt(8 * np.log(2))
    spot = np.exp(-((x - rng.normal(0, 4)) ** 2 + (y - height) ** 2) / (2 * spread**2))
    activity = rng.uniform(0.1, 0.4)  # MBq
    return activity * camera.collimator.sensitivity * spot * camera.pixel_mm**2 / (2 * np.pi * spread**2)


def _seconds(protocol: Protocol, rate: float) -> float:
    if protocol.stop_counts is None:
        return protocol.seconds
    return float(round(min(max(protocol.stop_counts / rate, 30.0), protocol.seconds)))
