"""An application in processes of its own: several studies at once; a crash or a study without end hurts no other."""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from queue import LifoQueue
from typing import Any, TypeVar

import torch

from deploy.orthanc.watcher import Application, Outcome
from scintikit.errors import ScintikitError

LONGEST_S = 600.0

T = TypeVar("T")


class WorkerEnded(ScintikitError):
    """The process that computed a study ended."""


class Workers:
    """An `Application` that may be called from as many threads as there are processes.

    Each process loads the models once, at its first study.

    Parameters
    ----------
    application
        `module:function`; the function makes an application of the folder of models.
    models
    processes
    longest_s
        After so many s a study is given up, and its process ended.

    Raises
    ------
    ScintikitError
        What the function raises, such as for a model that is missing.
    """

    def __init__(self, application: str, models: Path, processes: int, longest_s: float = LONGEST_S) -> None:
        self.application = application
        self.models = models
        self.processes = processes
        self.longest_s = longest_s
        # One pool for each process: where one process of several ends, a pool gives up the work of all of them.
        self.pools: LifoQueue[ProcessPoolExecutor] = LifoQueue()  # the last used has its models
        for _ in range(processes):
            self.pools.put(self._start())
        self._submit(_check, application, models)

    def __call__(self, files: Sequence[Path], output: Path) -> Outcome:
        """Run the application."""
        return self._submit(_run, self.application, self.models, files, output, self.longest_s)

    def _submit(self, task: Callable[..., T], *arguments: Any) -> T:
        """Do a task in a process that is free."""
        pool = self.pools.get()
        try:
            return pool.submit(task, *arguments).result()
        except BrokenProcessPool as error:
            pool.shutdown()
            pool = self._start()
            raise WorkerEnded(
                f"the process that computed this study ended: for want of memory, or after {self.longest_s:g} s"
            ) from error
        finally:
            self.pools.put(pool)

    def close(self) -> None:
        """End the processes."""
        for _ in range(self.processes):
            self.pools.get().shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        threads = max(1, (os.cpu_count() or 1) // self.processes)
        context = multiprocessing.get_context("spawn")  # a process with threads must not fork
        return ProcessPoolExecutor(1, context, _begin, (threads,))


def load_application(name: str, models: Path) -> Application:
    """Return what `module:function` makes of the folder of models."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(models)


_loaded = cache(load_application)


def _begin(threads: int) -> None:
    """Share the processor with the other processes, and end with the watcher even if that is killed."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_too() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_too, daemon=True).start()


def _check(name: str, models: Path) -> None:
    _loaded(name, models)


def _run(name: str, models: Path, files: Sequence[Path], output: Path, longest_s: float) -> Outcome:
    faulthandler.dump_traceback_later(longest_s, exit=True)  # ends also what never comes back to Python
    try:
        return _loaded(name, models)(files, output)
    finally:
        faulthandler.cancel_dump_traceback_later()
