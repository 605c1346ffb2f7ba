"""Studies per second of a node: from an archive that holds them to the SR and SC of each in it.

    python -m benchmarks.node --models MODELS --output benchmarks/results/node.json [--studies 60]

Needs Orthanc. MODELS is a folder of bundles with weights, of which `thyroid_cls` is used on simulated scintigrams.

- ours: the watcher as a node runs it, warm: two processes compute while threads download and store
- one_process: the same, computing in the watcher's own process
- usual: a process for each study, as a hook of the archive that calls a command starts it; two studies

`ratio` is ours / usual in studies/s. `computing_s` is the application's part of a study; `cpu_s` the processor time of
the watcher's own process, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import machine, versions
from deploy.orthanc.__main__ import APPLICATION
from deploy.orthanc.application import load
from deploy.orthanc.archive import ArchiveAway
from deploy.orthanc.ledger import Ledger
from deploy.orthanc.server import Node
from deploy.orthanc.watcher import Application, Settings, Watcher
from deploy.orthanc.workers import Workers
from scintikit.data import load_dataset
from scintikit.files import write_json
from scintikit.phantoms import simulated_dataset

COLD = """
import sys
from pathlib import Path
from deploy.orthanc.__main__ import APPLICATION
from deploy.orthanc.application import load
load(Path(sys.argv[1]))([Path(sys.argv[2])], Path(sys.argv[3]))
"""


@contextlib.contextmanager
def filled_node(folder: Path, files: Sequence[Path]) -> Iterator[Node]:
    """Run Orthanc on free ports with the files in it, each a study that is stable."""
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    node = Node(folder, *ports, stable_s=1)
    node.prepare()
    command, environment = node.orthanc()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        archive = node.archive()
        while True:
            with contextlib.suppress(ArchiveAway):
                archive.last_change()
                break
            time.sleep(0.1)
        for file in files:
            archive.store(file)
        time.sleep(3)
        yield node
    finally:
        process.terminate()
        process.wait()


def watch(node: Node, application: Application, number: int, settings: Settings) -> dict[str, float]:
    """Let a watcher handle all studies; return its speed."""
    computing = 0.0

    def timed(files: Sequence[Path], output: Path) -> Any:
        nonlocal computing
        start = time.perf_counter()
        outcome = application(files, output)
        computing += time.perf_counter() - start
        return outcome

    stop = threading.Event()

    def work() -> None:
        ledger = Ledger(node.ledger)
        Watcher(node.archive(), ledger, timed, node.folder / "work", settings).run(stop)

    thread = threading.Thread(target=work)
    ledger = Ledger(node.ledger)
    start, used = time.perf_counter(), time.process_time()
    thread.start()
    while ledger.connection.execute("SELECT count(*) FROM studies WHERE state = 'done'").fetchone()[0] < number:
        time.sleep(0.02)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    stop.set()
    thread.join()
    return {"studies_per_second": number / seconds, "computing_s": computing / number, "cpu_s": used / number}


def main() -> None:
    """Measure and write the JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", required=True)
    arguments.add_argument("--output", required=True)
    arguments.add_argument("--studies", type=int, default=60)
    given = arguments.parse_args()
    dataset = load_dataset(simulated_dataset("tiny"))
    files = [dataset.root / item["image"] for items in dataset.splits.values() for item in items][: given.studies]
    alone = load(Path(given.models))
    workers = Workers(APPLICATION, Path(given.models), 2)
    ways: dict[str, tuple[Application, Settings]] = {
        "ours": (workers, Settings(stable_s=1, computing=2)),
        "one_process": (alone, Settings(stable_s=1)),
    }
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with ThreadPoolExecutor(2) as pool:  # the first studies of each process are slow
            list(pool.map(lambda number: workers(files[:1], place / f"warm{number}"), range(8)))
        alone(files[:1], place / "warm")
        for name, (application, settings) in ways.items():
            with filled_node(place / name, files) as node:
                result[name] = watch(node, application, len(files), settings) | {"load": os.getloadavg()[0]}
            print(name, result[name], flush=True)
        workers.close()
        start = time.perf_counter()
        for file in files[:2]:
            command = [sys.executable, "-c", COLD, given.models, str(file), str(place / file.stem)]
            subprocess.run(command, check=True, capture_output=True)
        result["usual"] = {"studies_per_second": 2 / (time.perf_counter() - start)}
    result["ratio"] = result["ours"]["studies_per_second"] / result["usual"]["studies_per_second"]
    settings = {"studies": len(files)}
    write_json(given.output, result | {"settings": settings, "machine": machine(), "versions": versions()})
    print(f"ours {result['ours']['studies_per_second']:.1f} studies/s, ours / usual {result['ratio']:.1f}")


if __name__ == "__main__":
    main()
