"""Memory that a step frees: kept for the next one, or handed back and zeroed again."""

from __future__ import annotations

import subprocess
import sys
from unittest.mock import Mock

import pytest

from scintikit.engines import keep_freed_memory

STEPS, MIB = 10, 40  # more than what glibc ever keeps by itself

# In a process of its own: what lies around in this one's memory decides where a block goes.
PROGRAM = f"""
import resource
import torch
from scintikit.engines import keep_freed_memory, prepare_network

def step():
    torch.empty({MIB} << 20, dtype=torch.uint8).fill_(1)

def new_mib():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({STEPS}):
        step()
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return pages * resource.getpagesize() / 2**20 / {STEPS}

print(new_mib())
prepare_network(torch.nn.Identity(), torch.device("cpu"))
print(new_mib())
keep_freed_memory(False)
print(new_mib())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's memory is seen to")
def test_a_network_on_the_cpu_keeps_what_its_steps_free() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    by_itself, kept, handed_back = map(float, done.stdout.split())
    assert by_itself > 0.9 * MIB
    assert kept < 0.3 * MIB  # now and then a small block takes part of the large one's place
    assert handed_back > 0.9 * MIB


@pytest.mark.parametrize(("library", "asked"), [("glibc", True), ("", False)])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, library: str, asked: bool) -> None:
    libc = Mock()
    monkeypatch.setattr("platform.libc_ver", lambda: (library, ""))
    monkeypatch.setattr("ctypes.CDLL", lambda name: libc)
    keep_freed_memory()
    assert libc.mallopt.called is asked
