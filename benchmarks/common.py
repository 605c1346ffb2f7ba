"""What every benchmark needs: the machine, the versions, and times that are taken in turns."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from scintikit.engines import keep_freed_memory
from scintikit.environment import machine, versions

__all__ = ["machine", "take_turns", "versions"]


def take_turns(ways: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, dict[str, float]]:
    """Let each way run once a round; return its median images/s over the rounds and its peak memory in MiB.

    Taking turns spreads whatever else the machine does over all ways alike. The first round only warms up. The way
    "usual" has memory handled as the system does by itself, all others as our networks ask for, `keep_freed_memory`.

    Parameters
    ----------
    ways
        Functions that do the work and return how many images they did.
    rounds
        Measured rounds.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    memory = dict.fromkeys(ways, 0.0)
    for number in range(rounds + 1):
        for name, work in ways.items():
            keep_freed_memory(name != "usual")
            _reset_peak()
            start = time.perf_counter()
            count = work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            rate = count / (time.perf_counter() - start)
            memory[name] = max(memory[name], _peak_mib())
            print(f"round {number} {name:6} {rate:8.1f} images/s" + ("  (warm-up)" if number == 0 else ""), flush=True)
            if number:
                rates[name].append(rate)
    return {
        name: {
            "images_per_second": sorted(values)[len(values) // 2],
            "lowest": min(values),
            "highest": max(values),
            "peak_memory_mib": round(memory[name]),
        }
        for name, values in rates.items()
    }


def _reset_peak() -> None:
    """Forget the peak so far, where the system can (Linux: the resident set's high-water mark)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        return next(float(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
