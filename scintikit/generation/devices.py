"""One evaluator on each of several devices, in processes of this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.multiprocessing as mp
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader, Dataset

from scintikit.errors import ConfigError, ScintikitError


@dataclass(frozen=True)
class EvaluatorParts:
    """What a SupervisedEvaluator is made of; unlike the evaluator it can be sent to another process.

    Attributes
    ----------
    network, inferer, prepare_batch, postprocessing, handlers
        As of `monai.engines.SupervisedEvaluator`.
    batches
        A dataset whose items are whole batches.
    num_workers
        Of each process's DataLoader.
    """

    network: torch.nn.Module
    batches: Dataset
    inferer: Any
    prepare_batch: Any
    postprocessing: Any
    handlers: Sequence[Any]
    num_workers: int = 0

    def run(self, device: torch.device, numbers: Sequence[int]) -> None:
        """Evaluate the batches of these numbers on a device."""
        evaluator = SupervisedEvaluator(
            device=device,
            val_data_loader=DataLoader(self.batches, batch_size=None, sampler=numbers, num_workers=self.num_workers),
            network=self.network.to(device),
            inferer=self.inferer,
            prepare_batch=self.prepare_batch,
            postprocessing=self.postprocessing,
            val_handlers=self.handlers,
            decollate=False,
        )
        with one_thread(device):
            evaluator.run()


def name_devices(devices: int | Sequence[str] | None, device: torch.device) -> list[torch.device]:
    """Return the devices to use.

    Parameters
    ----------
    devices
        Their names, or how many of the kind of `device`. None: `device` if it is a GPU, else as many processes on the
        CPU as torch would use threads.
    device
        The one that a single process would use.

    Raises
    ------
    ConfigError
        If `devices` makes no sense, or there are not so many GPUs.
    """
    if devices is None:
        return [device] * (torch.get_num_threads() if device.type == "cpu" else 1)
    try:
        if isinstance(devices, int):
            devices = [f"cuda:{k}" if device.type == "cuda" else device.type for k in range(devices)]
        named = [torch.device(name) for name in ([devices] if isinstance(devices, str) else devices)]
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"devices is {devices!r}; expected names such as ['cuda:0','cuda:1'], or a number") from error
    here = torch.cuda.device_count()
    for one in named:
        if one.type == "cuda" and (one.index or 0) >= here:
            raise ConfigError(f"devices is {devices!r}, but this machine has {here} CUDA devices")
    if not named:
        raise ConfigError("devices is empty; expected names such as ['cuda:0','cuda:1'], or a number")
    return named


def run_in_processes(
    parts: EvaluatorParts, devices: Sequence[torch.device], numbers: Sequence[int], tick: Callable[[], None]
) -> None:
    """Divide batches among devices, each with a process of its own.

    Parameters
    ----------
    parts
        Of the evaluators.
    devices
        One for each process.
    numbers
        Of the batches.
    tick
        Called about twice a second.

    Raises
    ------
    ScintikitError
        If a process fails, with its reason; the others are stopped then.
    """
    forked = sys.platform == "linux" and all(device.type == "cpu" for device in devices)
    parts.network.cpu()  # the memory of a GPU is not for other processes
    workers = mp.start_processes(
        _work,
        (parts, devices, numbers),
        nprocs=len(devices),
        join=False,
        # A forked process starts at once, but must not use a GPU.
        start_method="fork" if forked else "spawn",
    )
    try:
        while not workers.join(timeout=0.5):
            tick()
    except mp.ProcessRaisedException as error:
        reason = str(error).strip().rsplit("\n", 1)[-1].partition(": ")[2]
        raise ScintikitError(f"process {error.error_index} on {devices[error.error_index]}: {reason}") from error
    except mp.ProcessExitedException as error:
        raise ScintikitError(
            f"process {error.error_index} on {devices[error.error_index]} was ended from outside "
            f"({error.signal_name or error.exit_code}), perhaps for want of memory, and the others were stopped. Run "
            "the same command again, perhaps with fewer --devices: it goes on where it stopped"
        ) from error
    finally:
        for process in workers.processes:
            process.terminate()


def _work(rank: int, parts: EvaluatorParts, devices: Sequence[torch.device], numbers: Sequence[int]) -> None:
    mine = numbers[rank :: len(devices)]
    parts.run(devices[rank], mine)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute with one thread on the CPU: their number changes the last bits of a convolution."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
