"""Patients of a bone scan: shape, uptake and foci, drawn at random for a diagnosis.

Uptake is given as fractions of the administered activity three hours after injection of Tc-99m MDP, decay apart: about
half of it ends up in the skeleton, most of the rest leaves through the kidneys. How often which site is affected, and
every spread, are assumptions: close to nine in ten metastases lie in spine, ribs, sternum, pelvis and skull, where red
marrow is. Contrasts are multiples of the uptake of the bone around.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scintikit.phantoms.skeleton.anatomy import (
    BONE_NUMBER,
    BONES,
    CERVICAL,
    LUMBAR,
    SIDES,
    THORACIC,
    reference,
    vertebra,
)

CLASSES = ("metastasis", "arthritis")
DIAGNOSES = ((0, 0), (1, 0), (0, 1), (1, 1))  # the labels of a case's number; normal comes first
METASTASIS, ARTHRITIS, VARIANT = "metastasis", "arthritis", "variant"
SUPERSCAN = 0.06  # of the patients with metastases

# Where metastases go: share, bones. Of long bones only the part near the trunk, where adults have red marrow.
REGIONS: dict[str, tuple[float, tuple[str, ...]]] = {
    "skull": (0.05, ("skull",)),
    "cervical spine": (0.03, CERVICAL[2:]),
    "thoracic spine": (0.20, THORACIC),
    "lumbar spine": (0.16, LUMBAR),
    "sacrum": (0.05, ("sacrum",)),
    "sternum": (0.04, ("sternum",)),
    **{f"{side} ribs": (0.12, tuple(f"{side} rib {k}" for k in range(1, 12))) for side in SIDES},
    **{f"{side} pelvis": (0.085, (f"{side} pelvis",)) for side in SIDES},
    **{f"{side} scapula": (0.02, (f"{side} scapula",)) for side in SIDES},
    **{f"{side} clavicle": (0.005, (f"{side} clavicle",)) for side in SIDES},
    **{f"{side} proximal femur": (0.03, (f"{side} femur",)) for side in SIDES},
    **{f"{side} proximal humerus": (0.015, (f"{side} humerus",)) for side in SIDES},
}
AXIAL = ("skull", "cervical spine", "thoracic spine", "lumbar spine", "sacrum", "sternum", "right ribs", "left ribs",
         "right pelvis", "left pelvis")  # fmt: skip
PROXIMAL_MM = {"femur": 1010.0, "humerus": 440.0}  # y above which these bones count as proximal

# Joints that wear out: share among arthritis, probability that both sides do, foci as (x, y, z, radius).
JOINTS: dict[str, tuple[float, float, tuple[tuple[float, float, float, float], ...]]] = {
    "knee": (0.26, 0.65, ((75, 1252, 2, 19), (111, 1252, 2, 19), (94, 1222, -46, 20))),
    "shoulder": (0.17, 0.55, ((161, 326, 10, 22), (158, 302, -8, 12))),
    "foot": (0.14, 0.5, ((80, 1785, -60, 11), (92, 1716, -22, 20), (88, 1694, 8, 20))),
    "hand": (0.10, 0.6, ((253, 900, -4, 9), (237, 968, 0, 10), (232, 1012, 2, 12))),
    "wrist": (0.07, 0.5, ((240, 884, 4, 16),)),
    "hip": (0.09, 0.4, ((92, 822, 2, 20), (96, 842, -4, 25))),
    "elbow": (0.03, 0.4, ((214, 642, 14, 16),)),
    "ankle": (0.05, 0.4, ((87, 1676, 6, 20),)),
    "sternoclavicular joint": (0.04, 0.5, ((22, 329, -74, 11),)),
}
FACETS = 0.35  # probability that arthritis also, or only, affects the facet joints of the lumbar spine


@dataclass(frozen=True)
class Focus:
    """A place of raised uptake.

    `lobes` (lobe, 4): x, y, z and radius, mm, of the balls whose union is the focus, in the reference skeleton;
    `bones` are those it may affect (empty: all); `region` and `side` ("right", "left", "") are what a report calls it.
    """

    kind: str
    region: str
    side: str
    lobes: np.ndarray
    contrast: float
    bones: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spot:
    """Activity outside the bones: an ellipsoid in the reference adult, mm, and its fraction of the administered."""

    name: str
    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    activity: float


@dataclass(frozen=True, eq=False)
class Body:
    """Shape of a body against the reference adult.

    `scale` (xyz) stretches the skeleton; `build` is the width of the trunk's soft tissue; `lean` (of head, trunk,
    arms and legs) are angles in the picture, radian, arms and legs as (right, left); `scoliosis` and `kyphosis` bend
    the trunk, mm; `rib_slope` and `rib_shift` (12) move the ribs down at their lateral ends and as a whole, mm.
    """

    scale: tuple[float, float, float]
    build: float
    head_lean: float
    arm_lean: tuple[float, float]
    leg_lean: tuple[float, float]
    scoliosis: tuple[float, float]
    kyphosis: float
    rib_slope: float
    rib_shift: np.ndarray


@dataclass(frozen=True, eq=False)
class BonePatient:
    """One simulated person three hours after the injection.

    `skeleton` and `soft_tissue` are fractions of the administered activity, `bone_uptake` (bone,) each bone's own
    factor, `superscan` the factor of diffuse metastatic uptake (1: none) and `mottle` (wave, 5) the amplitude, wave
    vector and phase of its unevenness.
    """

    label: tuple[int, int]
    age: float
    body: Body
    skeleton: float
    soft_tissue: float
    bone_uptake: np.ndarray
    mottle: np.ndarray
    superscan: float
    foci: tuple[Focus, ...]
    spots: tuple[Spot, ...]

    def at(self, hours: float) -> BonePatient:
        """Return the patient as many hours after injection; what is drawn holds for 3.

        Bone keeps the tracer, soft tissue loses it to the kidneys with a time constant of about 4 h (assumed).
        """
        washed = float(np.exp((3 - hours) / 4))
        return replace(self, soft_tissue=self.soft_tissue * washed)

    def of(self, kind: str) -> list[Focus]:
        """Return the foci of one kind."""
        return [focus for focus in self.foci if focus.kind == kind]


def draw_bone_patient(label: tuple[int, int], rng: np.random.Generator) -> BonePatient:
    """Draw a patient; `label` says whether there are metastases and whether there is arthritis."""
    metastasis, arthritis = label
    age = float(np.clip(rng.normal(64 if metastasis or arthritis else 58, 12), 22, 90))
    superscan = float(rng.uniform(2.2, 4.0)) if metastasis and rng.random() < SUPERSCAN else 1.0
    foci: list[Focus] = []
    if metastasis:
        foci += _metastases(rng, superscan > 1)
    if arthritis:
        foci += _arthritis(rng)
    foci += _wear(rng, age, {(f.region, f.side) for f in foci})
    foci += _variants(rng, age)
    urine = 0.25 if superscan > 1 else 1.0
    return BonePatient(
        label=label,
        age=age,
        body=_body(rng),
        skeleton=_around(rng, 0.34 - 0.0012 * (age - 55), 0.16) * (1.4 if superscan > 1 else 1.0),
        soft_tissue=_around(rng, 0.115 + 0.0006 * (age - 55), 0.30) * (0.4 if superscan > 1 else 1.0),
        bone_uptake=_bone_uptake(rng, age),
        mottle=_mottle(rng),
        superscan=superscan,
        foci=tuple(foci),
        spots=tuple(_spots(rng, urine)),
    )


def _around(rng: np.random.Generator, median: float, spread: float) -> float:
    return float(median * np.exp(rng.normal(0, spread)))


def _body(rng: np.random.Generator) -> Body:
    height = float(np.clip(rng.normal(0.975, 0.05), 0.85, 1.10))
    width = height * float(np.exp(rng.normal(0, 0.04)))
    turn = np.radians(1.0)
    arms = rng.normal(0.8, 1.6, 2) * turn
    legs = rng.normal(0.5, 1.2, 2) * turn
    return Body(
        scale=(width, height, width * float(np.exp(rng.normal(0, 0.05)))),
        build=float(np.clip(np.exp(rng.normal(0.04, 0.13)), 0.82, 1.4)),
        head_lean=float(rng.normal(0, 3) * turn),
        arm_lean=(float(arms[0]), float(arms[1])),
        leg_lean=(float(legs[0]), float(legs[1])),
        scoliosis=(float(rng.normal(0, 4)), float(rng.normal(0, 3))),
        kyphosis=float(rng.normal(0, 8)),
        rib_slope=float(rng.normal(0, 10)),
        rib_shift=rng.normal(0, 1.5, 12),
    )


def _bone_uptake(rng: np.random.Generator, age: float) -> np.ndarray:
    """Each bone's own factor; sides resemble each other more than different bones do."""
    factor = np.exp(rng.normal(0, 0.08, len(BONES)))
    shared = {name: np.exp(rng.normal(0, spread)) for name, spread in _GROUPS.items()}
    for number, name in enumerate(BONES):
        plain = name.removeprefix("right ").removeprefix("left ")
        group = "rib" if plain.startswith("rib") else plain[0] if name in CERVICAL + THORACIC + LUMBAR else plain
        factor[number] *= shared.get(group, 1.0)
    for name in ("skull", "face"):
        factor[BONE_NUMBER[name]] *= np.exp(rng.normal(0, 0.15))
    old = (age - 55) / 20
    for name, rise in (("patella", 0.10), ("foot", 0.10), ("hand", 0.08), ("sternum", 0.03)):
        for bone in (name, f"right {name}", f"left {name}"):
            if bone in BONE_NUMBER:
                factor[BONE_NUMBER[bone]] *= np.exp(rise * old)
    return factor.astype(np.float32)


# Spread (sigma of the logarithm) of the uptake that bones of one kind share.
_GROUPS = {
    **{"rib": 0.13, "C": 0.12, "T": 0.08, "L": 0.08, "pelvis": 0.08, "scapula": 0.10, "clavicle": 0.12},
    **{"humerus": 0.12, "forearm": 0.15, "hand": 0.20, "femur": 0.12, "lower leg": 0.15, "foot": 0.22, "patella": 0.22},
}


def _mottle(rng: np.random.Generator, waves: int = 10) -> np.ndarray:
    direction = rng.normal(0, 1, (waves, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    number = 2 * np.pi / rng.uniform(25, 110, waves)
    phase = rng.uniform(0, 2 * np.pi, waves)
    return np.column_stack([np.full(waves, np.sqrt(2 / waves)), direction * number[:, None], phase]).astype(np.float32)


def _blob(rng: np.random.Generator, centre: np.ndarray, radius: float, lobes: int) -> np.ndarray:
    """An irregular focus: a ball with smaller ones that bulge out of it."""
    offset = rng.normal(0, 0.6 * radius, (lobes, 3)) * (np.arange(lobes) > 0)[:, None]
    radii = radius * np.where(np.arange(lobes) > 0, rng.uniform(0.5, 0.85, lobes), 1.0)
    return np.column_stack([np.asarray(centre) + offset, radii]).astype(np.float32)


def _metastases(rng: np.random.Generator, superscan: bool) -> list[Focus]:
    number = int(rng.choice(4, p=(0.20, 0.34, 0.30, 0.16)))
    number = (
        int(rng.integers(*((1, 2), (2, 5), (5, 13), (13, 31))[number])) if not superscan else int(rng.integers(8, 31))
    )
    strength = _around(rng, 1.0, 0.30)  # foci of one patient resemble each other
    names, shares = list(REGIONS), np.array([share for share, _ in REGIONS.values()])
    # Spread along the spine or to one side: the regions of one patient are not independent.
    shares = shares * np.exp(rng.normal(0, 0.6, len(names)))
    drawn = rng.choice(len(names), number, p=shares / shares.sum())
    return [_metastasis(rng, names[k], strength, index) for index, k in enumerate(drawn)]


def _metastasis(rng: np.random.Generator, region: str, strength: float, index: int) -> Focus:
    bone = str(rng.choice(REGIONS[region][1]))
    side, name = _split_side(region)
    cloud = reference()
    inside = np.flatnonzero(cloud.bone == BONE_NUMBER[bone])
    limit = PROXIMAL_MM.get(name.removeprefix("proximal "))
    if limit is not None:
        inside = inside[cloud.place[inside, 1] < limit]
    weight = cloud.uptake[inside] ** 0.5  # bulky parts more often, but not as much as they are bright
    centre = cloud.place[rng.choice(inside, p=weight / weight.sum())]
    thin = name in ("ribs", "scapula", "clavicle", "skull")
    radius = float(np.clip(_around(rng, 11.5 if thin else 14.0, 0.35), 6, 34))
    rise = float(np.clip(_around(rng, (5.5 if thin else 3.4) * strength, 0.45), 1.2, 16))
    if index == 0:  # at least one is plain to see, or there would be no diagnosis
        rise = max(rise, 5.0 if thin else 3.0)
    return Focus(METASTASIS, name, side, _blob(rng, centre, radius, int(rng.integers(2, 6))), 1 + rise, (bone,))


def _split_side(region: str) -> tuple[str, str]:
    """Return ("right", "ribs") of "right ribs", and ("", "skull") of "skull"."""
    side, _, name = region.partition(" ")
    return (side, name) if side in SIDES else ("", region)


def _arthritis(rng: np.random.Generator) -> list[Focus]:
    facets = rng.random() < FACETS
    number = int(rng.choice(4, p=(0.30, 0.36, 0.24, 0.10))) + (0 if facets else 1)
    names, shares = list(JOINTS), np.array([share for share, _, _ in JOINTS.values()])
    foci = _facets(rng) if facets else []
    for k in rng.choice(len(names), min(number, len(names)), replace=False, p=shares / shares.sum()):
        foci += _joint(rng, names[k])
    return foci


def _joint(rng: np.random.Generator, name: str) -> list[Focus]:
    _, symmetric, places = JOINTS[name]
    sides = SIDES if rng.random() < symmetric else (SIDES[int(rng.integers(2))],)
    strength = _around(rng, 2.0, 0.35)
    some = rng.random(len(places)) < 0.6
    some[rng.integers(len(places))] = True
    foci = []
    for side in sides:
        own = strength * np.exp(rng.normal(0, 0.25))
        lobes = [_mirrored(place, side, rng) for place, chosen in zip(places, some, strict=True) if chosen]
        foci.append(
            Focus(ARTHRITIS, name, side, np.array(lobes, np.float32), 1 + float(np.clip(own, 1.0, 9))))  # fmt: skip
    return foci


def _mirrored(place: tuple[float, ...], side: str, rng: np.random.Generator) -> np.ndarray:
    x, y, z, radius = place
    moved = np.array([x, y, z]) + rng.normal(0, 2, 3)
    return np.array([moved[0] if side == "left" else -moved[0], moved[1], moved[2], radius * rng.uniform(0.75, 1.2)])


def _facets(rng: np.random.Generator) -> list[Focus]:
    foci = []
    level = int(rng.integers(2, 5))
    for k in {level, int(np.clip(level + rng.integers(-1, 2), 1, 4))}:
        _, y, z = vertebra(LUMBAR[k])
        strength = _around(rng, 2.6, 0.35)
        both = rng.random() < 0.5
        for side in SIDES if both else (SIDES[int(rng.integers(2))],):
            place = _mirrored((21, y + 8, z + 30, 12), side, rng)
            contrast = 1 + float(np.clip(strength * np.exp(rng.normal(0, 0.2)), 1.6, 8))
            foci.append(Focus(ARTHRITIS, "lumbar facet joints", side, place[None].astype(np.float32), contrast))
    return foci


def _wear(rng: np.random.Generator, age: float, taken: set[tuple[str, str]]) -> list[Focus]:
    """Mild uptake at joints that comes with age and is no disease."""
    foci = []
    for name, (share, _, places) in JOINTS.items():
        if rng.random() > np.clip(2.2 * share * (age - 25) / 40, 0, 0.8):
            continue
        rise = float(rng.uniform(0.15, 0.8))
        for side in SIDES:
            if (name, side) not in taken:
                lobes = np.array([_mirrored(place, side, rng) for place in places], np.float32)
                foci.append(Focus(VARIANT, f"mild wear of the {name}", side, lobes, 1 + rise * rng.uniform(0.6, 1.0)))
    return foci


def _variants(rng: np.random.Generator, age: float) -> list[Focus]:
    """What a report mentions as of no concern: old rib fractures, teeth, sinuses, tips of the scapulae."""
    foci: list[Focus] = []
    cloud = reference()
    if rng.random() < 0.10 + 0.002 * max(age - 50, 0):  # old fractures of neighbouring ribs, in line
        side, first, along = SIDES[int(rng.integers(2))], int(rng.integers(4, 9)), float(rng.uniform(0.3, 0.95))
        strength = _around(rng, 2.2, 0.5)
        for k in range(first, first + int(rng.integers(1, 4))):
            bone = f"{side} rib {k}"
            inside = np.flatnonzero(cloud.bone == BONE_NUMBER[bone])
            centre = cloud.place[inside[np.abs(cloud.along[inside] - along - rng.normal(0, 0.03)).argmin()]]
            lobes = _blob(rng, centre, float(rng.uniform(7, 9)), 1)
            contrast = 1 + strength * float(rng.uniform(0.5, 1.0))
            foci.append(Focus(VARIANT, "old rib fracture", side, lobes, contrast, (bone,)))
    if rng.random() < 0.15:
        x = float(rng.uniform(-25, 25))
        lobes = _blob(rng, np.array([x, rng.choice((178, 205)), -76 + 0.4 * abs(x)]), float(rng.uniform(6, 10)), 2)
        foci.append(
            Focus(VARIANT, "dental uptake", "left" if x > 0 else "right", lobes, 1 + _around(rng, 2.0, 0.4), ("face",))
        )
    if rng.random() < 0.10:
        lobes = _blob(rng, np.array([rng.normal(0, 18), 140, -70]), float(rng.uniform(10, 16)), 3)
        foci.append(Focus(VARIANT, "sinusitis", "", lobes, 1 + _around(rng, 1.2, 0.4), ("face",)))
    if rng.random() < 0.10:
        side = SIDES[int(rng.integers(2))]
        x = 76.0 if side == "left" else -76.0
        foci.append(
            Focus(
                VARIANT,
                "tip of the scapula",
                side,
                _blob(rng, np.array([x, 466, 98]), 10, 1),
                1 + _around(rng, 1.2, 0.3),
            )
        )
    return foci


def _spots(rng: np.random.Generator, urine: float) -> list[Spot]:
    """Kidneys and bladder, and in some an injection site or contamination with urine."""
    spots = []
    kidneys = _around(rng, 0.008, 0.40) * urine**1.5
    for sign in (-1, 1):
        centre = (
            sign * float(rng.normal(58, 4)),
            float(rng.normal(634 if sign < 0 else 620, 9)),
            float(rng.normal(48, 5)),
        )
        spots.append(Spot("kidney", centre, (23.0, float(rng.uniform(44, 54)), 18.0), kidneys * _around(rng, 1.0, 0.2)))
        if rng.random() < 0.2:  # stasis in the renal pelvis
            spots.append(Spot("kidney", (centre[0] * 0.8, centre[1] + 4, centre[2]), (8.0, 12.0, 8.0), 0.4 * kidneys))
    size = float(rng.uniform(0.6, 1.15))
    middle = (float(rng.normal(0, 5)), 848 - 12 * size, -38.0)
    spots.append(Spot("bladder", middle, (40 * size, 28 * size, 30 * size), _around(rng, 0.016, 0.75) * size * urine))
    if rng.random() < 0.22:
        side = SIDES[int(rng.integers(2))]
        sign = 1 if side == "left" else -1
        place = ((214, 652, -25), (238, 840, -15), (240, 925, 10))[int(rng.choice(3, p=(0.55, 0.2, 0.25)))]
        centre = (sign * place[0] + float(rng.normal(0, 5)), place[1] + float(rng.normal(0, 12)), float(place[2]))
        spots.append(
            Spot(f"injection site {side}", centre, (5.0, float(rng.uniform(5, 14)), 4.0), _around(rng, 0.0022, 1.0))
        )
    if rng.random() < 0.10:
        for _ in range(int(rng.integers(1, 3))):
            centre = (float(rng.normal(0, 45)), float(rng.uniform(890, 990)), -85.0)
            axes = (float(rng.uniform(4, 12)), float(rng.uniform(6, 20)), 2.0)
            spots.append(Spot("contamination", centre, axes, _around(rng, 0.0008, 0.7)))
    return spots
