"""The body as a gamma camera sees it: attenuated activity per area, sorted by depth, and the truth mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scintikit.phantoms.patients import Ellipsoid, Patient

MU = 0.015  # linear attenuation coefficient of soft tissue at 140 keV, 1/mm
SLABS_MM = ((0.0, 25.0), (25.0, 400.0))  # depths that share one collimator response
SLAB_DEPTHS_MM = (17.0, 42.0)  # mean depth of what lies in each slab

GLAND, HOT, COLD = 1, 2, 3  # values of the mask


@dataclass(frozen=True, eq=False)
class Sight:
    """What leaves the body towards the camera.

    `slabs` (depth slab, row, column): fraction of the administered activity per mm2 of surface, after attenuation.
    `mask` (row, column) uint8: 0 outside, 1 gland, 2 hot nodule, 3 cold nodule.
    """

    slabs: np.ndarray
    mask: np.ndarray


def look(patient: Patient, x: np.ndarray, y: np.ndarray, turn: float = 0.0) -> Sight:
    """Evaluate a patient at the points (x, y), mm, each of shape (row, column).

    Every part is an ellipsoid, so its front and back surfaces, and with them the attenuated path through it, are known
    in closed form; no voxels are needed. `turn` (radian) is a rotation of the head and neck about the long axis: it
    brings one lobe nearer to the camera than the other.
    """
    slabs = np.zeros((len(SLABS_MM), *x.shape), np.float32)
    slabs[1] = _soft_tissue(patient, x, y)
    for organ, concentration in patient.organs:
        _add(slabs, organ, concentration, x, y, turn)
    mask = np.zeros(x.shape, np.uint8)
    window = _window(patient, x, y)
    _gland(patient, slabs[(slice(None), *window)], mask[window], x[window], y[window], turn)
    return Sight(slabs, mask)


def path(front: np.ndarray, back: np.ndarray, near: float, far: float) -> np.ndarray:
    """Return the integral of exp(-MU z) from `front` to `back` within the depths `near` to `far`, mm."""
    start = np.clip(front, near, far)
    end = np.maximum(np.clip(back, near, far), start)
    return (np.exp(-MU * start) - np.exp(-MU * end)) / MU


def surfaces(shape: Ellipsoid, x: np.ndarray, y: np.ndarray, turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the depths, mm, of front and back of an ellipsoid; +inf and -inf beside it."""
    v = (y - shape.centre[1]) / shape.semi_axes[1]
    u = (x - shape.centre[0] - shape.lean * (y - shape.centre[1])) / shape.semi_axes[0]
    pear, twist, bow = shape.bend
    u = u * (1 - pear * v) + bow * (v * v - 0.4)
    v = v + twist * u * v
    inside = 1 - u * u - v * v
    half = shape.semi_axes[2] * np.sqrt(np.maximum(inside, 0))
    centre = shape.centre[2] + np.tan(turn) * x
    front = np.where(inside > 0, centre - half, np.inf)
    back = np.where(inside > 0, centre + half, -np.inf)
    return front, back


def _window(patient: Patient, x: np.ndarray, y: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold the gland and its nodules, so that the rest of the picture costs nothing."""
    shapes = [*patient.lobes, *patient.bridges, *(n.shape for n in patient.nodules)]
    reach_x = max(abs(s.centre[0]) + (1.5 * s.semi_axes[0] + abs(s.lean) * s.semi_axes[1]) for s in shapes)
    reach_y = max(abs(s.centre[1]) + 1.3 * s.semi_axes[1] for s in shapes)
    near = (np.abs(x) < reach_x) & (np.abs(y) < reach_y)
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _gland(patient: Patient, slabs: np.ndarray, mask: np.ndarray, x: np.ndarray, y: np.ndarray, turn: float) -> None:
    """Add the gland with its nodules to `slabs` and draw it in `mask`, both in place."""
    nodules = [(n, *surfaces(n.shape, x, y, turn)) for n in patient.nodules]
    parts = [surfaces(s, x, y, turn) for s in (*patient.lobes, *patient.bridges)]
    parts += [(front, back) for _, front, back in nodules]
    front = np.minimum.reduce([part[0] for part in parts])
    back = np.maximum.reduce([part[1] for part in parts])
    tissue = patient.tissue * np.exp(_pattern(patient.ripple, x, y)) / 1000  # per mm3
    for slab, (near, far) in zip(slabs, SLABS_MM, strict=True):
        gland = tissue * path(front, back, near, far)
        for nodule, nodule_front, nodule_back in nodules:
            own = nodule.contrast * patient.healthy_tissue / 1000
            gland += (own - tissue) * path(nodule_front, nodule_back, near, far)
        # Two cold nodules one behind the other would take the same tissue away twice.
        slab += np.maximum(gland, 0)
    mask[back - front > 1.5] = GLAND
    for nodule, nodule_front, nodule_back in nodules:
        mask[nodule_back > nodule_front] = HOT if nodule.kind == "hot" else COLD


def _pattern(ripple: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    total = np.zeros_like(x)
    for amplitude, along_x, along_y, phase in ripple:
        total += amplitude * np.sin(along_x * x + along_y * y + phase)
    return total


def _add(slabs: np.ndarray, shape: Ellipsoid, concentration: float, x: np.ndarray, y: np.ndarray, turn: float) -> None:
    """Add one organ, in place, inside its own bounding box only."""
    reach = shape.semi_axes[0] + abs(shape.lean) * shape.semi_axes[1]
    near = (np.abs(x - shape.centre[0]) < reach) & (np.abs(y - shape.centre[1]) < shape.semi_axes[1])
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    if not rows.size:
        return
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    front, back = surfaces(shape, x[box], y[box], turn)
    for slab, (near_mm, far_mm) in zip(slabs, SLABS_MM, strict=True):
        slab[box] += np.float32(concentration / 1000) * path(front, back, near_mm, far_mm)


def _soft_tissue(patient: Patient, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Head, neck, shoulders and great vessels: attenuated background activity per mm2."""
    # Half the width of the body in front view, from the vault of the skull to the shoulders.
    heights = np.array([-190, -170, -120, -85, -60, 0, 40, 70, 100, 140], np.float32)
    widths = np.array([30, 62, 75, 68, 0, 0, 18, 75, 130, 165], np.float32)
    widths[4:] += patient.neck_mm
    half = np.interp(y, heights, widths, left=0.0).astype(np.float32)
    depth = np.interp(y, [-120, -60, 40, 100], [150, 110, 120, 170]).astype(np.float32)
    thickness = depth * np.sqrt(np.maximum(1 - (x / np.maximum(half, 1)) ** 2, 0))
    tissue = patient.background / 1000 * (1 - np.exp(-MU * thickness)) / MU
    # Carotids and jugular veins run up beside the gland; the vessels of the upper chest lie below it.
    apart = 0.5 * patient.neck_mm - 0.08 * y
    beside = np.exp(-0.5 * ((np.abs(x) - apart) / 6) ** 2) / (1 + np.exp((np.abs(y) - 75) / 12)) * (thickness > 0)
    chest = np.exp(-0.5 * (x / 55) ** 2) / (1 + np.exp(-(y - 85) / 12))
    vessels = patient.blood / 1000 * (12 * beside * np.exp(-MU * 28) + 45 * chest * np.exp(-MU * 40))
    return (tissue + vessels).astype(np.float32)
