"""Verify a bundle: first what can be told without running it, then the bundle at work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scintikit.errors import PackageError
from scintikit.files import file_sha256
from scintikit.packing import trial
from scintikit.packing.archive import unpack_zip
from scintikit.packing.checks import STATIC, metadata_of, pins
from scintikit.packing.manifest import check_hashes

#: A trial takes a minute on two cores.
TIME_LIMIT_S = 1800.0


@dataclass(frozen=True)
class Result:
    """One check: passed, failed, or, with None, not made for the reason that `detail` gives."""

    name: str
    passed: bool | None
    detail: str


def verify_bundle(
    bundle: str | Path,
    install: bool = False,
    run: bool = True,
    sha256: str | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> list[Result]:
    """Check a packed bundle, as the model zoo does and further.

    Nothing of the bundle is evaluated before its names and hashes are found to be right, and nothing is run if a check
    that needs no running fails.

    Parameters
    ----------
    bundle
        A zip, or a folder into which one was unpacked.
    install
        Run it in a new environment with the packages of its metadata alone.
    run
        Run it at all.
    sha256
        What the author says the zip's SHA-256 is. Without it, hashes tell that the bundle is whole, not whose it is.
    time_limit_s
        A bundle that has not done its trial after so many seconds has failed it.

    Returns
    -------
    list of Result
        One for each check; those not reached have `passed` None.
    """
    results: list[Result] = []
    with _folder_of(Path(bundle), sha256, results) as folder:
        if folder is not None:
            results += _statically(folder)
            sound = passed(results)
            results += _at_work(folder, install, time_limit_s) if run and sound else []
    done = {result.name for result in results}
    why = "not asked for" if passed(results) else "an earlier check failed"
    return results + [Result(name, None, why) for name in _names(install) if name not in done]


def to_json(bundle: str | Path, results: list[Result]) -> dict[str, Any]:
    """Return the results for a file."""
    return {"bundle": Path(bundle).name, "passed": passed(results), "checks": [asdict(result) for result in results]}


def passed(results: list[Result]) -> bool:
    """Tell whether nothing failed."""
    return all(result.passed is not False for result in results)


def _names(install: bool) -> list[str]:
    return ["archive", "hashes", *STATIC, *(["pinned installs"] if install else []), *trial.CHECKS]


@contextmanager
def _folder_of(bundle: Path, sha256: str | None, results: list[Result]) -> Iterator[Path | None]:
    """Give the bundle's folder, a zip's in a temporary place, or None if names or hashes are wrong."""
    with tempfile.TemporaryDirectory(prefix="scintikit_verify_") as scratch:
        try:
            if bundle.is_dir() and sha256 is not None:
                raise PackageError(f"{bundle.name} is a folder, and the SHA-256 is a zip's; give the zip")
            if bundle.is_dir():
                folder = bundle.resolve()
                results.append(Result("archive", None, "a folder is given"))
            elif bundle.is_file():
                if sha256 is not None and (found := file_sha256(bundle)) != sha256.lower():
                    raise PackageError(f"the SHA-256 of {bundle.name} is {found}, not the one given")
                folder = unpack_zip(bundle, Path(scratch).resolve())
                results.append(Result("archive", True, "every name stays inside"))
            else:
                raise PackageError(f"there is no bundle {bundle}")
        except PackageError as error:
            results.append(Result("archive", False, str(error)))
            yield None
            return
        try:
            manifest = check_hashes(folder, fresh=not bundle.is_dir())
            results.append(Result("hashes", True, f"{len(manifest['files'])} files as packed"))
        except PackageError as error:
            results.append(Result("hashes", False, str(error)))
            yield None
            return
        yield folder


def _statically(folder: Path) -> Iterator[Result]:
    for name, check in STATIC.items():
        try:
            yield Result(name, True, check(folder))
        except PackageError as error:
            yield Result(name, False, str(error))
        except Exception as error:  # of whatever reads what is damaged or was not written by `pack`
            yield Result(name, False, f"cannot be checked, something is damaged: {type(error).__name__}: {error}"[:500])


def _at_work(folder: Path, install: bool, time_limit_s: float) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="scintikit_environment_") as scratch:
        python = sys.executable
        results = []
        if install:
            python = str(Path(scratch) / "venv" / "bin" / "python")
            results = [_install(folder, Path(scratch) / "venv")]
            if not results[0].passed:
                return results
        file = Path(scratch) / "results.json"
        # Compiled files that lie in the bundle's folder were not checked and must not be used.
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONPYCACHEPREFIX": str(Path(scratch) / "cache")}
        environment.pop("PYTHONOPTIMIZE", None)  # it would leave out what the trial asserts
        command = [python, trial.__file__, str(folder), str(file)]
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        try:
            done = subprocess.run(command, env=environment, cwd=scratch, timeout=time_limit_s, **options)
            why = f"the process ended with {done.returncode}: {done.stderr[-500:]}"
        except subprocess.TimeoutExpired:
            why = f"not done after {time_limit_s:g} s; --time_limit_s waits longer"
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name in trial.CHECKS:
        results.append(Result(name, **found.get(name, {"passed": False, "detail": why})))
    return results


def _install(folder: Path, place: Path) -> Result:
    """Make an environment of the packages that the metadata pins; torch comes first and decides on CPU or CUDA."""
    venv.create(place, with_pip=True)
    wanted = [f"{name}=={version}" for name, version in pins(metadata_of(folder)).items()]
    for packages in (wanted[:1], wanted):
        done = subprocess.run(
            [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return Result("pinned installs", False, done.stderr.strip()[-500:])
    return Result("pinned installs", True, f"{len(wanted)} packages in a new environment")
