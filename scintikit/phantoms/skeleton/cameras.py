"""Whole-body scans: the nine centres' cameras with both heads, and how they turn a patient into counts.

The pixel follows from `centres.csv`: a thyroid picture's field, matrix times pixel, times the zoom it was taken with is
the crystal's width, and a whole-body scan puts 256 columns across it. Zoom factors, collimators, activities and scan
speeds are not published; the table assumes typical ones (450 to 650 MBq, 3 h, 11 to 25 cm/min).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from scintikit.phantoms.cameras import COLLIMATORS, DECAY, Camera, Collimator, _gaussian, load_cameras
from scintikit.phantoms.skeleton.anatomy import STATURE_MM
from scintikit.phantoms.skeleton.body import LAYERS_MM, Grid, Sight, look
from scintikit.phantoms.skeleton.patients import ARTHRITIS, METASTASIS, BonePatient

ROWS, COLUMNS = 1024, 256
ROOM = np.float32(0.02)  # counts in a pixel from the surroundings
MARGIN = 16  # columns beside the picture that still blur into it
FIELD_MM = 400.0  # length of the detector along the table
MOTION_MM = (4.0, 9.0)  # FWHM of breathing and of restlessness during the 10 to 25 minutes of a scan
SCATTER_MM = 60.0  # FWHM of the scatter tail
VIEWS = ("ANT", "POST")
MASK_VALUE = {METASTASIS: 1, ARTHRITIS: 2}
VISIBLE = 0.2  # a focus is in the mask of a view where it adds this share to what else is there


@dataclass(frozen=True)
class BoneProtocol:
    """How one centre scans (assumed): `mm_per_s` of the table, `gap_mm` from collimator to skin; else as `Protocol`."""

    collimator: str
    mbq: float
    mm_per_s: float
    zoom: float
    gap_mm: float = 65.0
    scatter: float = 0.30
    intrinsic_mm: float = 3.8
    ripple: float = 0.015
    hours: float = 3.0

    @property
    def optics(self) -> Collimator:
        """The collimator that the protocol names."""
        return COLLIMATORS[self.collimator]


PROTOCOLS = {
    "A": BoneProtocol("LEHR", 600, 2.8, 2.0),
    "B": BoneProtocol("LEAP", 500, 3.3, 2.0, gap_mm=70, scatter=0.32),
    "C": BoneProtocol("LEHR", 550, 2.8, 2.0, gap_mm=80),
    "D": BoneProtocol("LEHR", 600, 2.5, 4.0, hours=3.5),
    "E": BoneProtocol("LEUHR", 650, 2.0, 3.0, gap_mm=55, scatter=0.27, intrinsic_mm=3.3),
    "F": BoneProtocol("LEAP", 450, 3.3, 4.0, gap_mm=105, scatter=0.35, ripple=0.03, hours=2.5),
    "G": BoneProtocol("LEHR", 500, 2.7, 2.5, gap_mm=70),
    "H": BoneProtocol("LEUHR", 600, 1.8, 3.0, gap_mm=95, intrinsic_mm=3.3, hours=4.0),
    "I": BoneProtocol("LEAP", 500, 4.2, 2.0, gap_mm=85, scatter=0.38, intrinsic_mm=4.6, ripple=0.03, hours=2.5),
}


@dataclass(frozen=True, eq=False)
class WholeBody:
    """A simulated whole-body scan, anterior view first; the posterior is displayed as seen from behind.

    `counts` (view, row, column) uint16, `expected` the same without Poisson noise, float32, `mask` (view, row, column)
    uint8: 1 metastasis, 2 arthritis, where they lie and show; `seconds` the time that each point was seen.
    """

    counts: np.ndarray
    expected: np.ndarray
    mask: np.ndarray
    seconds: float


def pixel_mm(camera: Camera) -> float:
    """Return the size of a whole-body pixel, mm."""
    return round(camera.matrix * camera.pixel_mm * PROTOCOLS[camera.centre].zoom / COLUMNS, 2)


def scan(patient: BonePatient, centre: str, rng: np.random.Generator) -> WholeBody:
    """Lay a patient on the table of a centre's camera and scan both views."""
    protocol, pixel = PROTOCOLS[centre], pixel_mm(load_cameras()[centre])
    length = 1.04 * STATURE_MM * patient.body.scale[1]  # with the feet pointed
    grid = Grid(
        ROWS,
        COLUMNS + 2 * MARGIN,
        pixel,
        left_mm=(COLUMNS / 2 + MARGIN) * pixel + float(rng.normal(0, 8)),
        top_mm=max((ROWS * pixel - length) / 2 + float(rng.normal(0, 15)), 20.0),
        roll=float(rng.normal(0, np.radians(0.5))),
    )
    gap = max(protocol.gap_mm + float(rng.normal(0, 10)), 20.0)
    motion = float(rng.uniform(*MOTION_MM))
    hours = float(np.clip(rng.normal(protocol.hours, 0.3), 2, 5))
    sight = look(patient.at(hours), grid)

    seconds = FIELD_MM / protocol.mm_per_s
    later = np.arange(ROWS, dtype=np.float32)[:, None] * np.float32(pixel / protocol.mm_per_s)  # the feet come last
    scale = np.exp(-float(DECAY) * (3600 * hours + later))
    scale *= protocol.mbq * protocol.optics.sensitivity * seconds
    visible = slice(MARGIN, MARGIN + COLUMNS)
    expected = np.maximum(blur(sight.layers, protocol, pixel, gap, motion)[..., visible], 0)
    mask = _mask(sight, protocol, pixel, gap, motion, expected, visible)
    expected = expected * scale + ROOM
    expected[1], mask[1] = expected[1, :, ::-1], mask[1, :, ::-1].copy()
    expected *= _uniformity(centre)
    counts = np.minimum(rng.poisson(expected), 65535).astype(np.uint16)
    return WholeBody(counts, expected.astype(np.float32), mask, seconds)


def blur(layers: np.ndarray, protocol: BoneProtocol, pixel: float, gap: float, motion: float = 0.0) -> np.ndarray:
    """Sum the layers (view, layer, row, column), each with the response of collimator and crystal at its distance.

    `motion` is the FWHM, mm, by which the patient's own movement blurs everything. Pixels are bins of points, so their
    own width is in the layers already. Scatter has one wide shape.
    """
    rows, columns = _frequencies(layers.shape[-2:], pixel)
    scattered = np.float32(protocol.scatter / (1 - protocol.scatter))
    tail = scattered * np.outer(_gaussian(rows, SCATTER_MM), _gaussian(columns, SCATTER_MM))
    total: np.ndarray | float = 0.0
    for index, depth in enumerate(LAYERS_MM):
        total = total + fft.rfft2(layers[:, index]) * (_sharp(rows, columns, protocol, gap + depth, motion) + tail)
    return fft.irfft2(total, s=layers.shape[-2:])


def _sharp(rows: np.ndarray, columns: np.ndarray, protocol: BoneProtocol, distance: float, motion: float) -> np.ndarray:
    fwhm = float(np.linalg.norm((protocol.optics.fwhm(distance), protocol.intrinsic_mm, motion)))
    return np.outer(_gaussian(rows, fwhm), _gaussian(columns, fwhm))


def _frequencies(shape: tuple[int, ...], pixel: float) -> tuple[np.ndarray, np.ndarray]:
    return fft.fftfreq(shape[0], pixel).astype(np.float32), fft.rfftfreq(shape[1], pixel).astype(np.float32)


def _mask(
    sight: Sight, protocol: BoneProtocol, pixel: float, gap: float, motion: float, seen: np.ndarray, visible: slice
) -> np.ndarray:
    """Return where foci lie and show; a metastasis hides arthritis at the same pixel."""
    mask = np.zeros(seen.shape, np.uint8)
    rows, columns = _frequencies(sight.layers.shape[-2:], pixel)
    response = _sharp(rows, columns, protocol, gap + LAYERS_MM[1], motion)
    for kind in (ARTHRITIS, METASTASIS):
        if kind in sight.foci:
            added = fft.irfft2(fft.rfft2(sight.foci[kind]) * response, s=sight.layers.shape[-2:])[..., visible]
            site = np.nonzero(_dilated(sight.sites[kind])[:, visible])
            for view in range(len(VIEWS)):
                shows = (1 + VISIBLE) * added[view][site] > VISIBLE * seen[view][site]
                mask[view][site] = np.where(shows, MASK_VALUE[kind], mask[view][site])
    return mask


def _dilated(site: np.ndarray) -> np.ndarray:
    """Grow by one pixel on all sides: points of one focus lie further apart than pixels."""
    grown = site.copy()
    grown[1:] |= site[:-1]
    grown[:-1] |= site[1:]
    result = grown.copy()
    result[:, 1:] |= grown[:, :-1]
    result[:, :-1] |= grown[:, 1:]
    return result


def _uniformity(centre: str) -> np.ndarray:
    """Return the detector's sensitivity by column; along the table its errors average out. (view, 1, column)."""
    waves = np.random.default_rng(list(centre.encode())).uniform(0, 2 * np.pi, (2, 3))
    axis = np.linspace(-1, 1, COLUMNS)
    response = [sum(np.sin((2 + 3 * k) * axis + wave[k]) / (k + 1) for k in range(3)) for wave in waves]
    return (1 + PROTOCOLS[centre].ripple * np.array(response, np.float32))[:, None]
