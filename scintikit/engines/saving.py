"""Write weights and what belongs to them, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from scintikit.files import write_atomic


def save_atomic(path: Path, value: Any) -> None:
    """Write tensors and plain data as `torch.save` does, but so that a stop at any moment leaves the file of before."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_atomic(path, buffer.getvalue())
