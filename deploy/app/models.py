"""The bundles of a model folder, each checked before anything of it is evaluated."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from scintikit.classifier import Classifier
from scintikit.errors import ConfigError
from scintikit.packing import check_hashes


def find_bundles(folder: Path) -> dict[str, Path]:
    """Return the bundles in a folder, or the folder itself if it is one, by the names in their metadata.

    Raises
    ------
    ConfigError
        If metadata cannot be read.
    """
    found: dict[str, Path] = {}
    for root in (folder, *sorted(folder.iterdir())) if folder.is_dir() else ():
        metadata = root / "configs" / "metadata.json"
        if metadata.is_file():
            try:
                name = str(json.loads(metadata.read_text(encoding="utf-8"))["name"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                raise ConfigError(f"{metadata} is damaged ({error!r}); mend the bundle or take it away") from error
            found.setdefault(name, root)
    return found


def load_classifiers(
    folder: str | Path, names: Collection[str], device: str | None = None, runtime: str = "torch"
) -> dict[str, Classifier]:
    """Load the bundles with these names; others in the folder are left alone.

    A packed bundle (one with a `manifest.json`) is compared with its hashes first.

    Raises
    ------
    ConfigError
        If none is there, or one does not load; if the metadata of any bundle in the folder is damaged.
    PackageError
        If a packed bundle is not what was packed.
    """
    bundles = {name: root for name, root in find_bundles(Path(folder)).items() if name in names}
    if not bundles:
        raise ConfigError(f"there is none of the bundles {', '.join(sorted(names))} in {folder}; unpack them there")
    return {name: _load(root, device, runtime) for name, root in bundles.items()}


def _load(root: Path, device: str | None, runtime: str) -> Classifier:
    if not (root / "manifest.json").is_file():
        return Classifier(root, device, runtime)
    check_hashes(root)
    before = sys.pycache_prefix
    with tempfile.TemporaryDirectory() as empty:  # caches that lie in the folder are not what was checked
        sys.pycache_prefix = empty
        try:
            return Classifier(root, device, runtime)
        finally:
            sys.pycache_prefix = before
