"""The reference skeleton: a cloud of points, each with a place, the bone it belongs to and its share of the uptake.

A gamma camera resolves about a centimetre, so bones need no surfaces: points every few mm, splatted and blurred, look
the same. The reference adult is 1.75 m tall and lies on the back. Coordinates, mm: x to the patient's left (the right
of an anterior picture), y from the vertex towards the feet, z from the middle coronal plane backwards. Heights of
joints follow the usual segment lengths as fractions of stature (Drillis and Contini, in Winter, Biomechanics and Motor
Control of Human Movement); the shapes are drawn by hand from anatomy, and so are the shares of the uptake, which were
set by eye so that the picture has the greys of a bone scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import make_interp_spline

STATURE_MM = 1750.0
STEP_MM = 3.0  # between points along a bone; the sharpest camera resolves about 6 mm

CERVICAL = tuple(f"C{k}" for k in range(1, 8))
THORACIC = tuple(f"T{k}" for k in range(1, 13))
LUMBAR = tuple(f"L{k}" for k in range(1, 6))
SIDES = ("right", "left")
_PAIRED = (
    *("clavicle", "scapula", "humerus", "forearm", "hand", "pelvis", "femur", "patella", "lower leg", "foot"),
    *(f"rib {k}" for k in range(1, 13)),
)
BONES = (
    *("skull", "face", "sternum", "sacrum", *CERVICAL, *THORACIC, *LUMBAR),
    *(f"{side} {name}" for side in SIDES for name in _PAIRED),
)
BONE_NUMBER = {name: number for number, name in enumerate(BONES)}

# Middle of each vertebra: height and depth. Thoracic kyphosis, lumbar lordosis.
_SPINE_Y = {name: y for names, first, last in ((CERVICAL, 168, 276), (THORACIC, 293, 548), (LUMBAR, 575, 727))
            for name, y in zip(names, np.linspace(first, last, len(names)), strict=True)}  # fmt: skip
_CURVE = ([160, 215, 280, 350, 430, 510, 570, 640, 700, 745], [10, 2, 22, 42, 50, 44, 32, 20, 22, 36])


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points of bone: `place` (point, xyz) mm, `bone` (point,) index into `BONES`, `uptake` (point,), which sums to 1.

    `along` (point,) runs from 0 to 1 along a tube such as a rib, from the spine or the trunk outwards.
    """

    place: np.ndarray
    bone: np.ndarray
    uptake: np.ndarray
    along: np.ndarray


class _Builder:
    """Collects points; sides are drawn for the left and mirrored."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
        self.number = 0

    def add(self, bone: str, place: np.ndarray, uptake: float | np.ndarray, along: np.ndarray | float = 0.0) -> None:
        """Add points that share `uptake` (in thousandths of a typical skeleton) evenly, or by weights."""
        weight = np.broadcast_to(np.asarray(uptake, float), len(place))
        weight = weight / len(place) if np.ndim(uptake) == 0 else weight
        self.parts.append((bone, place, weight, np.broadcast_to(np.asarray(along, float), len(place))))

    def tube(self, bone: str, line: Sequence[tuple[float, ...]], radius: float, uptake: float) -> None:
        """Add a tube around a smooth line through the given points."""
        control = np.array(line, float)
        curve = make_interp_spline(np.linspace(0, 1, len(line)), control, k=min(3, len(line) - 1))
        dense = curve(np.linspace(0, 1, 200))
        length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
        number = max(int(length[-1] / STEP_MM), 2)
        along = (np.arange(number) + 0.5) / number
        middle = np.stack([np.interp(along * length[-1], length, dense[:, axis]) for axis in range(3)], 1)
        around = int(np.clip(radius / 1.5, 3, 9))
        place = np.repeat(middle, around, 0) + radius * self.ball(number * around)
        self.add(bone, place, uptake, np.repeat(along, around))

    def blob(self, bone: str, centre: tuple[float, float, float], axes: tuple[float, float, float], uptake: float,
             hollow: bool = False) -> None:  # fmt: skip
        """Add a solid ellipsoid, or its shell."""
        number = int(np.clip(np.prod(axes) ** (2 / 3) / 2.2, 30, 3000)) * (2 if hollow and min(axes) > 60 else 1)
        ball = _sphere(number) if hollow else self.ball(number)
        self.add(bone, np.array(centre) + ball * np.array(axes), uptake)

    def ball(self, number: int) -> np.ndarray:
        """Return evenly spread points of the unit ball (an R3 low-discrepancy sequence), (point, 3)."""
        index = np.arange(self.number, self.number + number)
        self.number += number
        u, v, w = (np.modf(0.5 + index * g)[0] for g in (0.8191725134, 0.6710436067, 0.5497004779))
        height, angle, radius = 2 * u - 1, 2 * np.pi * v, w ** (1 / 3)
        flat = np.sqrt(1 - height**2)
        return radius[:, None] * np.stack([flat * np.cos(angle), flat * np.sin(angle), height], 1)

    def cloud(self) -> Cloud:
        """Mirror what belongs to the left, and put everything together."""
        parts = list(self.parts)
        mirror = np.array([-1.0, 1.0, 1.0])
        parts += [
            (bone.replace("left", "right"), place * mirror, weight, along)
            for bone, place, weight, along in self.parts
            if bone.startswith("left ")
        ]
        bones = np.concatenate([np.full(len(place), BONE_NUMBER[bone]) for bone, place, _, _ in parts])
        weight = np.concatenate([weight for _, _, weight, _ in parts])
        return Cloud(
            np.concatenate([place for _, place, _, _ in parts]).astype(np.float32),
            bones.astype(np.int16),
            (weight / weight.sum()).astype(np.float32),
            np.concatenate([along for _, _, _, along in parts]).astype(np.float32),
        )


def _sphere(number: int) -> np.ndarray:
    """Return points spread evenly over the unit sphere (a Fibonacci lattice, its poles to the sides), (point, 3)."""
    x = (2 * np.arange(number) + 1) / number - 1
    angle = np.pi * (1 + np.sqrt(5)) * np.arange(number)
    flat = np.sqrt(1 - x * x)
    return np.stack([x, flat * np.cos(angle), flat * np.sin(angle)], 1)


@lru_cache(maxsize=1)
def reference() -> Cloud:
    """Return the skeleton of the reference adult; do not change it in place."""
    build = _Builder()
    for part in (_head, _spine, _thorax, _shoulder_girdle, _arm, _pelvis, _leg):
        part(build)
    return build.cloud()


def vertebra(name: str) -> tuple[float, float, float]:
    """Return the middle of a vertebral body."""
    y = _SPINE_Y[name]
    return 0.0, float(y), float(np.interp(y, *_CURVE))


def _head(build: _Builder) -> None:
    build.blob("skull", (0, 96, 8), (74, 90, 94), 62, hollow=True)
    build.blob("skull", (0, 148, 10), (45, 10, 45), 12)  # the base
    for x in (-1, 1):
        build.blob("skull", (x * 58, 150, 12), (9, 12, 12), 2.5)  # mastoid
        orbit = [(x * (32 + 21 * np.cos(a)), 128 + 19 * np.sin(a), -72) for a in np.linspace(0, 2 * np.pi, 9)]
        build.tube("face", orbit, 7, 3.2)
        build.tube("face", [(x * 64, 142, -10), (x * 60, 148, -45), (x * 42, 156, -70)], 5, 2.5)
        build.tube("face", [(x * 54, 155, 0), (x * 51, 192, -15), (x * 38, 210, -55), (x * 2, 219, -82)], 6, 5.5)
    build.blob("face", (0, 147, -74), (12, 20, 12), 5)  # nose
    build.tube("face", [(-26, 176, -55), (-16, 180, -78), (0, 181, -84), (16, 180, -78), (26, 176, -55)], 8, 6)


def _spine(build: _Builder) -> None:
    for name in (*CERVICAL, *THORACIC, *LUMBAR):
        _, y, z = vertebra(name)
        order = (CERVICAL + THORACIC + LUMBAR).index(name)
        width = float(np.interp(order, [0, 6, 7, 18, 23], [11, 13, 14, 20, 25]))
        height = float(np.interp(order, [0, 6, 7, 18, 23], [6.0, 6.6, 8.4, 10.6, 12.2]))
        uptake = float(np.interp(order, [0, 6, 7, 18, 19, 23], [4.2, 4.2, 7.5, 12.5, 16, 23]))
        build.blob(name, (0, y, z), (width, height, 0.75 * width), 0.62 * uptake)
        build.blob(name, (0, y + 0.6 * height, z + width + 16), (3.5, 0.9 * height, 11), 0.12 * uptake)  # spinous
        for side in (-1, 1):
            reach = width + (4 if name in CERVICAL else 13)
            build.tube(
                name, [(side * 0.5 * width, y, z + width), (side * reach, y - 1, z + width + 5)], 4, 0.06 * uptake
            )
            build.blob(name, (side * 0.75 * width, y + height, z + width + 4), (5, 6, 5), 0.07 * uptake)  # facet
    for k, y in enumerate((752, 774, 794, 812, 828)):
        width = (50, 46, 38, 29, 21)[k]
        z = (44, 58, 68, 74, 74)[k]
        build.blob("sacrum", (0, y, z), (width, 11, 14), (15, 12, 8, 5, 3.5)[k])
    build.tube("sacrum", [(0, 838, 72), (0, 852, 66), (0, 866, 54)], 6, 2)


# Half width and half depth of the rib cage at each rib, and how far its lateral and its front end hang down.
_RIB_WIDTH = (62, 86, 105, 117, 125, 131, 135, 137, 137, 133, 124, 98)
_RIB_DEPTH = (50, 66, 78, 86, 92, 97, 101, 103, 102, 98, 88, 70)
_RIB_DROP = (36, 52, 68, 82, 94, 106, 116, 118, 112, 98, 66, 40)
_RIB_FRONT = (28, 34, 40, 47, 54, 62, 72, 86, 100, 112, 119, 97)  # x of the front end


def _thorax(build: _Builder) -> None:
    for k in range(12):
        _, y, z = vertebra(THORACIC[k])
        a, b, drop = _RIB_WIDTH[k], _RIB_DEPTH[k], _RIB_DROP[k]
        back = z + 0.55 * (108 - z) * (0.55 if k == 0 else 1.0)
        middle = 0.5 * (back - b)  # of the ring, front to back
        line = [(19, y - 6, z + 12), (0.42 * a, y - 4, back), (0.76 * a, y + 0.20 * drop, 0.72 * back)]
        if k < 10:
            line += [(0.97 * a, y + 0.52 * drop, 0.25 * back + 0.2 * middle), (0.98 * a, y + 0.80 * drop, -0.42 * b)]
            line += [(0.5 * (0.95 * a + _RIB_FRONT[k]), y + drop, -0.82 * b), (_RIB_FRONT[k], y + drop, -0.97 * b)]
        elif k == 10:
            line += [(0.97 * a, y + 0.62 * drop, 0.2 * back), (_RIB_FRONT[k], y + drop, -0.25 * b)]
        else:
            line += [(_RIB_FRONT[k], y + drop, 0.35 * back)]
        length = (0.55, 0.85, 1.0, 1.05, 1.1, 1.1, 1.1, 1.05, 1.0, 0.9, 0.6, 0.35)[k]
        build.tube(f"left rib {k + 1}", line, 5.0, 6.6 * length)
        if k < 10:  # costochondral junction
            build.blob(f"left rib {k + 1}", line[-1], (5, 5, 5), 0.45)
    build.blob("sternum", (0, 346, -74), (22, 22, 7), 9)
    build.blob("sternum", (0, 424, -92), (13, 56, 6), 12)
    build.blob("sternum", (0, 486, -98), (6, 10, 4), 1)
    for x in (-1, 1):
        build.blob("sternum", (x * 20, 330, -74), (8, 8, 7), 1.7)  # sternoclavicular joint


def _shoulder_girdle(build: _Builder) -> None:
    build.tube("left clavicle", [(22, 326, -74), (62, 312, -80), (118, 303, -48), (158, 302, -12)], 5, 4.4)
    build.blob("left clavicle", (24, 327, -74), (8, 7, 7), 1.2)
    build.blob("left clavicle", (156, 302, -10), (8, 6, 8), 1.2)
    corners = np.array([(66, 332, 92), (76, 470, 98), (150, 345, 35)], float)
    ball = build.ball(700)
    weights = np.abs(ball) + 0.05
    build.add("left scapula", weights / weights.sum(1, keepdims=True) @ corners + 2 * ball, 3.5)
    build.tube("left scapula", [tuple(corners[0]), (67, 400, 99), tuple(corners[1])], 4, 2.6)
    build.tube("left scapula", [tuple(corners[1]), (104, 410, 78), tuple(corners[2])], 5, 4.2)
    build.tube(
        "left scapula", [(70, 358, 96), (110, 335, 84), (148, 312, 52), (166, 308, 20)], 5, 4.5
    )  # spine, acromion
    build.tube("left scapula", [(146, 332, 20), (138, 322, -12)], 6, 2.2)  # coracoid
    build.blob("left scapula", (148, 334, 25), (9, 17, 12), 4.2)  # glenoid


def _arm(build: _Builder) -> None:
    build.blob("left humerus", (168, 330, 12), (20, 21, 20), 8.5)
    build.tube("left humerus", [(172, 345, 10), (186, 430, 12), (202, 530, 14), (213, 618, 14)], 9, 6.5)
    build.blob("left humerus", (214, 632, 14), (24, 10, 9), 3.2)
    build.blob("left forearm", (208, 648, 20), (12, 10, 12), 2.0)
    build.blob("left forearm", (226, 650, 10), (9, 9, 9), 1.4)
    build.tube("left forearm", [(208, 655, 20), (215, 750, 16), (222, 862, 10)], 6, 2.6)
    build.tube("left forearm", [(227, 656, 8), (236, 750, 4), (243, 865, 2)], 6, 2.8)
    build.blob("left forearm", (222, 868, 9), (8, 8, 8), 1.0)
    build.blob("left forearm", (243, 870, 2), (12, 9, 9), 2.4)
    build.blob("left hand", (234, 893, 2), (20, 13, 9), 3.2)  # carpus
    build.tube("left hand", [(252, 900, -4), (266, 926, -14)], 4, 0.9)
    build.blob("left hand", (253, 900, -4), (7, 7, 7), 0.45)  # carpometacarpal joint of the thumb
    build.blob("left hand", (267, 929, -15), (6, 6, 6), 0.35)
    build.tube("left hand", [(267, 930, -15), (275, 962, -20)], 3.5, 0.8)
    for k, x in enumerate((246, 237, 228, 219)):
        spread = (x - 232) * 0.35
        reach = (1.0, 1.06, 1.0, 0.82)[k]
        tip = 1062 * reach - 905 * (reach - 1)
        knuckle = (x + spread, 968, 0)
        build.tube("left hand", [(x, 912, 0), knuckle], 4, 0.65)
        build.blob("left hand", knuckle, (7, 7, 6), 0.42)
        build.tube("left hand", [knuckle, (x + 1.6 * spread, 1012, 2)], 4, 0.45)
        build.blob("left hand", (x + 1.6 * spread, 1012, 2), (6, 6, 5), 0.3)
        build.tube("left hand", [(x + 1.6 * spread, 1012, 2), (x + 2 * spread, tip, 5)], 4, 0.4)
        build.blob("left hand", (x + 1.85 * spread, 1012 + 0.6 * (tip - 1012), 4), (5, 5, 4), 0.2)


def _pelvis(build: _Builder) -> None:
    name = "left pelvis"
    crest = [(46, 784, 84), (56, 738, 82), (86, 700, 54), (126, 700, 10), (143, 730, -34), (130, 778, -64)]
    arcuate = [(49, 806, 66), (58, 816, 50), (70, 826, 28), (84, 830, 8), (100, 824, -16), (116, 808, -44)]
    ball = build.ball(1500)
    s, v = np.abs(ball[:, 0]) ** 0.9, np.abs(ball[:, 1]) ** 0.9
    grid = np.linspace(0, 1, len(crest))
    top, bottom = (make_interp_spline(grid, np.array(line, float))(s) for line in (crest, arcuate))
    wing = top + v[:, None] * (bottom - top)
    weight = 0.55 + 1.3 * np.exp(-v / 0.16) + 0.9 * np.exp(-(1 - v) / 0.25) + 1.6 * np.exp(-s / 0.16)
    build.add(name, wing + 3 * build.ball(1500), 48 * weight / weight.sum())
    build.tube(name, [(41, 752, 66), (45, 775, 72), (42, 798, 72)], 9, 9)  # sacroiliac joint
    build.blob(name, (88, 812, 8), (19, 22, 12), 7)  # body of the ilium, above the hip
    build.blob(name, (92, 838, 2), (30, 30, 26), 14, hollow=True)  # acetabulum
    build.tube(name, [(88, 855, 18), (74, 885, 36), (62, 912, 30)], 13, 8)
    build.tube(name, [(84, 836, -16), (48, 848, -42), (10, 860, -52)], 8, 5)
    build.tube(name, [(9, 868, -50), (32, 890, -20), (58, 914, 22)], 6, 3.4)


def _leg(build: _Builder) -> None:
    name = "left femur"
    build.blob(name, (92, 838, 2), (22, 22, 22), 7.5)
    build.tube(name, [(95, 842, 2), (124, 866, 6)], 12, 5)
    build.blob(name, (136, 864, 14), (14, 17, 15), 6)  # greater trochanter
    build.blob(name, (116, 898, 16), (9, 12, 9), 1.8)
    build.tube(name, [(128, 880, 8), (121, 980, -4), (109, 1090, -8), (97, 1200, 0)], 11, 14)
    for x in (75, 112):
        build.blob(name, (x, 1234, 6), (17, 17, 20), 5.5)
    build.blob(name, (93, 1226, 2), (32, 16, 18), 5)
    build.tube(name, [(98, 1180, 0), (94, 1222, 2)], 17, 4)
    build.blob("left patella", (94, 1222, -46), (19, 20, 9), 4.2)
    name = "left lower leg"
    for x in (76, 110):
        build.blob(name, (x, 1268, 5), (17, 11, 18), 3.6)
    build.blob(name, (93, 1272, 4), (32, 12, 16), 3.5)
    build.tube(name, [(93, 1275, 4), (92, 1310, 0)], 14, 4.0)
    build.blob(name, (94, 1298, -22), (9, 9, 6), 1.2)
    build.tube(name, [(92, 1300, 0), (90, 1420, -4), (88, 1540, 0), (86, 1655, 6)], 9, 10.5)
    build.tube(name, [(118, 1282, 22), (113, 1460, 22), (106, 1665, 16)], 5, 3.6)
    build.blob(name, (86, 1664, 6), (17, 10, 15), 3.4)
    build.blob(name, (72, 1676, 4), (7, 10, 8), 0.9)
    build.blob(name, (106, 1680, 14), (7, 13, 8), 1.2)
    name = "left foot"
    build.blob(name, (88, 1690, 8), (18, 13, 20), 4.6)  # talus
    build.blob(name, (90, 1706, 38), (14, 13, 26), 4.4)  # calcaneus
    build.blob(name, (92, 1716, -22), (20, 14, 16), 4.6)  # navicular, cuboid, cuneiforms
    for k in range(5):
        start = (78 + 8 * k, 1728, -34)
        head = (78 + 13.5 * k, 1786 - 4 * abs(k - 1), -62 + 2 * k)
        tip = (78 + 15 * k, 1822 - 7 * k, -66)
        build.tube(name, [start, head], 5 if k == 0 else 4, 1.1)
        build.blob(name, head, (8, 7, 7) if k == 0 else (5, 5, 5), 1.3 if k == 0 else 0.5)
        build.tube(name, [head, tip], 4, 0.6)
