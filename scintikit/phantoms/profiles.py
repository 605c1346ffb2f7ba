"""How many patients of which class stand in front of which camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scintikit.errors import ConfigError
from scintikit.phantoms.cameras import Camera, load_cameras

# Diffuse goiter, nodular goiter, normal, thyroiditis: the order of `patients.CLASSES`.
PUBLISHED = {False: (788, 1011, 297, 459), True: (127, 98, 59, 115)}  # arXiv 2503.00366; True: external cameras


@dataclass(frozen=True)
class Case:
    """One patient to simulate; `index` and the dataset's seed determine everything about the picture."""

    index: int
    name: str
    centre: str
    label: int


# Patients on internal and on external cameras.
PROFILES = {"tiny": (48, 24), "demo": (800, 200), "paper": (2555, 399)}


def cases(profile: str, seed: int) -> list[Case]:
    """List the patients of a profile, in an order within each centre that says nothing about their class."""
    if profile not in PROFILES:
        raise ConfigError(f"there is no simulation profile {profile!r}; choose one of {', '.join(PROFILES)}")
    result: list[Case] = []
    for centre, numbers in sorted(class_mix(profile).items()):
        labels = np.repeat(np.arange(len(numbers)), numbers)
        np.random.default_rng([seed, *centre.encode()]).shuffle(labels)
        result += [Case(len(result) + i, f"{centre}_{i + 1:04d}", centre, int(label)) for i, label in enumerate(labels)]
    return result


def class_mix(profile: str) -> dict[str, np.ndarray]:
    """Return for every centre the number of patients of each class.

    The totals per class are those of arXiv 2503.00366, scaled to the profile's size. The share of each centre and its
    class mix follow `centres.csv`, whose earlier cohort had no normals: they are given to the centres in proportion to
    their size. Iterative proportional fitting reconciles the two; largest remainders round each class to its total.
    """
    cameras = load_cameras()
    mix: dict[str, np.ndarray] = {}
    for external, size in zip((False, True), PROFILES[profile], strict=True):
        group = [camera for camera in cameras.values() if camera.external == external]
        totals = apportion(np.array(PUBLISHED[external], float), size)
        table = _fit(group, totals)
        columns = [apportion(table[:, label], int(total)) for label, total in enumerate(totals)]
        mix |= {camera.centre: row for camera, row in zip(group, np.stack(columns, 1), strict=True)}
    return mix


def apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Round `shares`, scaled to sum to `total`, to integers that do, by largest remainders."""
    exact = shares / shares.sum() * total
    whole = np.floor(exact).astype(int)
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: total - whole.sum()]] += 1
    return whole


def _fit(group: list[Camera], totals: np.ndarray) -> np.ndarray:
    sizes = np.array([sum(camera.patients.values()) for camera in group], float)
    rows = [
        (
            c.patients["goitre_diffuse"],
            c.patients["goitre_nodular"],
            size * totals[2] / totals.sum(),
            c.patients["thyroiditis"],
        )
        for c, size in zip(group, sizes, strict=True)
    ]
    table = np.array(rows, float)
    for _ in range(100):
        table *= (sizes / sizes.sum() * totals.sum() / table.sum(1))[:, None]
        table *= totals / table.sum(0)
    return table
