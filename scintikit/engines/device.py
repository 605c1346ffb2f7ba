"""Which device and which number format to use."""

from __future__ import annotations

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def pick_device(name: str | None = None) -> torch.device:
    """Return the named device, or the best one at hand: CUDA, then Apple's MPS, then the CPU."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """Return the dtype to run a network in.

    Parameters
    ----------
    device
        Where the network runs.
    precision
        `"bf16"`, `"fp16"`, `"fp32"`, or `"auto"`: bfloat16 where the device multiplies it in hardware, else
        float32. CPUs without such instructions (AVX512-BF16 or AMX) emulate bfloat16 and would be slower with it.

    Raises
    ------
    ValueError
        If `precision` is none of the four.
    """
    if precision not in ("auto", *DTYPES):
        raise ValueError(f"precision is {precision!r}; expected 'auto', {', '.join(map(repr, DTYPES))}")
    if precision == "auto":
        precision = "bf16" if _multiplies_bf16(device) else "fp32"
    return DTYPES[precision]


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # torch offers no public question for these two instruction sets.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
