"""Names that stand for identifiers and cannot be turned back without the key."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from scintikit.errors import DatasetError
from scintikit.files import home

KEY_BYTES = 32


def pseudonym(key: bytes, kind: str, identifier: str) -> str:
    """Return 16 hexadecimal digits of HMAC-SHA256 (RFC 2104) that stand for an identifier of this kind.

    The same key gives the same pseudonym, so that datasets made at different times fit together.
    """
    return hmac.new(key, f"{kind}\0{identifier}".encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:16]


def read_key(path: str | os.PathLike[str] | None = None) -> bytes:
    """Read the secret key for pseudonyms, or make it (readable by its owner only) where there is none.

    Parameters
    ----------
    path : path, optional
        Default `pseudonym.key` in `SCINTIKIT_HOME`. Keep it out of datasets: who has it can test whether a patient
        they know of is in a dataset.

    Raises
    ------
    DatasetError
        If the file does not hold a key.
    """
    path = Path(path).expanduser() if path else home() / "pseudonym.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise DatasetError(f"{path} does not hold a key of {2 * KEY_BYTES} hexadecimal digits; name another file")
    return key
