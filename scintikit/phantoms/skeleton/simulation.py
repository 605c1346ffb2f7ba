"""Make a dataset of simulated whole-body bone scans."""

from __future__ import annotations

import hashlib
import os
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from scintikit import phantoms
from scintikit.data import DatasetWriter, split_patients
from scintikit.dicom import write_scintigram
from scintikit.errors import ConfigError
from scintikit.files import home
from scintikit.phantoms.cameras import load_cameras
from scintikit.phantoms.profiles import Case
from scintikit.phantoms.simulation import NOTICE, VALIDATION, _each, _files
from scintikit.phantoms.skeleton.cameras import FIELD_MM, PROTOCOLS, ROWS, VIEWS, WholeBody, pixel_mm, scan
from scintikit.phantoms.skeleton.findings import bone_findings, bone_prompt
from scintikit.phantoms.skeleton.patients import CLASSES, DIAGNOSES, BonePatient, draw_bone_patient
from scintikit.phantoms.skeleton.profiles import bone_cases


def simulate_bone(
    profile: str = "bone_demo",
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a dataset of simulated whole-body bone scans of nine cameras and return its folder.

    As `scintikit.phantoms.simulate` does for the thyroid: internal cameras give training and validation, external ones
    the test; the bytes depend on `profile`, `seed` and the version of this code alone, not on `workers`; a run that
    was killed goes on where it stopped. Labels are lists of 0/1 for metastasis and arthritis.

    Parameters
    ----------
    profile : str
        "bone_tiny" (18 internal and 9 external patients), "bone_demo" (66, 24) or "bone_paper" (1,250, 250).
    seed : int
        Not negative; another seed gives other patients.
    output : path, optional
        New folder, or one that the same call began. Default: a folder in scintikit's cache, `SCINTIKIT_HOME`.
    workers : int, optional
        Processes; default one for each CPU core.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ConfigError
        If an argument is not one of the above.
    DatasetError
        If `output` holds something else.
    """
    _check(seed, workers)
    plan = bone_cases(profile, seed)
    writer = DatasetWriter(
        output or _default_folder(profile, seed),
        name=f"bone-{profile.removeprefix('bone_')}-{seed}",
        description=f"{NOTICE}. Whole-body Tc-99m MDP bone scans of model patients on nine model cameras.",
        labels=CLASSES,
        licence="CC0-1.0",
        recipe={
            "command": "simulate", "subject": "bone", "profile": profile, "seed": seed, "generator": bone_generator(),
        },
    )  # fmt: skip
    if writer.complete:
        return writer.folder
    missing = [case for case in plan if not all(writer.has(name) for name in _files(case))]
    work = _each(partial(_write, writer.folder, profile, seed), missing, workers or os.cpu_count() or 1)
    for _ in tqdm(work, f"simulating {profile}", len(missing), unit="patient", disable=not progress):
        pass
    external = [camera.centre for camera in load_cameras().values() if camera.external]
    items = [_item(case, profile, seed) for case in plan]
    writer.finish(**split_patients(items, validation=VALIDATION, external=external, seed=seed))
    return writer.folder


def simulated_bone_dataset(profile: str = "bone_demo", seed: int = 0) -> str:
    """Return the folder of a simulated dataset in scintikit's cache; the first call makes it, others wait for it."""
    _check(seed, None)
    folder = _default_folder(profile, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        return str(simulate_bone(profile, seed, folder))


def simulate_bone_case(case: Case, seed: int) -> tuple[BonePatient, WholeBody, dict[str, Any], str]:
    """Return one case's patient, scan, findings and prompt; only `seed` and the case decide them."""
    rng = np.random.default_rng((seed, case.index))
    patient, found, text = _drawn(case, rng)
    return patient, scan(patient, case.centre, rng), found, text


@cache
def bone_generator() -> str:
    """Return the sha256 of this package's code and of what it uses of `scintikit.phantoms`."""
    digest = hashlib.sha256(phantoms.generator().encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


def _drawn(case: Case, rng: np.random.Generator) -> tuple[BonePatient, dict[str, Any], str]:
    patient = draw_bone_patient(DIAGNOSES[case.label], rng)
    found = bone_findings(patient)
    return patient, found, bone_prompt(found, rng)


def _check(seed: int, workers: int | None) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"the seed is {seed!r}; give an integer that is not negative")
    if workers is not None and workers < 1:
        raise ConfigError(f"the number of workers is {workers}; give at least 1")


def _default_folder(profile: str, seed: int) -> Path:
    return home() / "simulated" / f"{profile.replace('_', '-')}-{seed}-{bone_generator()[:8]}"


def _write(folder: Path, profile: str, seed: int, case: Case) -> None:
    """Write one case's scan and mask; each file is whole or absent."""
    _, body, _, _ = simulate_bone_case(case, seed)
    pixel, velocity = pixel_mm(load_cameras()[case.centre]), PROTOCOLS[case.centre].mm_per_s
    shared: dict[str, Any] = {
        "spacing_mm": (pixel, pixel),
        "views": VIEWS,
        "uid_seed": f"{bone_generator()}/{profile}/{seed}/{case.index}",
        "body_part": "WHOLEBODY",
        "description": NOTICE,
        "image_type": "WHOLE BODY",
    }
    image, mask = (folder / name for name in _files(case))
    length = ROWS * pixel
    seconds = (length + FIELD_MM) / velocity  # the table also moves the field in and out
    write_scintigram(image, body.counts, acquisition_s=seconds, scan_mm_per_s=velocity, scan_length_mm=length, **shared)
    write_scintigram(mask, body.mask, **shared)


def _item(case: Case, profile: str, seed: int) -> dict[str, Any]:
    _, found, text = _drawn(case, np.random.default_rng((seed, case.index)))
    image, mask = _files(case)
    return {
        "image": image,
        "label": list(DIAGNOSES[case.label]),
        "mask": mask,
        "prompt": text,
        # The same text would mean the same person in another profile or seed.
        "patient": f"{profile}-{seed}-{case.name}",
        "centre": case.centre,
        "origin": {
            "kind": "simulated",
            "generator": bone_generator(),
            "seed": seed,
            "settings": {"profile": profile, "index": case.index, "findings": found},
        },
    }
