"""Do all pieces of work of a study, as many at once as there is room for, here or on a cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from threading import Event
from typing import Any, Protocol

import torch
from tqdm import tqdm

from scintikit.errors import ConfigError, MissingExtraError
from scintikit.files import write_json
from scintikit.study.work import DONE, Work, WorkFolder, in_order

PLAN = "plan.json"
#: Memory that a training takes at most; so many workers fit.
GIB_EACH = 3.0


class Executor(Protocol):
    """Where work is done."""

    workers: int

    def submit(self, folder: Path, gpu: bool) -> Future[Any]:
        """Begin to do the work in a folder."""

    def close(self) -> None:
        """Let go of what is not begun."""


class LocalExecutor:
    """Processes on this machine.

    Parameters
    ----------
    workers
        Pieces at once; None: as many as processors and memory allow, and one for each GPU if there are any.

    Raises
    ------
    ConfigError
        If the number is none.
    """

    def __init__(self, workers: int | None = None) -> None:
        _check_workers(workers)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = workers or torch.cuda.device_count() or max(1, min(cores, int(_memory_gib() / GIB_EACH)))
        self.threads = max(1, cores // self.workers)
        self.pool = ThreadPoolExecutor(self.workers)
        self.stop = Event()
        seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        self.gpus: SimpleQueue[str | None] = SimpleQueue()
        for _, name in zip(range(self.workers), cycle(seen.split(",")), strict=False):
            self.gpus.put(name or None)

    def submit(self, folder: Path, gpu: bool) -> Future[Any]:
        """Begin to do the work in a folder."""
        return self.pool.submit(self._execute, folder)

    def _execute(self, folder: Path) -> None:
        gpu = self.gpus.get()  # each piece at once has its own
        try:
            WorkFolder(folder).execute(self.threads, gpu, self.stop)
        finally:
            self.gpus.put(gpu)

    def close(self) -> None:
        """Let go of what is not begun."""
        self.stop.set()
        self.pool.shutdown(wait=True, cancel_futures=True)


class RayExecutor:
    """Ray's cluster; its machines must see the folder of the study and this checkout at the same paths.

    A piece whose machine is lost is begun again on another one, where it goes on from its folder.

    Parameters
    ----------
    address
        Of a running cluster, as for `ray.init`; "local" starts one here.
    workers
        Processor cores that a piece takes are the cluster's cores divided by this; None: one core each.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    ConfigError
        If the number is none.
    """

    def __init__(self, address: str = "local", workers: int | None = None) -> None:
        _check_workers(workers)
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError(
                "--address needs Ray; install the extra: python -m pip install -e '.[ray]'"
            ) from error
        self.ray = ray
        self.started = not ray.is_initialized()
        if self.started:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, configure_logging=False)
        resources = ray.cluster_resources()
        cores = int(resources.get("CPU", 1))
        self.gpus = resources.get("GPU", 0) > 0
        self.threads = max(1, cores // workers) if workers else 1
        self.workers = cores // self.threads
        self.execute = ray.remote(max_retries=-1)(_execute)

    def submit(self, folder: Path, gpu: bool) -> Future[Any]:
        """Begin to do the work in a folder."""
        wanted = {"num_cpus": self.threads, "num_gpus": int(gpu and self.gpus)}
        return self.execute.options(**wanted).remote(str(folder), self.threads).future()

    def close(self) -> None:
        """Let go of what is not begun."""
        if self.started:
            self.ray.shutdown()


def _check_workers(workers: int | None) -> None:
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise ConfigError(f"workers is {workers!r}; expected how many pieces of work go on at once, 1 or more")


def _execute(folder: str, threads: int) -> None:
    WorkFolder(Path(folder)).execute(threads)


@dataclass(frozen=True)
class Outcome:
    """What became of a piece of work.

    Attributes
    ----------
    work
        The piece.
    error
        Why it failed or could not be begun; None if it is done.
    """

    work: Work
    error: str | None = None


def run_all(
    works: Sequence[Work],
    root: Path,
    executor: Executor,
    report: Callable[[Outcome], None] | None = None,
    before: Sequence[Outcome] = (),
) -> list[Outcome]:
    """Do works and all they need; what fails is told and stops only what depends on it.

    Parameters
    ----------
    works
        Pieces that are wanted.
    root
        Folder of all work.
    executor
        Where they are done.
    report
        Called with each outcome as it comes.
    before
        Outcomes of an earlier call; what failed there is not tried again.

    Returns
    -------
    list of Outcome
        One for each piece that was not among those `before`, in the order in which they ended.
    """
    ended = {outcome.work.key: outcome for outcome in before}
    waiting = {work.key: work for work in in_order(works) if work.key not in ended}
    going: dict[Future[Any], Work] = {}

    def end(outcome: Outcome) -> None:
        ended[outcome.work.key] = outcome
        if report is not None:
            report(outcome)

    while waiting or going:
        for key, work in list(waiting.items()):
            needs = [ended.get(need.key) for need in work.needs]
            failed = [need for need in needs if need is not None and need.error is not None]
            if failed:
                del waiting[key]
                end(Outcome(work, f"needs {failed[0].work.kind} {failed[0].work.name}, which failed"))
            elif None not in needs:
                del waiting[key]
                folder = WorkFolder(root / work.folder)
                if folder.done is not None:
                    end(Outcome(work))
                else:
                    for filler in _fillers(work, waiting.values()):
                        (root / filler.folder / DONE).unlink(missing_ok=True)  # what it put here is gone
                    folder.prepare(work, root)
                    going[executor.submit(folder.path, work.gpu)] = work
        if not going:
            continue  # what was blocked may block more
        for future in wait(going, return_when=FIRST_COMPLETED).done:
            work, error = going.pop(future), future.exception()
            end(Outcome(work, None if error is None else _reason(error)))
    return list(ended.values())[len(before) :]


def _fillers(folder: Work, works: Iterable[Work]) -> list[Work]:
    """Return the works that put their results into a folder which is a piece of its own, with nothing to do."""
    if folder.commands:
        return []
    parts = [part for work in works for argument in work.arguments for part in getattr(argument, "fillers", ())]
    return [part for part in dict.fromkeys(parts) if folder in part.needs]


def _reason(error: BaseException) -> str:
    """Return what a piece says about its failure; Ray wraps the error of the other process."""
    return str(getattr(error, "cause", None) or error)


def write_plan(works: Sequence[Work], root: Path) -> None:
    """Write what the study consists of, for `read_status`."""
    entries = [
        {"kind": work.kind, "name": work.name, "folder": work.folder, "needs": [need.folder for need in work.needs]}
        for work in in_order(works)
    ]
    write_json(root / PLAN, {"works": entries})


def read_status(root: Path) -> dict[str, Any]:
    """Tell how far the study is.

    Returns
    -------
    dict
        `works`: each with `kind`, `name`, `folder`, `state` (done, running, failed, waiting) and `error`; `counts` of
        the states; `seconds_left`, on one worker, from how long done pieces of the same kind took; None while a kind
        was never done.
    """
    try:
        entries = json.loads((root / PLAN).read_text(encoding="utf-8"))["works"]
    except FileNotFoundError:
        raise ConfigError(f"{root} holds no study; give the folder that was its --output") from None
    seconds: dict[str, list[float]] = {}
    for entry in entries:
        folder = WorkFolder(root / entry["folder"])
        done = folder.done
        entry["error"] = None
        if done is not None:
            entry["state"] = "done"
            seconds.setdefault(entry["kind"], []).append(done["seconds"])
        elif folder.running:
            entry["state"] = "running"
        else:
            entry["error"] = folder.failed
            entry["state"] = "waiting" if entry["error"] is None else "failed"
    left = [entry["kind"] for entry in entries if entry["state"] != "done"]
    known = all(kind in seconds for kind in left)
    total = sum(median(seconds[kind]) for kind in left) if known else None
    counts = {
        state: sum(entry["state"] == state for entry in entries) for state in ("done", "running", "failed", "waiting")
    }
    return {"works": entries, "counts": counts, "seconds_left": total}


class Progress:
    """A bar over all pieces of a study that names what fails."""

    def __init__(self, pieces: int) -> None:
        self.bar = tqdm(total=pieces, unit="piece", desc="study")

    def __call__(self, outcome: Outcome) -> None:
        """Count an outcome."""
        if outcome.error is not None:
            self.bar.write(f"failed: {outcome.work.kind} {outcome.work.name}: {outcome.error}")
        self.bar.set_postfix_str(f"{outcome.work.kind} {outcome.work.name}", refresh=False)
        self.bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def _memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):  # not Linux
        return 8.0
