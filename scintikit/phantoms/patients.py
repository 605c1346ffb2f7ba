"""Patients: the anatomy and physiology of a thyroid, drawn at random for a diagnosis.

Lengths are in mm, volumes in ml, activities are fractions of the administered activity. Patient coordinates: x to the
patient's left (the right of an anterior picture), y towards the feet (down), z from the skin backwards; the origin is
the isthmus. The uptake ranges follow pertechnetate at about 20 minutes: normal 0.3 to 3 %, Graves' disease 5 to 30 %,
destructive thyroiditis below 0.5 %. The shares of the disease forms and the spread of each are assumptions; they are
what makes the classes overlap, and `docs/simulation.md` gives the reason for each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

CLASSES = ("diffuse goiter", "nodular goiter", "normal", "thyroiditis")
SIDES = ("right", "left")


@dataclass(frozen=True)
class Form:
    """One form of a class of disease; pairs are (median, sigma of the logarithm) or (lowest, highest).

    `uptake` and `volume` are those of the gland without its nodules; `suppression` is the factor by which autonomous
    nodules quieten the rest of the gland; `ragged` is the strength of the patchy pattern in the tissue.
    """

    name: str
    share: float
    uptake_percent: tuple[float, float]
    volume_ml: tuple[float, float]
    ragged: tuple[float, float] = (0.05, 0.20)
    pyramidal: float = 0.12
    nodules: tuple[int, int] = (0, 0)
    hot: float = 0.0
    suppression: tuple[float, float] = (1.0, 1.0)
    diameter_mm: tuple[float, float] = (16.0, 0.40)


FORMS: dict[int, tuple[Form, ...]] = {
    0: (
        Form("toxic", 0.60, (7.0, 0.55), (27.0, 0.35), pyramidal=0.40),
        # Early, mild or treated: the gland has not grown much, the uptake lies at the upper end of normal.
        Form("mild", 0.22, (2.6, 0.45), (20.0, 0.28), pyramidal=0.30),
        # Euthyroid goiter (iodine deficiency): large, with the uptake of a normal gland.
        Form("simple", 0.18, (1.6, 0.45), (31.0, 0.28), pyramidal=0.15),
    ),
    1: (
        Form(
            "solitary hot nodule", 0.28, (1.2, 0.5), (16.0, 0.3), nodules=(1, 1), hot=1.0,
            suppression=(0.08, 0.9), diameter_mm=(18.0, 0.35),
        ),
        Form("solitary cold nodule", 0.24, (1.3, 0.5), (18.0, 0.3), nodules=(1, 1), diameter_mm=(23.0, 0.35)),
        Form(
            "multinodular", 0.48, (1.6, 0.6), (26.0, 0.45), ragged=(0.15, 0.40), nodules=(2, 6), hot=0.5,
            suppression=(0.4, 1.0), diameter_mm=(14.0, 0.40), pyramidal=0.10,
        ),
    ),
    2: (Form("normal", 1.0, (1.1, 0.50), (14.0, 0.28)),),
    3: (
        Form("destructive", 0.58, (0.15, 0.65), (15.0, 0.30), ragged=(0.2, 0.6), pyramidal=0.05),
        # The hormone store is empty and trapping returns: weeks later the picture is that of a normal gland.
        Form("recovering", 0.24, (0.45, 0.50), (14.0, 0.30), ragged=(0.25, 0.6), pyramidal=0.08),
        # Chronic lymphocytic: firm, patchy, with normal or even raised trapping.
        Form("lymphocytic", 0.18, (1.2, 0.60), (20.0, 0.35), ragged=(0.35, 0.70), pyramidal=0.15),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Ellipsoid:
    """A body part; `bend` deforms it smoothly, `lean` moves its axis sideways with height (mm per mm)."""

    centre: tuple[float, float, float]
    semi_axes: tuple[float, float, float]
    lean: float = 0.0
    bend: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Nodule:
    """A nodule: `contrast` is its uptake per ml as a multiple of healthy tissue before any suppression."""

    side: str
    pole: str
    shape: Ellipsoid
    diameter_mm: float
    contrast: float

    @property
    def kind(self) -> str:
        """Return "hot" or "cold"."""
        return "hot" if self.contrast > 1 else "cold"


@dataclass(frozen=True, eq=False)
class Patient:
    """One simulated person; everything that the imaging chain needs to know about the body.

    `tissue` is the gland's concentration (fraction of the administered activity per ml) outside its nodules, after
    autonomous nodules multiplied it by `suppression`; `background` is that of soft tissue, `blood` the further
    concentration of the great vessels. `organs` are salivary glands and the contents of mouth, nose and oesophagus,
    each with its concentration. `ripple` holds the plane waves (amplitude, x and y wave number in 1/mm, phase) of the
    gland's patchy pattern.
    """

    label: int
    form: str
    lobes: tuple[Ellipsoid, Ellipsoid]
    bridges: tuple[Ellipsoid, ...]
    pyramidal: bool
    nodules: tuple[Nodule, ...]
    tissue: float
    suppression: float
    ripple: np.ndarray
    background: float
    blood: float
    organs: tuple[tuple[Ellipsoid, float], ...]
    neck_mm: float
    skin_mm: float

    @property
    def volume_ml(self) -> tuple[float, float]:
        """Volume of the right and of the left lobe without the nodules, ml."""
        right, left = (volume_ml(lobe) for lobe in self.lobes)
        return right, left

    @property
    def uptake_percent(self) -> float:
        """Uptake of the whole gland, nodules included, as a percentage of the administered activity."""
        healthy = sum(self.volume_ml) * self.tissue
        nodules = sum(volume_ml(n.shape) * (n.contrast * self.healthy_tissue - self.tissue) for n in self.nodules)
        return 100 * max(healthy + nodules, 0.0)

    def at(self, minutes: float) -> Patient:
        """Return the patient as many minutes after injection; what is drawn holds for 20.

        The gland and the salivary glands trap pertechnetate with a time constant of about 12 minutes, while soft tissue
        and blood lose it (about 40 and 30 minutes): the later the picture, the brighter the gland over its background.
        """
        trapped = (1 - np.exp(-minutes / 12)) / (1 - np.exp(-20 / 12))
        return replace(
            self,
            tissue=self.tissue * trapped,
            organs=tuple((organ, concentration * trapped) for organ, concentration in self.organs),
            background=self.background * np.exp((20 - minutes) / 40),
            blood=self.blood * np.exp((20 - minutes) / 30),
        )

    @property
    def healthy_tissue(self) -> float:
        """Concentration of the gland's tissue before autonomous nodules suppressed it, per ml."""
        return self.tissue / self.suppression


def volume_ml(shape: Ellipsoid) -> float:
    """Return the volume of an ellipsoid in ml."""
    return float(4 / 3 * np.pi * np.prod(shape.semi_axes) / 1000)


def draw_patient(label: int, rng: np.random.Generator) -> Patient:
    """Draw a patient with the disease class `label` (an index of `CLASSES`)."""
    forms = FORMS[label]
    form = forms[rng.choice(len(forms), p=[f.share for f in forms])]
    skin = float(np.clip(_around(rng, 11.0, 0.30), 6, 25))
    lobes = _lobes(rng, _around(rng, *form.volume_ml), skin)
    pyramidal = bool(rng.random() < form.pyramidal)
    suppression = float(rng.uniform(*form.suppression))
    nodules = tuple(_nodules(rng, form, lobes))
    if not any(n.kind == "hot" for n in nodules):
        suppression = 1.0
    uptake = float(np.clip(_around(rng, *form.uptake_percent), 0.01, 35.0)) / 100
    background = _around(rng, 1.5e-5, 0.35)
    return Patient(
        label=label,
        form=form.name,
        lobes=lobes,
        bridges=_bridges(rng, lobes, skin, pyramidal),
        pyramidal=pyramidal,
        nodules=nodules,
        tissue=uptake / sum(volume_ml(lobe) for lobe in lobes) * suppression,
        suppression=suppression,
        ripple=_ripple(rng, rng.uniform(*form.ragged)),
        background=background,
        blood=background * _around(rng, 1.5, 0.4),
        organs=tuple(_organs(rng)),
        neck_mm=float(rng.normal(60, 6)),
        skin_mm=skin,
    )


def _around(rng: np.random.Generator, median: float, sigma: float) -> float:
    return float(median * np.exp(sigma * rng.standard_normal()))


def _lobes(rng: np.random.Generator, volume: float, skin: float) -> tuple[Ellipsoid, Ellipsoid]:
    """Two pear-shaped lobes beside the windpipe, the right one a little larger on average."""
    right = float(np.clip(rng.normal(0.53, 0.06), 0.3, 0.7))
    lobes = []
    for sign, part in ((-1, right), (1, 1 - right)):
        height = rng.normal(2.7, 0.25)  # in units of the width; about 48 x 18 x 16 mm in a normal gland
        depth = rng.normal(0.9, 0.08)
        a = float((volume * part * 1000 / (4 / 3 * np.pi * height * depth)) ** (1 / 3))
        centre = (sign * (7.5 + 0.95 * a + rng.normal(0, 1.5)), float(rng.normal(-4, 4)), skin + 3 + a * depth)
        lean = float(-sign * rng.normal(0.20, 0.07))  # lower poles lie nearer to the midline
        bend = (float(rng.normal(0.16, 0.08)), float(rng.normal(0, 0.10)), float(rng.normal(0, 0.12)))
        lobes.append(Ellipsoid(centre, (a, a * height, a * depth), lean, bend))
    return lobes[0], lobes[1]


def _bridges(
    rng: np.random.Generator, lobes: tuple[Ellipsoid, Ellipsoid], skin: float, pyramidal: bool
) -> tuple[Ellipsoid, ...]:
    """The isthmus, and with `pyramidal` the lobe that rises from it."""
    scale = float(np.mean([lobe.semi_axes[0] for lobe in lobes])) / 9
    low = float(np.mean([lobe.centre[1] for lobe in lobes])) + float(rng.uniform(4, 12)) * scale
    reach = float(np.mean([abs(lobe.centre[0]) for lobe in lobes]))
    thin = float(rng.uniform(1.0, 3.2)) * scale
    isthmus = Ellipsoid((0.0, low, skin + 1 + thin), (reach, float(rng.uniform(5, 9)) * scale, thin))
    if not pyramidal:
        return (isthmus,)
    length = float(rng.uniform(12, 22)) * scale**0.5
    x = float(rng.normal(3, 4))
    return isthmus, Ellipsoid(
        (x, low - length, skin + 4), (3.5 * scale**0.5, length, 3.0), lean=float(rng.normal(0, 0.1))
    )


def _nodules(rng: np.random.Generator, form: Form, lobes: tuple[Ellipsoid, Ellipsoid]) -> list[Nodule]:
    """Nodules inside the lobes, spread so that they overlap little; the largest come first."""
    number = int(rng.integers(form.nodules[0], form.nodules[1] + 1))
    found: list[Nodule] = []
    for diameter in sorted((_around(rng, *form.diameter_mm) for _ in range(number)), reverse=True):
        size = float(np.clip(diameter, 6, 45))
        hot = bool(rng.random() < form.hot)
        contrast = float(_around(rng, 4.5, 0.45) + 0.8) if hot else float(rng.uniform(0.0, 0.25))
        candidates = [_nodule(rng, lobes, size, contrast) for _ in range(6)]
        found.append(max(candidates, key=lambda n: min((_gap(n, other) for other in found), default=0.0)))
    return found


def _gap(one: Nodule, other: Nodule) -> float:
    distance = float(np.linalg.norm(np.subtract(one.shape.centre[:2], other.shape.centre[:2])))
    return distance - (one.diameter_mm + other.diameter_mm) / 2


def _nodule(rng: np.random.Generator, lobes: tuple[Ellipsoid, Ellipsoid], size: float, contrast: float) -> Nodule:
    index = int(rng.integers(2))
    lobe = lobes[index]
    height = float(rng.uniform(-0.75, 0.75))
    # Off the lobe's axis in width and depth, but inside it at that height.
    room = 0.6 * np.sqrt(1 - height**2)
    across, deep = (float(v) for v in rng.uniform(-room, room, 2))
    y = height * lobe.semi_axes[1]
    x = lobe.centre[0] + lobe.lean * y + across * lobe.semi_axes[0]
    front = lobe.centre[2] - lobe.semi_axes[2]
    z = max(lobe.centre[2] + deep * lobe.semi_axes[2], front + 0.4 * size)  # a nodule bulges, not through the skin
    ratio = rng.uniform(0.85, 1.15, 2)
    axes = (size / 2 * float(ratio[0]), size / 2 * float(ratio[1]), size / 2)
    pole = "upper" if height < -0.3 else "lower" if height > 0.3 else "mid"
    return Nodule(SIDES[index], pole, Ellipsoid((x, lobe.centre[1] + y, z), axes), size, contrast)


def _ripple(rng: np.random.Generator, strength: float, waves: int = 10) -> np.ndarray:
    """Plane waves of 12 to 45 mm length whose sum has the standard deviation `strength`."""
    number = 2 * np.pi / rng.uniform(12, 45, waves)
    angle = rng.uniform(0, np.pi, waves)
    phase = rng.uniform(0, 2 * np.pi, waves)
    amplitude = np.full(waves, strength * np.sqrt(2 / waves))
    return np.stack([amplitude, number * np.cos(angle), number * np.sin(angle), phase], 1).astype(np.float32)


def _organs(rng: np.random.Generator) -> list[tuple[Ellipsoid, float]]:
    """Salivary glands and what they secreted, each with its concentration per ml."""
    trapping = _around(rng, 1.0, 0.45)  # one person's salivary glands go together
    jaw = float(rng.normal(-72, 7))  # with the neck stretched
    organs = []
    for sign in (-1, 1):
        under = Ellipsoid((sign * rng.normal(29, 3), jaw + rng.normal(0, 3), 28.0), (9.0, 12.0, 9.0), sign * -0.3)
        ear = Ellipsoid((sign * rng.normal(55, 4), jaw - rng.normal(30, 4), 45.0), (10.0, 21.0, 15.0), sign * 0.1)
        organs.append((under, trapping * _around(rng, 2.3e-4, 0.2)))
        organs.append((ear, trapping * _around(rng, 2.3e-4, 0.2)))
    mouth = Ellipsoid((rng.normal(0, 3), jaw - rng.normal(28, 4), 30.0), (22.0, 9.0, 15.0))
    organs.append((mouth, trapping * _around(rng, 0.9e-4, 0.7)))
    nose = Ellipsoid((0.0, jaw - rng.normal(58, 4), 25.0), (9.0, 14.0, 12.0))
    organs.append((nose, _around(rng, 0.8e-4, 0.4)))
    if rng.random() < 0.12:  # swallowed saliva on its way down
        gullet = Ellipsoid((rng.normal(4, 3), rng.uniform(15, 60), 45.0), (4.0, rng.uniform(10, 30), 4.0))
        organs.append((gullet, trapping * _around(rng, 2.0e-4, 0.6)))
    return organs
