"""Where a bundle lies: in this checkout, or unpacked anywhere with a copy of scintikit inside."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scintikit.errors import ConfigError

#: In the root of a packed bundle: the SHA-256 of each of its files.
MANIFEST = "manifest.json"


def find_root(name: str) -> str:
    """Return the folder of the bundle called `name` in its metadata, so that no config names a path.

    `monai.bundle` puts the folder of the bundle it runs on `sys.path`, which therefore decides; for property look-ups
    outside a run, the checkout's `bundles/` and the folder around this package are tried.

    Raises
    ------
    ConfigError
        If there is no such bundle.
    """
    package_parent = Path(__file__).resolve().parent.parent
    # sys.path[0] is the script's or the current folder: a bundle that happens to lie there comes last.
    places = [*map(Path, sys.path[1:]), package_parent / "bundles" / name, package_parent, *map(Path, sys.path[:1])]
    for place in places:
        metadata = place / "configs" / "metadata.json"
        if metadata.is_file() and json.loads(metadata.read_text(encoding="utf-8")).get("name") == name:
            return str(place.resolve())
    raise ConfigError(
        f"the bundle {name!r} is nowhere on sys.path nor in {package_parent / 'bundles'}; "
        "give its folder as --bundle_root"
    )


def enter(root: Path) -> None:
    """Let `scripts` mean the modules of the bundle at `root`, as it does in a process of its own.

    Every bundle calls its modules so, and Python keeps the first that it imported.
    """
    place = str(root.resolve())
    sys.path[:] = [other for other in sys.path if other != place]
    sys.path.insert(1, place)
    loaded = sys.modules.get("scripts")
    if loaded is not None and str(root.resolve() / "scripts") not in list(loaded.__path__):
        for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
            del sys.modules[name]
