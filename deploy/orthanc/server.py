"""A folder with everything a node keeps, and the programs that run in it."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from deploy.orthanc.archive import Archive
from deploy.orthanc.ledger import Ledger
from scintikit.errors import ScintikitError

logger = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
USER = "scintikit"
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0


class NodeError(ScintikitError):
    """The node cannot be set up; the message says what is missing."""


def default_folder() -> Path:
    """Return `SCINTIKIT_NODE` if set, else a folder among the user's data (not in the cache: it holds an archive)."""
    return Path(os.environ.get("SCINTIKIT_NODE") or platformdirs.user_data_path("scintikit") / "node")


@dataclass(frozen=True)
class Node:
    """Where a node keeps its things and where it listens, on 127.0.0.1 only.

    Parameters
    ----------
    folder
        Holds `archive/` (Orthanc's), `ledger.sqlite`, `password` and `work/`; readable by its owner alone.
    http_port, dicom_port, status_port
        Of Orthanc's REST API, DICOMweb and pages; of its C-STORE; of the status page.
    stable_s
        A study is complete if nothing of it came for so many s.
    """

    folder: Path
    http_port: int = 8042
    dicom_port: int = 4242
    status_port: int = 8044
    stable_s: int = 60

    @property
    def url(self) -> str:
        """Orthanc's address."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.folder / "ledger.sqlite"

    def prepare(self) -> None:
        """Make the folder and the password where there are none.

        Raises
        ------
        NodeError
            If `loopback.so` could not be preloaded from the folder: Orthanc would listen on all addresses.
        """
        if re.search(r"[\s:]", str(self.folder)):  # separators of LD_PRELOAD, which nothing escapes
            raise NodeError(f"{self.folder} has a blank or colon in its name; choose another folder with --folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        (self.folder / "archive").mkdir(exist_ok=True)
        file = self.folder / "password"
        if not file.exists():
            temporary = file.with_suffix(".tmp")
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as stream:
                stream.write(secrets.token_urlsafe(24) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            temporary.rename(file)

    def password(self) -> str:
        """Return the password that `prepare` made."""
        try:
            password = (self.folder / "password").read_text().strip()
        except FileNotFoundError as error:
            raise NodeError(f"{self.folder} is no node's folder: it holds no password; start the node first") from error
        except OSError as error:
            raise NodeError(f"{self.folder / 'password'} cannot be read: {error.strerror}") from error
        if not password:
            raise NodeError(f"{self.folder / 'password'} is empty; stop the node, delete the file, start it")
        return password

    def archive(self) -> Archive:
        """Return a client of this node's Orthanc."""
        return Archive(self.url, USER, self.password())

    def orthanc(self) -> tuple[list[str], dict[str, str]]:
        """Return the command that starts Orthanc, and its environment: the one place where the password is handed on.

        Raises
        ------
        NodeError
            If Orthanc or a C compiler is missing.
        """
        program = shutil.which("Orthanc", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is None:
            raise NodeError("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb")
        variables = {
            "SCINTIKIT_NODE": str(self.folder),
            "SCINTIKIT_PASSWORD": self.password(),
            "SCINTIKIT_HTTP_PORT": str(self.http_port),
            "SCINTIKIT_DICOM_PORT": str(self.dicom_port),
            "SCINTIKIT_STABLE_AGE": str(self.stable_s),
            "LD_PRELOAD": str(self._loopback()),
        }
        return [program, str(HERE / "orthanc.json")], dict(os.environ) | variables

    def _loopback(self) -> Path:
        """Compile `loopback.c`, which keeps Orthanc off other addresses than 127.0.0.1."""
        source, library = HERE / "loopback.c", self.folder / "loopback.so"
        if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
            compiler = shutil.which("cc")
            if compiler is None:
                raise NodeError("a C compiler is needed to bind Orthanc to 127.0.0.1: apt-get install gcc libc6-dev")
            temporary = library.with_suffix(".tmp")
            subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", temporary, source, "-ldl"], check=True)
            temporary.rename(library)
        return library


class Program:
    """A program that is started again whenever it ends: soon if it was killed, ever later if it gives up by itself.

    Parameters
    ----------
    name
        For messages.
    command, environment
        It gets SIGTERM should this process die, so that nothing is left behind.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.command = ["setpriv", "--pdeathsig", "TERM", "--", *command]
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.pause = 0.0
        self.ended = 0.0

    def keep(self) -> None:
        """Start it if it does not run and its pause is over."""
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None:
            code = self.process.returncode
            self.pause = SHORTEST_PAUSE_S if code < 0 else min(2 * self.pause + SHORTEST_PAUSE_S, LONGEST_PAUSE_S)
            logger.warning("%s ended with %d; starting it again in %.1f s", self.name, code, self.pause)
            self.process, self.ended = None, time.monotonic()
        if time.monotonic() - self.ended < self.pause:
            return
        self.process = subprocess.Popen(self.command, env=self.environment, stdin=subprocess.DEVNULL)

    @property
    def state(self) -> str:
        """`running` or `starting`."""
        return "running" if self.process is not None and self.process.poll() is None else "starting"

    def stop(self) -> None:
        """End it, and wait until it has."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def supervise(programs: Sequence[Program], stop: threading.Event) -> None:
    """Keep programs running until `stop` is set; then end them, the last first."""
    try:
        while not stop.wait(0.2):
            for program in programs:
                program.keep()
    finally:
        for program in reversed(programs):
            program.stop()


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def check_ports(node: Node) -> None:
    """Refuse to start where something listens already, such as the Orthanc that the Debian package starts."""
    for port in (node.http_port, node.dicom_port, node.status_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise NodeError(
                    f"port {port} is in use; another node, or Debian's own Orthanc? (systemctl disable --now orthanc)"
                ) from error


def prepare_ledger(node: Node) -> None:
    """Make the ledger; where there is no archive, nothing of one has been followed, however long its log becomes."""
    ledger = Ledger(node.ledger)
    if not (node.folder / "archive" / "index").exists():
        ledger.rewind()
    ledger.close()


def watcher_command(node: Node, arguments: Sequence[str]) -> list[str]:
    """Return the command of the watcher of this node."""
    places = ["--folder", str(node.folder), "--http-port", str(node.http_port), "--stable-s", str(node.stable_s)]
    return [sys.executable, "-m", "deploy.orthanc", "watch", *places, *arguments]
