"""What must be in place before MONAI and scintikit can be imported; so this module imports neither."""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def load_cuda_runtime() -> None:
    """Load the CUDA runtime that pip installed, which Holoscan links against, also where there is no GPU.

    Where the SDK is installed, `import monai` imports it too, so this comes first.
    """
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for library in sorted(Path(place).glob("**/libcudart.so.*")):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def model_folder(arguments: Sequence[str]) -> Path:
    """Return the model folder by the SDK's conventions: `-m`, else HOLOSCAN_MODEL_PATH, else `models`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-m", "--model", default=os.environ.get("HOLOSCAN_MODEL_PATH", "models"))
    return Path(parser.parse_known_args(arguments)[0].model)


def find_scintikit(models: Path) -> None:
    """Where scintikit is not installed, take the copy inside a packed bundle, if it is what was packed."""
    if importlib.util.find_spec("scintikit") is not None:
        return
    for root in (models, *sorted(models.iterdir())) if models.is_dir() else ():
        if (root / "scintikit" / "__init__.py").is_file() and (root / "manifest.json").is_file():
            _check_copy(root)
            sys.path.append(str(root))
            sys.pycache_prefix = tempfile.mkdtemp()  # caches that lie in the folder are not what was checked
            return
    sys.exit(f"scintikit is not installed, and no packed bundle in {models} carries a copy: install it, or unpack one")


def _check_copy(root: Path) -> None:
    """Compare every module of the copy with the manifest; the rest of the bundle is compared by scintikit itself."""
    listed = json.loads((root / "manifest.json").read_text(encoding="utf-8"))["files"]
    for path in sorted((root / "scintikit").rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        if name not in listed or hashlib.sha256(path.read_bytes()).hexdigest() != listed[name]["sha256"]:
            sys.exit(f"{name} in {root.name} is not what was packed; unpack the bundle again")
