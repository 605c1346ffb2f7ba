"""A network as one TorchScript file, which torch runs without the code that built it."""

from __future__ import annotations

import copy
import io
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from scintikit.errors import ConfigError
from scintikit.files import write_atomic

#: Part of an archive that tells where the network's source lay on the machine that traced it.
_DEBUG = ".debug_pkl"
#: Hash over all parts, those with the paths included; nothing reads it.
_SERIALIZATION_ID = ".data/serialization_id"
#: Numbers that torch adds to class names, counting every module that the process has traced so far.
_COUNTED = re.compile(rb"___torch_mangle_(\d+)")


def export_torchscript(
    network: nn.Module, path: str | Path, examples: Sequence[torch.Tensor], tolerance: float = 1e-4
) -> Path:
    """Trace a network, check it, and write it as a TorchScript file that `torch.jit.load` reads, atomically.

    The bytes depend on weights, examples' shapes and versions alone: neither paths of the machine nor what else the
    process has traced stands in them.

    Parameters
    ----------
    network
        The network with its weights; left as it is.
    path
        The file to write.
    examples
        The arguments of `forward`, tensors `(B, ...)`. The file takes as many, of any batch size. Arguments that are
        left out keep their defaults for ever.
    tolerance
        How far its outputs may lie from the network's.

    Raises
    ------
    ConfigError
        If what was traced gives something else than the network, for the examples or for a batch of another size.
    """
    path = Path(path)
    # A copy: the network may be in channels-last order, on a GPU, in training, and have hooks.
    network = copy.deepcopy(network).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch announces that it prefers torch.export
        for _ in range(2):  # only the first trace in a process leaves class names without a number
            traced = torch.jit.trace(network, tuple(examples), check_trace=False)
        torch.jit.save(traced, buffer)
        content = _without_traces(buffer.getvalue())
        traced = torch.jit.load(io.BytesIO(content))
        for inputs in (examples, [torch.cat([example, example]) for example in examples]):
            if not torch.allclose(traced(*inputs), network(*inputs), rtol=0, atol=tolerance):
                raise ConfigError(
                    f"{type(network).__name__} cannot be traced for {path.name}: a batch of {len(inputs[0])} gives "
                    "other outputs; its forward must not decide by the values of its inputs"
                )
    write_atomic(path, content)
    return path


def _without_traces(archive: bytes) -> bytes:
    """Return a TorchScript archive without paths, dates and counters of the process that wrote it."""
    numbers: dict[bytes, int] = {}

    def renumbered(text: bytes) -> bytes:
        return _COUNTED.sub(lambda found: b"___torch_mangle_%d" % numbers.setdefault(found[1], len(numbers)), text)

    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for part in old.namelist():
            if part.endswith((_DEBUG, _SERIALIZATION_ID)):
                continue
            content = old.read(part)
            if part.endswith((".py", ".pkl")):  # class names; in other parts they would be weights
                part, content = renumbered(part.encode()).decode(), renumbered(content)
            new.writestr(zipfile.ZipInfo(part), content)  # not compressed, dated 1980
    return buffer.getvalue()
