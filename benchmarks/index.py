"""Measure how fast `tools index` reads headers: files/s on one core, from the page cache.

    python -m benchmarks.index --output FILE.json [--files 4000]

The usual way is pydicom's `dcmread(stop_before_pixels=True)` and the few attributes that an index needs; ours also
checks that the file is a usable scintigram and tells its views. Both take turns in one process; the best round counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from benchmarks.common import machine, versions
from scintikit.data.tree import list_files, scan_tree
from scintikit.dicom import write_scintigram
from scintikit.files import write_json

TARGET = 2000.0  # files/s on one core
FOLDERS = 50


def make_tree(root: Path, files: int) -> None:
    """Write native two-view 128 x 128 files with a patient's data, as a camera does, in several folders."""
    counts = np.random.default_rng(0).poisson(20, (2, 128, 128)).astype(np.uint16)
    made = root / "made.dcm"
    write_scintigram(made, counts, spacing_mm=(2, 2), views=("ANT", "POST"), uid_seed="index", synthetic=False)
    dataset: Any = pydicom.dcmread(made)
    made.unlink()
    dataset.PatientName, dataset.InstitutionName = "Benchmark^Nobody", "Nowhere"
    for number in range(files):
        folder = root / f"{number % FOLDERS:03d}"
        folder.mkdir(exist_ok=True)
        dataset.PatientID = f"{number // 2}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{number + 1}"
        dataset.save_as(folder / f"{number}.dcm")


def ours(root: Path) -> int:
    """Scan the tree with one worker; return how many pictures it found."""
    return len(scan_tree(root, list_files(root)[0], workers=1, progress=False)[0])


def usual(root: Path) -> int:
    """Read every header with pydicom; return how many have the modality NM."""
    found = 0
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        facts = (header.SOPInstanceUID, header.PatientID, header.get("InstitutionName"), header.Rows, header.Columns)
        found += header.Modality == "NM" and all(facts)
    return found


def measure(files: int, rounds: int) -> dict[str, Any]:
    """Let both take turns on the same files."""
    seconds: dict[Callable[[Path], int], list[tuple[float, float]]] = {ours: [], usual: []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_tree(root, files)
        for _ in range(rounds):
            for way, times in seconds.items():
                wall, cpu = time.perf_counter(), time.process_time()
                if way(root) != files:
                    raise RuntimeError(f"{way.__name__} did not find all files")
                times.append((time.perf_counter() - wall, time.process_time() - cpu))
    rates = {
        way.__name__: {
            "files_per_second": files / min(wall for wall, _ in times),
            "files_per_cpu_second": files / min(cpu for _, cpu in times),
        }
        for way, times in seconds.items()
    }
    return {
        **rates,
        "ratio": rates["ours"]["files_per_cpu_second"] / rates["usual"]["files_per_cpu_second"],
        "target_files_per_second_per_core": TARGET,
        "machine": machine(),
        "versions": versions(),
        "settings": {"files": files, "rounds": rounds, "picture": "native, 2 x 128 x 128"},
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    arguments = parser.parse_args()
    result = measure(arguments.files, arguments.rounds)
    for way in ("ours", "usual"):
        print(f"{way:<6}{result[way]['files_per_second']:>8,.0f} files/s on one core")
    print(f"ratio {result['ratio']:.2f}; target {TARGET:,.0f} files/s")
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
