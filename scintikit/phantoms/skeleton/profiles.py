"""How many patients with which diagnosis lie on which camera's table."""

from __future__ import annotations

import numpy as np

from scintikit.errors import ConfigError
from scintikit.phantoms.cameras import load_cameras
from scintikit.phantoms.profiles import Case, apportion
from scintikit.phantoms.skeleton.patients import DIAGNOSES

SHARES = np.array((0.25, 0.30, 0.20, 0.25))  # normal, metastasis, arthritis, both: the order of `DIAGNOSES`
TILT = 0.25  # how much the centres' shares differ (sigma of the logarithm)

# Patients on internal and on external cameras.
BONE_PROFILES = {"bone_tiny": (18, 9), "bone_demo": (66, 24), "bone_paper": (1250, 250)}


def bone_cases(profile: str, seed: int) -> list[Case]:
    """List the patients of a profile; `label` is the index of the diagnosis in `DIAGNOSES`."""
    if profile not in BONE_PROFILES:
        raise ConfigError(f"there is no simulation profile {profile!r}; choose one of {', '.join(BONE_PROFILES)}")
    result: list[Case] = []
    for centre, numbers in sorted(diagnosis_mix(profile).items()):
        labels = np.repeat(np.arange(len(DIAGNOSES)), numbers)
        np.random.default_rng([seed, *b"bone", *centre.encode()]).shuffle(labels)
        result += [Case(len(result) + i, f"{centre}_{i + 1:04d}", centre, int(label)) for i, label in enumerate(labels)]
    return result


def diagnosis_mix(profile: str) -> dict[str, np.ndarray]:
    """Return for every centre the number of patients with each diagnosis.

    Centres share a profile's patients in proportion to the square root of their size in `centres.csv`, so that none is
    left with a handful, and their shares of the diagnoses differ by fixed random factors.
    """
    mix = {}
    for external, total in zip((False, True), BONE_PROFILES[profile], strict=True):
        group = [camera for camera in load_cameras().values() if camera.external == external]
        sizes = apportion(np.sqrt([float(sum(camera.patients.values())) for camera in group]), total)
        for camera, size in zip(group, sizes, strict=True):
            tilt = np.random.default_rng([*b"bone", *camera.centre.encode()]).normal(0, TILT, len(DIAGNOSES))
            mix[camera.centre] = apportion(SHARES * np.exp(tilt), int(size))
    return mix
