"""The bundles of a model folder, each checked before anything of it is evaluated."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from scintikit.classifier import Classifier
from scintikit.errors import ConfigError
from scintikit.packing import check_hashes


def find_bundles(folder: Path) -> dict[str, Path]:
    """Return the bundles in a folder, or the folder itself if it is one, by the names in their metadata."""
    found: dict[str, Path] = {}
    for root in (folder, *sorted(folder.iterdir())) if folder.is_dir() else ():
        metadata = root / "configs" / "metadata.json"
        if metadata.is_file():
            found.setdefault(json.loads(metadata.read_text(encoding="utf-8"))["name"], root)
    return found


def load_classifiers(
    folder: str | Path, names: Collection[str], device: str | None = None, runtime: str = "torch"
) -> dict[str, Classifier]:
    """Load the bundles with these names; others in the folder are left alone.

    A packed bundle (one with a `manifest.json`) is compared with its hashes first.

    Raises
    ------
    ConfigError
        If none is there, or one does not load.
    PackageError
        If a packed bundle is not what was packed.
    """
    bundles = {name: root for name, root in find_bundles(Path(folder)).items() if name in names}
    if not bundles:
        raise ConfigError(f"there is none of the bundles {', '.join(sorted(names))} in {folder}; unpack them there")
    for root in bundles.values():
        if (root / "manifest.json").is_file():
            check_hashes(root)
    return {name: Classifier(root, device, runtime) for name, root in bundles.items()}
