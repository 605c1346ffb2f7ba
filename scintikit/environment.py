"""Where something was measured: the machine, and the versions of what was used."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("scintikit", "monai", "torch", "numpy", "pydicom", "pytorch-ignite")


def machine() -> dict[str, Any]:
    """Return processor, cores, threads in use, accelerator and operating system."""
    cuda = torch.cuda.is_available()
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "bf16_instructions": bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what was measured."""
    return {package: version(package) for package in PACKAGES}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return f"{names[0]}, {len(names)} cores"
    return platform.processor()
