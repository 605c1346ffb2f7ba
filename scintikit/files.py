"""Files that are either whole or absent, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import platformdirs

#: The mask can only be read by setting it, and two threads that do so at once would leave it at 0.
_reading_umask = threading.Lock()


def home() -> Path:
    """Return the cache folder: `SCINTIKIT_HOME` if set, else the platform's user cache."""
    return Path(os.environ.get("SCINTIKIT_HOME") or platformdirs.user_cache_dir("scintikit"))


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` so that `path` holds all of it or is left as it was, whenever the process is killed.

    The bytes go to a temporary file in the same folder, are flushed to disk, and take the name in one step.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the permissions that an ordinary new file would get.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused because JSON has neither."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 24):  # weights can be larger than what memory has to spare
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    with _reading_umask:
        current = os.umask(0)
        os.umask(current)
    return current
