"""Make a dataset of simulated scintigrams."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from scintikit.data import DatasetWriter, split_patients
from scintikit.dicom import write_scintigram
from scintikit.errors import ConfigError
from scintikit.files import home
from scintikit.phantoms.cameras import Exposure, expose, load_cameras
from scintikit.phantoms.findings import findings, prompt
from scintikit.phantoms.patients import CLASSES, Patient, draw_patient
from scintikit.phantoms.profiles import Case, cases

NOTICE = "Simulated, not for clinical use"
VALIDATION = 0.2  # of the patients of the internal centres


def simulate(
    profile: str = "demo",
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    *,
    subject: str = "thyroid",
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a dataset of simulated anterior thyroid scintigrams of nine cameras and return its folder.

    Six cameras give training and validation (by patient, stratified by class and centre), the three external ones the
    test. The bytes depend on `profile`, `seed` and the version of this code alone, not on `workers`, and a run that
    was killed goes on where it stopped.

    Parameters
    ----------
    profile : str
        "tiny" (48 internal and 24 external patients), "demo" (800, 200) or "paper" (2,555, 399).
    seed : int
        Not negative; another seed gives other patients.
    output : path, optional
        New folder, or one that the same call began. Default: a folder in scintikit's cache, `SCINTIKIT_HOME`.
    subject : str
        "thyroid".
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
    _check(seed, subject, workers)
    plan = cases(profile, seed)
    writer = DatasetWriter(
        output or _default_folder(profile, seed),
        name=f"thyroid-{profile}-{seed}",
        description=f"{NOTICE}. Anterior pertechnetate thyroid scintigrams of model patients on nine model cameras.",
        labels=CLASSES,
        licence="CC0-1.0",
        recipe={"command": "simulate", "subject": subject, "profile": profile, "seed": seed, "generator": generator()},
    )
    if writer.complete:
        return writer.folder
    missing = [case for case in plan if not all(writer.has(name) for name in _files(case))]
    work = _each(partial(_write, writer.folder, profile, seed), missing, workers or os.cpu_count() or 1)
    for _ in tqdm(work, f"simulating {profile}", len(missing), unit="image", disable=not progress):
        pass
    external = [camera.centre for camera in load_cameras().values() if camera.external]
    items = [_item(case, profile, seed) for case in plan]
    writer.finish(**split_patients(items, validation=VALIDATION, external=external, seed=seed))
    return writer.folder


def simulated_dataset(profile: str = "demo", seed: int = 0) -> str:
    """Return the folder of a simulated dataset in scintikit's cache; the first call makes it.

    Processes that ask for the same one at the same time (the ranks of a distributed run) wait for the first.
    """
    _check(seed, "thyroid", None)
    folder = _default_folder(profile, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        return str(simulate(profile, seed, folder))


def simulate_case(case: Case, seed: int) -> tuple[Patient, Exposure, dict[str, Any], str]:
    """Return one case's patient, acquisition, findings and prompt; only `seed` and the case decide them."""
    rng = np.random.default_rng((seed, case.index))
    patient = draw_patient(case.label, rng)
    found = findings(patient)
    text = prompt(found, rng)
    return patient, expose(patient, load_cameras()[case.centre], rng), found, text


@cache
def generator() -> str:
    """Return the sha256 of this package's code and table: which simulator made a picture."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.*")):
        if path.suffix in {".py", ".csv"}:
            # A checkout on Windows may have other line ends.
            digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


def _check(seed: int, subject: str, workers: int | None) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"the seed is {seed!r}; give an integer that is not negative")
    if subject != "thyroid":
        raise ConfigError(f"there is no simulated subject {subject!r}; there is 'thyroid'")
    if workers is not None and workers < 1:
        raise ConfigError(f"the number of workers is {workers}; give at least 1")


def _default_folder(profile: str, seed: int) -> Path:
    # Another version of the code makes other pictures and gets a folder of its own.
    return home() / "simulated" / f"thyroid-{profile}-{seed}-{generator()[:8]}"


def _files(case: Case) -> tuple[str, str]:
    return f"images/{case.name}.dcm", f"masks/{case.name}.nii.gz"


def _each(work: partial[None], missing: list[Case], workers: int) -> Iterator[None]:
    """Do the work, in this process if one is enough."""
    if workers == 1 or len(missing) < 50:
        yield from map(work, missing)
        return
    # A forked worker starts at once; elsewhere it has to import everything first.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(work, missing, chunksize=8)


def _write(folder: Path, profile: str, seed: int, case: Case) -> None:
    """Write one case's picture and mask; each file is whole or absent."""
    _, exposure, _, _ = simulate_case(case, seed)
    pixel = load_cameras()[case.centre].pixel_mm
    shared: dict[str, Any] = {
        "spacing_mm": (pixel, pixel),
        "views": ("ANT",),
        "uid_seed": f"{generator()}/{profile}/{seed}/{case.index}",
        "body_part": "THYROID",
        "description": NOTICE,
    }
    image, mask = (folder / name for name in _files(case))
    write_scintigram(image, exposure.counts[None], acquisition_s=exposure.seconds, **shared)
    write_scintigram(mask, exposure.mask[None], **shared)


def _item(case: Case, profile: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng((seed, case.index))
    found = findings(draw_patient(case.label, rng))
    image, mask = _files(case)
    return {
        "image": image,
        "label": case.label,
        "mask": mask,
        "prompt": prompt(found, rng),
        # The same text would mean the same person in another profile or seed.
        "patient": f"{profile}-{seed}-{case.name}",
        "centre": case.centre,
        "origin": {
            "kind": "simulated",
            "generator": generator(),
            "seed": seed,
            "settings": {"profile": profile, "index": case.index, "findings": found},
        },
    }
