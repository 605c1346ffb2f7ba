"""A node that works all night: `python -m deploy.orthanc [start|watch|retry] --folder NODE`. Research use only.

- start: Orthanc, the watcher and the status page, until Ctrl-C or SIGTERM; what ends is started again
- watch: the watcher alone, as `start` runs it
- retry: let studies that were set aside be tried again
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from deploy.orthanc.ledger import Ledger
from deploy.orthanc.server import (
    Node,
    NodeError,
    Program,
    check_ports,
    default_folder,
    prepare_ledger,
    stop_on_signals,
    supervise,
    watcher_command,
)
from deploy.orthanc.status import serve
from deploy.orthanc.watcher import Settings, Watcher
from deploy.orthanc.workers import Workers
from scintikit.errors import ScintikitError

APPLICATION = "deploy.orthanc.application:load"


def start(node: Node, given: argparse.Namespace) -> None:
    """Run everything until told to stop."""
    node.prepare()
    with _lock(node, "node"):
        check_ports(node)
        prepare_ledger(node)  # the page reads it from the start
        command, environment = node.orthanc()
        options = ["--application", given.application, "--models", str(given.models), "--workers", str(given.workers)]
        programs = [
            Program("Orthanc", command, environment),
            Program("watcher", watcher_command(node, options)),
        ]

        def states() -> dict[str, str]:
            return {program.name: program.state for program in programs}

        stop = stop_on_signals()
        with serve(node.ledger, states, node.status_port) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            print(
                f"status http://127.0.0.1:{node.status_port}   Orthanc {node.url}   C-STORE 127.0.0.1:{node.dicom_port}"
                f"   user scintikit, password in {node.folder / 'password'}   Ctrl-C ends it",
                flush=True,
            )
            supervise(programs, stop)
            server.shutdown()


def watch(node: Node, given: argparse.Namespace) -> None:
    """Run the watcher until told to stop."""
    stop = stop_on_signals()
    with _lock(node, "watcher"):
        archive = node.archive()
        workers = Workers(given.application, given.models, given.workers)
        ledger = Ledger(node.ledger)
        settings = Settings(stable_s=node.stable_s, ahead=3 * given.workers, computing=given.workers)
        Watcher(archive, ledger, workers, node.folder / "work", settings).run(stop)
        ledger.close()
        workers.close()


def retry(node: Node, given: argparse.Namespace) -> None:
    """Let everything that was set aside be tried again."""
    node.password()  # or it is no node
    ledger = Ledger(node.ledger)
    print(f"{ledger.retry_failed()} studies will be tried again")
    ledger.close()


def _lock(node: Node, name: str) -> FileLock:
    lock = FileLock(node.folder / f"{name}.lock", timeout=10)
    try:
        return lock.acquire().lock
    except Timeout as error:
        raise NodeError(f"a {name} already works in {node.folder}") from error


def main() -> None:
    """Read the command line; errors raised on purpose end in one clear line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="deploy.orthanc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = {"start": start, "watch": watch, "retry": retry}
    parser.add_argument("task", nargs="?", default="start", choices=tasks)
    parser.add_argument("--folder", type=Path, default=default_folder(), help="of the node (%(default)s)")
    parser.add_argument("--models", type=Path, default=Path("bundles"), help="folder of bundles with weights")
    parser.add_argument("--http-port", type=int, default=Node.http_port)
    parser.add_argument("--dicom-port", type=int, default=Node.dicom_port)
    parser.add_argument("--status-port", type=int, default=Node.status_port)
    parser.add_argument("--stable-s", type=int, default=Node.stable_s, help="quiet time after which a study is whole")
    parser.add_argument("--application", default=APPLICATION, help="module:function that makes the application")
    parser.add_argument(
        "--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes with models in memory (%(default)s)"
    )
    given = parser.parse_args()
    folder = given.folder.expanduser().resolve()
    node = Node(folder, given.http_port, given.dicom_port, given.status_port, given.stable_s)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        tasks[given.task](node, given)
    except ScintikitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
