"""The forward pass: number format and memory layout in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer

from scintikit.engines.device import pick_dtype


class AutocastInferer(Inferer):
    """Run a network under autocast on any device and return float32.

    MONAI's `amp=True` means CUDA only and is silently fp32 elsewhere; this one also uses the bfloat16 units of CPUs.

    Parameters
    ----------
    precision
        `"auto"`, `"bf16"`, `"fp16"` or `"fp32"`, see `pick_dtype`. Training in fp16 needs a scaled loss, which
        the trainer's `amp` gives it.
    """

    def __init__(self, precision: str = "auto") -> None:
        super().__init__()
        self.precision = precision

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the float32 network(inputs) for inputs `(B, C, H, W)`."""
        dtype = pick_dtype(inputs.device, self.precision)
        with torch.autocast(inputs.device.type, dtype, enabled=dtype != torch.float32):
            return network(inputs, *args, **kwargs).float()

    def describe(self, device: torch.device) -> str:
        """Return the number format on a device, such as "bfloat16 on cpu"."""
        return f"{pick_dtype(device, self.precision)} on {device.type}".removeprefix("torch.")
