"""The body as both heads of a camera see it: attenuated activity per pixel, by distance, from in front and behind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from scintikit.phantoms.body import MU
from scintikit.phantoms.skeleton.anatomy import BONE_NUMBER, BONES, STATURE_MM, reference
from scintikit.phantoms.skeleton.patients import (
    ARTHRITIS,
    METASTASIS,
    PROXIMAL_MM,
    REGIONS,
    Body,
    BonePatient,
    Spot,
)

LAYERS_MM = (15.0, 80.0, 170.0)  # depths below the skin whose collimator response is computed; others lie between
COARSE = 4  # pixels per cell of the soft tissue, which has no edges sharper than that
SKIN_MM = 6.0  # the least depth of a bone
HEAD, TRUNK, RIGHT_ARM, LEFT_ARM, RIGHT_LEG, LEFT_LEG = range(6)

_SHOULDER, _HIP, _NECK = (168.0, 330.0), (92.0, 838.0), 240.0
_ARM = ("humerus", "forearm", "hand")
_LEG = ("femur", "patella", "lower leg", "foot")

# Outline of the reference body, each row x, y, z, half width, half depth in mm; limbs of the left side.
_HEAD_OUTLINE = ((0, 0, 8, 30, 40), (0, 25, 8, 62, 75), (0, 95, 6, 80, 100), (0, 150, -2, 74, 92),
                 (0, 205, -20, 58, 70), (0, 240, 0, 58, 58), (0, 285, 10, 62, 60))  # fmt: skip
_TRUNK_OUTLINE = ((0, 262, 10, 60, 55), (0, 290, 12, 130, 75), (0, 325, 10, 182, 92), (0, 400, 4, 172, 108),
                  (0, 500, 2, 158, 112), (0, 640, 0, 150, 108), (0, 740, 4, 168, 110), (0, 850, 6, 182, 112),
                  (0, 915, 6, 176, 105), (0, 945, 6, 120, 85))  # fmt: skip
_ARM_OUTLINE = ((170, 300, 10, 30, 40), (174, 350, 12, 50, 55), (202, 530, 14, 46, 50), (214, 640, 14, 44, 42),
                (226, 740, 8, 40, 38), (232, 870, 4, 30, 24), (236, 950, 0, 46, 18),
                (236, 1065, 4, 40, 14))  # fmt: skip
_LEG_OUTLINE = ((98, 860, 6, 84, 95), (104, 930, 6, 86, 95), (108, 1080, 2, 76, 80), (95, 1235, -4, 60, 64),
                (92, 1360, 6, 58, 62), (90, 1480, 6, 50, 52), (88, 1660, 6, 36, 42), (92, 1720, 0, 44, 62),
                (102, 1830, -45, 46, 34))  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Pixels of the picture and how the patient lies in it; `left_mm` and `top_mm` are where the origin falls."""

    rows: int
    columns: int
    pixel_mm: float
    left_mm: float
    top_mm: float
    roll: float = 0.0


@dataclass(frozen=True, eq=False)
class Sight:
    """What leaves the body towards the two heads, both drawn as seen from in front.

    `layers` (view, layer, row, column): fraction of the administered activity in each pixel, after attenuation, by
    depth; `foci` the part of it that each disease adds, (view, row, column), by class; `sites` (row, column) bool, by
    class: where foci lie.
    """

    layers: np.ndarray
    foci: dict[str, np.ndarray]
    sites: dict[str, np.ndarray]


def look(patient: BonePatient, grid: Grid) -> Sight:
    """Project a patient: points by their depth from each side, soft tissue in closed form."""
    cloud = reference()
    uptake = patient.skeleton * cloud.uptake * _factors(patient)
    added, inside = foci_uptake(patient, uptake)
    front, back = _surfaces(patient, grid)

    points, limb, spots = _spot_points(patient.spots)
    bones = posed(patient.body, cloud.place, _limbs(), cloud.along, _ribs())
    place = np.concatenate([bones, posed(patient.body, points, limb)])
    activity = np.concatenate([uptake + sum(added.values()), spots])
    pixel, seen = _project(place, STATURE_MM * patient.body.scale[1], grid, front, back)
    shape, size = (grid.rows, grid.columns), grid.rows * grid.columns
    layers = np.stack([_splat(pixel, activity * through, depth, shape) for through, depth in seen])
    layers[:, 1] += _soft_tissue(patient, grid, front, back)

    foci, sites = {}, {}
    pixel = pixel[: len(uptake)]
    for kind, held in inside.items():
        some = np.flatnonzero((added[kind] > 0) & (pixel >= 0))
        views = [np.bincount(pixel[some], added[kind][some] * through[some], size) for through, _ in seen]
        foci[kind] = np.stack(views).astype(np.float32).reshape(2, *shape)
        sites[kind] = np.bincount(pixel[held & (pixel >= 0)], minlength=size).reshape(shape) > 0
    return Sight(layers, foci, sites)


def foci_uptake(patient: BonePatient, uptake: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the uptake that foci of each kind add to every point, and for the diseases which points they hold."""
    cloud = reference()
    added: dict[str, np.ndarray] = {}
    inside: dict[str, np.ndarray] = {}
    for focus in patient.foci:
        near, kernel = _kernel(focus.lobes, focus.bones)
        extra = added.setdefault(focus.kind, np.zeros(len(uptake), np.float32))
        # Two foci at one place are as bright as the brighter one.
        extra[near] = np.maximum(extra[near], (focus.contrast - 1) * kernel * uptake[near])
        if focus.kind in (METASTASIS, ARTHRITIS):
            inside.setdefault(focus.kind, np.zeros(len(uptake), bool))[near] |= kernel > 0.5
    if patient.superscan > 1:
        marrow = _marrow()
        patchy = np.clip(1 + 0.5 * waves(patient.mottle, cloud.place), 0.2, 2.0)
        extra = added.setdefault(METASTASIS, np.zeros(len(uptake), np.float32))
        extra += (patient.superscan - 1) * marrow * patchy * uptake
        inside.setdefault(METASTASIS, np.zeros(len(uptake), bool))
        inside[METASTASIS] |= marrow > 0.5
    return added, inside


def posed(
    body: Body,
    place: np.ndarray,
    limb: np.ndarray | int,
    along: np.ndarray | None = None,
    rib: np.ndarray | None = None,
) -> np.ndarray:
    """Move points of the reference adult, (point, xyz), to where this patient has them, mm.

    `limb` is the part of the body each belongs to; `rib` (0 if none, else 1 to 12) and `along` bend the ribs.
    """
    x, y, z = np.array(place, np.float32).T
    limb = np.broadcast_to(limb, x.shape)
    trunk = (limb == TRUNK) | (limb == HEAD)
    height = np.clip((y - 250) / 500, 0, 1)  # along the spine
    x += trunk * (body.scoliosis[0] * np.sin(np.pi * height) + body.scoliosis[1] * np.sin(2 * np.pi * height))
    z += trunk * body.kyphosis * np.exp(-(((y - 420) / 120) ** 2))
    if rib is not None and along is not None:
        lateral = np.sin(0.75 * np.pi * along)
        y += (rib > 0) * (body.rib_slope * lateral + np.concatenate([[0], body.rib_shift])[rib])
    x += (limb == HEAD) * body.head_lean * (_NECK - y)
    outward = 85 * (body.build - 1)
    for left, arm, leg in ((-1, RIGHT_ARM, RIGHT_LEG), (1, LEFT_ARM, LEFT_LEG)):
        angle = body.arm_lean[left > 0]
        x += (
            (limb == arm)
            * left
            * (np.tan(angle) * (y - _SHOULDER[1]) + max(outward, -12) * np.clip((y - 330) / 150, 0, 1))
        )
        x += (limb == leg) * left * np.tan(body.leg_lean[left > 0]) * (y - _HIP[1])
    return np.stack([x, y, z], 1) * np.array(body.scale, np.float32)


def waves(mottle: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return a smooth random field of unit standard deviation at the points."""
    total = np.zeros(len(place), np.float32)
    for amplitude, *vector, phase in mottle:
        total += amplitude * np.sin(place @ np.array(vector, np.float32) + phase)
    return total


def _factors(patient: BonePatient) -> np.ndarray:
    cloud = reference()
    return patient.bone_uptake[cloud.bone] * np.exp(0.08 * waves(patient.mottle, cloud.place)).astype(np.float32)


def _kernel(lobes: np.ndarray, bones: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the points near a focus and how much it affects each: 1 inside, 0 outside, a soft rim between."""
    cloud = reference()
    near = np.unique(np.concatenate([_tree().query_ball_point(lobe[:3], 1.7 * lobe[3]) for lobe in lobes])).astype(int)
    if bones:
        near = near[np.isin(cloud.bone[near], [BONE_NUMBER[bone] for bone in bones])]
    distance = np.linalg.norm(cloud.place[near, None] - lobes[None, :, :3], axis=2) / lobes[:, 3]
    return near, (1 / (1 + np.exp(7 * (distance.min(1, initial=9.0) - 1)))).astype(np.float32)


@lru_cache(maxsize=1)
def _tree() -> cKDTree:
    return cKDTree(reference().place)


@lru_cache(maxsize=len(BONES))
def _points_of(bone: str) -> np.ndarray:
    return np.flatnonzero(reference().bone == BONE_NUMBER[bone])


@lru_cache(maxsize=1)
def _limbs() -> np.ndarray:
    """Return the part of the body of every point."""
    of_bone = np.full(len(BONES), TRUNK)
    for number, name in enumerate(BONES):
        side, _, plain = name.partition(" ")
        if name in ("skull", "face") or (name[0] == "C" and name[1:].isdigit()):
            of_bone[number] = HEAD
        elif plain in _ARM:
            of_bone[number] = RIGHT_ARM if side == "right" else LEFT_ARM
        elif plain in _LEG:
            of_bone[number] = RIGHT_LEG if side == "right" else LEFT_LEG
    return of_bone[reference().bone]


@lru_cache(maxsize=1)
def _ribs() -> np.ndarray:
    of_bone = np.array([int(name.rpartition(" ")[2]) if " rib " in name else 0 for name in BONES])
    return of_bone[reference().bone]


@lru_cache(maxsize=1)
def _marrow() -> np.ndarray:
    """Return 1 where adults have red marrow, 0 elsewhere, with a soft end along the long bones."""
    cloud = reference()
    share = np.zeros(len(BONES), np.float32)
    for _, bones in REGIONS.values():
        share[[BONE_NUMBER[bone] for bone in bones]] = 1
    result = share[cloud.bone]
    for name, end in PROXIMAL_MM.items():
        for side in ("right", "left"):
            chosen = _points_of(f"{side} {name}")
            result[chosen] = 1 / (1 + np.exp((cloud.place[chosen, 1] - end) / 25))
    return result


def _spot_points(spots: tuple[Spot, ...], number: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the points of all spots, the part of the body each belongs to (an arm or the trunk), and its activity."""
    points = np.concatenate([np.array(spot.centre) + _ball(number) * np.array(spot.axes) for spot in spots])
    arm = np.where(points[:, 0] < 0, RIGHT_ARM, LEFT_ARM)
    activity = np.repeat([spot.activity / number for spot in spots], number).astype(np.float32)
    return points.astype(np.float32), np.where(np.abs(points[:, 0]) > 190, arm, TRUNK), activity


@lru_cache(maxsize=1)
def _ball(number: int) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(number, 3))
    radius = np.random.default_rng(1).uniform(size=(number, 1)) ** (1 / 3)
    return points / np.linalg.norm(points, axis=1, keepdims=True) * radius


def _project(
    place: np.ndarray, stature: float, grid: Grid, front: np.ndarray, back: np.ndarray
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Return every point's pixel (-1: outside) and, from in front and from behind, what gets through and the depth."""
    x = np.cos(grid.roll) * place[:, 0] - np.sin(grid.roll) * place[:, 1]
    y = np.sin(grid.roll) * place[:, 0] + np.cos(grid.roll) * place[:, 1]
    across, down = (x + grid.left_mm) / grid.pixel_mm, (y + grid.top_mm) / grid.pixel_mm
    column, row = np.floor(across).astype(np.intp), np.floor(down).astype(np.intp)
    within = (column >= 0) & (column < grid.columns) & (row >= 0) & (row < grid.rows)
    pixel = np.where(within, row * grid.columns + column, -1)
    cell = np.stack([down / COARSE - 0.5, across / COARSE - 0.5])
    lungs = 0.5 * _in_chest(place, stature)
    seen = []
    for surface, sign in ((front, 1), (back, -1)):
        skin = map_coordinates(surface, cell, order=1, mode="nearest", output=np.float32)
        depth = np.maximum(sign * (place[:, 2] - skin), SKIN_MM)
        seen.append((np.exp(-MU * (depth - lungs * np.clip(depth - 35, 0, 130))), depth))
    return pixel, seen


def _in_chest(place: np.ndarray, stature: float) -> np.ndarray:
    """Return how much of the path to a point runs through lung, 0 to 1: not along the mediastinum."""
    height = place[:, 1] / stature
    chest = 1 / (1 + np.exp(-(height - 0.185) / 0.01)) / (1 + np.exp((height - 0.315) / 0.01))
    return chest * np.clip((np.abs(place[:, 0]) - 20) / 30, 0.25, 1)


def _splat(pixel: np.ndarray, activity: np.ndarray, depth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bin points into (layer, row, column); a point between two layers is shared between them."""
    inside = pixel >= 0
    size = shape[0] * shape[1]
    position = np.interp(depth[inside], LAYERS_MM, np.arange(len(LAYERS_MM)))
    near = np.minimum(position.astype(np.intp), len(LAYERS_MM) - 2)
    index, share = near * size + pixel[inside], position - near
    weight = np.concatenate([activity[inside] * (1 - share), activity[inside] * share])
    layers = np.bincount(np.concatenate([index, index + size]), weight, len(LAYERS_MM) * size)
    return layers.reshape(len(LAYERS_MM), *shape).astype(np.float32)


def _surfaces(patient: BonePatient, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return the depth z of the skin in front and behind, mm, on the coarse grid; 0 beside the body."""
    y = ((np.arange(grid.rows // COARSE) + 0.5) * COARSE * grid.pixel_mm - grid.top_mm).astype(np.float32)
    x = ((np.arange(grid.columns // COARSE) + 0.5) * COARSE * grid.pixel_mm - grid.left_mm).astype(np.float32)
    front, back = np.zeros((2, len(y), len(x)), np.float32)
    mirror = (-1, 1, 1)
    for limb, outline, side in (
        (HEAD, _HEAD_OUTLINE, None), (TRUNK, _TRUNK_OUTLINE, None),
        (RIGHT_ARM, _ARM_OUTLINE, mirror), (LEFT_ARM, _ARM_OUTLINE, None),
        (RIGHT_LEG, _LEG_OUTLINE, mirror), (LEFT_LEG, _LEG_OUTLINE, None),
    ):  # fmt: skip
        table = np.array(outline, np.float32)
        centre = posed(patient.body, table[:, :3] * (side or 1), limb)
        centre[:, 0] -= np.sin(grid.roll) * centre[:, 1]
        wide = table[:, 3] * patient.body.scale[0] * (patient.body.build if limb != HEAD else 1)
        deep = table[:, 4] * patient.body.scale[2] * (patient.body.build if limb == TRUNK else 1)
        rows = np.flatnonzero((y >= centre[0, 1]) & (y <= centre[-1, 1]))
        middle, z, wide, deep = (
            np.interp(y[rows], centre[:, 1], v)[:, None] for v in (centre[:, 0], centre[:, 2], wide, deep)
        )
        half = deep * np.sqrt(np.maximum(1 - ((x - middle) / wide) ** 2, 0))
        front[rows] = np.where(half > 0, np.minimum(front[rows], z - half), front[rows])
        back[rows] = np.where(half > 0, np.maximum(back[rows], z + half), back[rows])
    return front, back


def _soft_tissue(patient: BonePatient, grid: Grid, front: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Return the soft tissue's activity in each pixel after attenuation, (row, column), alike from both sides."""
    thickness = back - front
    cell = (COARSE * grid.pixel_mm) ** 2
    concentration = patient.soft_tissue / max(float(thickness.sum()) * cell, 1.0)
    y = (np.arange(len(front)) + 0.5) * COARSE * grid.pixel_mm - grid.top_mm
    x = (np.arange(front.shape[1]) + 0.5) * COARSE * grid.pixel_mm - grid.left_mm
    points = np.stack([np.broadcast_to(x, front.shape).ravel(), np.repeat(y, len(x)), np.zeros(front.size)], 1)
    air = 0.35 * _in_chest(points, STATURE_MM * patient.body.scale[1]).reshape(front.shape)
    coarse = concentration * (1 - air) * (1 - np.exp(-MU * thickness)) / MU * grid.pixel_mm**2
    return _stretch(grid.rows) @ coarse.astype(np.float32) @ _stretch(grid.columns).T


@lru_cache(maxsize=8)
def _stretch(size: int) -> np.ndarray:
    """Return the matrix that interpolates from cells to pixels, (pixel, cell)."""
    position = (np.arange(size) + 0.5) / COARSE - 0.5
    cells = np.arange(size // COARSE)
    return np.maximum(1 - np.abs(np.clip(position, 0, cells[-1])[:, None] - cells), 0).astype(np.float32)
