"""Checkpoints of Hugging Face's libraries: where they are, whether they are safe to read, and how they stay frozen.

Needs the extra `sd`, which is imported on first use.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scintikit.errors import ConfigError, MissingExtraError
from scintikit.files import file_sha256

#: What follows the stem in the names of the files that hold weights: a single one, several, and the index of several.
WEIGHT_ENDS = (".safetensors", "-*-of-*.safetensors", ".safetensors.index.json")
#: File name endings of weights that are pickled, and so could run code when they are read.
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def optional(module: str, name: str) -> Any:
    """Return what a module of the extra `sd` calls `name`.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise MissingExtraError(
            f"a pretrained checkpoint needs {module.partition('.')[0]} ({error}); install the extra `sd`: "
            "pip install 'scintikit[sd]'"
        ) from error


def locate(option: str, name: str, patterns: Sequence[str]) -> Path:
    """Return a checkpoint's folder: `name` itself, or a model of the hub, fetched if it is not at hand already.

    Parameters
    ----------
    option
        What the user calls it.
    name
        Folder, or name on the hub.
    patterns
        The files to fetch; no others are.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    try:
        return Path(optional("huggingface_hub", "snapshot_download")(name, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{option} is {name!r}: there is no such folder, and it could not be fetched from the hub "
            f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
        ) from error


def weight_files(folder: Path, stem: str) -> list[Path]:
    """Return the safetensors files of a network; none if there are none."""
    whole = folder / f"{stem}.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{stem}-*-of-*.safetensors"))


def check_weights(folder: Path, stem: str) -> None:
    """Raise `ConfigError` if a network has no safetensors files."""
    if weight_files(folder, stem):
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise ConfigError(
            f"{folder} has pickled weights only ({', '.join(pickled)}), which could run any code when they are "
            f"read; expected {stem}.safetensors. Take a release with safetensors, or convert it on a "
            "machine that has nothing to lose"
        )
    raise ConfigError(
        f"{folder} has no weights; expected {stem}.safetensors. Pickled ones, such as pytorch_model.bin, are neither "
        "read nor fetched: take a release with safetensors, or convert it on a machine that has nothing to lose"
    )


def read_network(cls: Any, folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """Return a network, an nn.Module, with its weights in float32, and the names of tensors that the file lacks.

    Parameters
    ----------
    cls
        Class of diffusers or transformers.
    folder
        Of its configuration and safetensors files.
    options
        For its `from_pretrained`.
    """
    network, report = cls.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
    )
    return network.float(), sorted(map(str, report["missing_keys"]))


def refuse_missing(missing: Sequence[str], folder: Path, name: str) -> None:
    """Raise `ConfigError` if a file lacks tensors of the class `name`, which would be left random."""
    if missing:
        raise ConfigError(f"{folder} lacks {len(missing)} tensors of a {name}, first {list(missing[:3])}")


def files_sha256(folder: Path, files: Iterable[Path]) -> str:
    """Return the sha256 over the names, relative to a folder, and the contents of files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


class Frozen:
    """A network that is used and not trained.

    It is no part of the weights of the module that holds it: its checkpoint has them, and optimizers, averages and
    saved weights need not carry them. A deep copy shares it.

    Parameters
    ----------
    network
        The network, which it takes over.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        """Return itself."""
        return self

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, **further: torch.Tensor) -> Any:
        """Return what the network makes of inputs, on their device."""
        return self.network.to(inputs.device)(inputs, **further)
