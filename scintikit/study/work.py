"""Pieces of work that survive being stopped: each in a folder named by the hash of its inputs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

from scintikit.environment import machine, versions
from scintikit.errors import ScintikitError
from scintikit.files import write_json

#: The checkout: commands run there, and the code that counts lies there.
ROOT = Path(__file__).resolve().parents[2]
CODE_SUFFIXES = (".py", ".json", ".csv")
LINES_OF_ERROR = 12
#: In a piece's folder once it is done.
DONE = "done.json"
WAIT = 0.5  # seconds between two looks at a lock
#: What extras bring, and what draws or measures beneath the libraries that every report names.
FURTHER_PACKAGES = ("diffusers", "transformers", "scikit-learn", "scipy", "pillow")
#: How a command ends that was asked to stop; it will go on the next time.
STOPPED = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT)


@dataclass(frozen=True)
class Given:
    """A file or folder from outside the study, known by the hash of its content; `prefix` goes before its path."""

    path: str
    sha256: str
    prefix: str = ""


@dataclass(frozen=True)
class Made:
    """A path in the folder of a piece of work.

    Attributes
    ----------
    work
        The piece; None: the one that has it among its own arguments.
    path
        In its folder.
    prefix
        Goes before the path in the command.
    fillers
        Further pieces that put files there; what they put there is decided by the inputs of `work`, however it is
        divided among them.
    """

    work: Work | None = None
    path: str = ""
    prefix: str = ""
    fillers: tuple[Work, ...] = ()


Argument = str | int | float | Given | Made


@dataclass(frozen=True)
class Command:
    """One `python -m tools VERB ...`.

    Attributes
    ----------
    arguments
        Verb, positional arguments and options.
    code
        Folders and files of the checkout that decide what comes out.
    again
        Further arguments if `checkpoint` is there from a run that was stopped.
    checkpoint
        A path in the folder.
    program
        What Python runs.
    """

    arguments: tuple[Argument, ...]
    code: tuple[str, ...]
    again: tuple[str, ...] = ()
    checkpoint: str = ""
    program: tuple[str, ...] = ("-m", "tools")


@dataclass(frozen=True, eq=False)
class Work:
    """A piece of work: commands that leave their results in its folder.

    Its key is the hash of everything that decides them: the commands, the code they use, the versions of the libraries,
    the content of what is given and, by their keys, the pieces it needs. What has the same key is the same work,
    whatever it is called.

    Attributes
    ----------
    kind, name
        For people: "train", "O+FM, seed 2".
    commands
        Run one after the other; each can be run again after it was stopped.
    gpu
        Whether a GPU would be used.
    inputs
        Of a piece without commands, a folder that others fill: what decides its content.
    """

    kind: str
    name: str
    commands: tuple[Command, ...]
    gpu: bool = False
    inputs: tuple[Argument, ...] = ()

    @property
    def arguments(self) -> list[Argument]:
        """Everything that it is told."""
        return [*self.inputs, *(argument for command in self.commands for argument in command.arguments)]

    @cached_property
    def needs(self) -> tuple[Work, ...]:
        """The pieces that must be done before."""
        made = [argument for argument in self.arguments if isinstance(argument, Made)]
        return tuple(dict.fromkeys(work for a in made for work in (a.work, *a.fillers) if work is not None))

    @cached_property
    def key(self) -> str:
        """Hash of the inputs, 16 hexadecimal digits."""
        commands = [
            [command.program, [_symbol(a) for a in command.arguments], [code_sha256(path) for path in command.code]]
            for command in self.commands
        ]
        content = json.dumps([self.kind, commands, [_symbol(a) for a in self.inputs], _libraries()])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of the folder, relative to that of all work."""
        return f"{self.kind}-{self.key}"


def _symbol(argument: Argument) -> Any:
    """Return what stands for an argument in the hash: content instead of places."""
    if isinstance(argument, Given):
        return ["given", argument.sha256, argument.prefix]
    if isinstance(argument, Made):
        return ["made", argument.work.key if argument.work else None, argument.path, argument.prefix]
    return argument


@lru_cache
def _libraries() -> dict[str, str]:
    found = {name: number for name, number in versions().items() if name != "scintikit"}  # its code is hashed
    for name in FURTHER_PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@lru_cache
def code_sha256(path: str) -> str:
    """Return the hash of a file of the checkout, or of all source files below a folder, when it was first asked for."""
    return _code_sha256(path)


def _code_sha256(path: str) -> str:
    whole = ROOT / path
    files = sorted(file for file in whole.rglob("*") if file.suffix in CODE_SUFFIXES) if whole.is_dir() else [whole]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            # A checkout on Windows may have other line ends.
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0")
            digest.update(file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


class WorkFolder:
    """The folder of a piece of work on disk: what is to be done, whether it is done, failed or going on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log.txt"

    @property
    def done(self) -> dict[str, Any] | None:
        """How it went: `seconds` since it last began, and the `machine`; None if it is not done."""
        return _read(self.path / DONE)

    @property
    def failed(self) -> str | None:
        """Why it failed, the last time."""
        content = _read(self.path / "failed.json")
        return None if content is None else content["error"]

    @property
    def running(self) -> bool:
        """Whether some process is at it."""
        if not (self.path / "lock").is_file():
            return False
        with (self.path / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def prepare(self, work: Work, root: Path) -> None:
        """Write what is to be done, `work.json`, so that any process that sees the folder can do it."""

        def text(argument: Argument) -> str:
            if isinstance(argument, Given):
                return argument.prefix + argument.path
            if isinstance(argument, Made):
                folder = root / argument.work.folder if argument.work else self.path
                return argument.prefix + str(folder / argument.path)
            return str(argument)

        commands = [
            {
                "arguments": [*c.program, *map(text, c.arguments)],
                "again": list(c.again),
                "checkpoint": c.checkpoint,
                "code": {path: code_sha256(path) for path in c.code},
            }
            for c in work.commands
        ]
        write_json(self.path / "work.json", {"kind": work.kind, "name": work.name, "commands": commands})

    def execute(self, threads: int | None = None, gpu: str | None = None, stop: Event | None = None) -> None:
        """Do the work, unless that was done; wait if another process is at it.

        Parameters
        ----------
        threads
            Of the processor that it may use; None: as many as there are.
        gpu
            The one that it may use, as CUDA_VISIBLE_DEVICES names it; None: all that this process sees.
        stop
            Once it is set, nobody waits for another process any longer.

        Raises
        ------
        ScintikitError
            If a command failed; the message has the end of its log. If the code is not, or while the command ran did
            not stay, that which the folder is named by.
        """
        with self._lock(stop or Event()) as lock:
            if self.done is not None:
                return
            (self.path / "failed.json").unlink(missing_ok=True)
            start = time.monotonic()
            for command in json.loads((self.path / "work.json").read_text(encoding="utf-8"))["commands"]:
                self._call(command, lock, _environment(threads, gpu))
            seconds = round(time.monotonic() - start, 1)
            used = machine() | ({} if threads is None else {"threads": threads})
            write_json(self.path / DONE, {"seconds": seconds, "machine": used})

    def _call(self, command: dict[str, Any], lock: int, environment: dict[str, str]) -> None:
        arguments = [sys.executable, *command["arguments"]]
        if command["checkpoint"] and (self.path / command["checkpoint"]).exists():
            arguments += command["again"]
        self._check_code(command["code"])
        with self.log.open("ab") as log:
            # The command inherits the lock: if this process is killed, nobody starts the same work beside it.
            result = subprocess.run(
                arguments, cwd=ROOT, env=environment, stdout=log, stderr=log, pass_fds=(lock,), check=False
            )
        if result.returncode in STOPPED:
            raise ScintikitError("stopped")
        if result.returncode:
            killed = "; killed, perhaps because the memory was full" if result.returncode == -signal.SIGKILL else ""
            # Without the place of the study: the report quotes it.
            place = f"{self.path.name}/{self.log.name}"
            self._fail(f"{self._end_of_log()}\n(exit code {result.returncode}{killed}; all of it: {place})")
        self._check_code(command["code"])

    def _check_code(self, expected: dict[str, str]) -> None:
        """Make sure that what is made here is made by the code that the folder is named by."""
        changed = [path for path, sha256 in expected.items() if _code_sha256(path) != sha256]
        if changed:
            self._fail(
                f"{', '.join(changed)} changed after the study began; start the study again, which keeps what the "
                "change does not touch, or put the code back"
            )

    def _fail(self, error: str) -> NoReturn:
        write_json(self.path / "failed.json", {"error": error})
        raise ScintikitError(error)

    @contextmanager
    def _lock(self, stop: Event) -> Iterator[int]:
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a") as file:
            while not _is_free(file.fileno()):
                if stop.wait(WAIT):
                    raise ScintikitError("stopped")
            yield file.fileno()

    def _end_of_log(self) -> str:
        with self.log.open(encoding="utf-8", errors="replace") as file:
            lines = deque((line.rsplit("\r", 1)[-1].rstrip() for line in file), LINES_OF_ERROR)
        errors = [line for line in lines if line.startswith("error:")]
        return errors[-1] if errors else "\n".join(line for line in lines if line)


def _is_free(lock: int) -> bool:
    """Take a lock, if no other process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _environment(threads: int | None, gpu: str | None) -> dict[str, str]:
    environment = dict(os.environ)
    if threads is not None:
        # PASSIVE: waiting threads must not take the processor from the work beside.
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        environment |= {"OMP_WAIT_POLICY": "PASSIVE"}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a file says; None if it is absent or, after a crash of the disk, is not whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def in_order(works: Sequence[Work]) -> list[Work]:
    """Return works and all they need, each once by its key, none before what it needs."""
    found: dict[str, Work] = {}

    def add(work: Work) -> None:
        if work.key not in found:
            for need in work.needs:
                add(need)
            found[work.key] = work

    for work in works:
        add(work)
    return list(found.values())
