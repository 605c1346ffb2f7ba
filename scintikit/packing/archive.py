"""Zip archives that are the same bytes every time, and that cannot write outside the folder they are unpacked into."""

from __future__ import annotations

import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from scintikit.errors import PackageError

MAX_FILES = 10_000
MAX_BYTES = 8 << 30  #: unpacked; the largest bundle of the model zoo has about 5 GB
MAX_RATIO = 200  #: unpacked to packed; weights hardly shrink, text by about 5
MAX_NAME = 200
#: What Windows takes for devices, whatever the suffix.
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
EPOCH = (1980, 1, 1, 0, 0, 0)  #: the earliest time that a zip can state


def write_zip(folder: Path, archive: Path, top: str) -> None:
    """Write the files below `folder` to a zip, under a folder named `top`.

    The bytes depend on the names and contents of the files alone: names are sorted, times, owners and permissions are
    left out. The archive takes its name when it is whole.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f".{archive.name[:50]}.", suffix=".tmp") as scratch:
        temporary = Path(scratch) / archive.name  # of its own, when two pack at once
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as bundle:
            for path in sorted(file for file in folder.rglob("*") if file.is_file()):
                check_name(path.relative_to(folder).as_posix())
                entry = zipfile.ZipInfo(f"{top}/{path.relative_to(folder).as_posix()}", EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3  # Unix, also when packed elsewhere
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                entry.file_size = path.stat().st_size  # lets zipfile decide on 64-bit sizes before it writes
                with path.open("rb") as source, bundle.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        temporary.replace(archive)


def unpack_zip(archive: Path, folder: Path) -> Path:
    """Unpack a bundle's zip into `folder`, which is empty, and return the bundle's folder, the only one in it.

    Every name and size is checked before the first byte is written, and sizes once more while writing, because a zip
    can lie about them.

    Raises
    ------
    PackageError
        If the archive is damaged or encrypted, a name leads out of the folder or means another file on some system, an
        entry is no regular file, there are too many or too large files, or there is no single top folder.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            entries = [entry for entry in bundle.infolist() if not entry.is_dir()]
            _check_entries(archive, entries)
            for entry in entries:
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(entry) as source, target.open("xb") as file:
                    _copy(source, file, entry)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError, zlib.error) as error:
        raise PackageError(f"{archive.name} is no intact zip archive: {error}; download or pack it again") from error
    return folder / entries[0].filename.split("/")[0]


def _check_entries(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    if not entries:
        raise PackageError(f"{archive.name} has no files")
    if len(entries) > MAX_FILES:
        raise PackageError(f"{archive.name} has {len(entries)} files; a bundle has at most {MAX_FILES}")
    for entry in entries:
        check_name(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise PackageError(f"{entry.filename!r} in {archive.name} is a link or device, not a regular file")
        if entry.flag_bits & 1:
            raise PackageError(f"{entry.filename!r} in {archive.name} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise PackageError(f"{entry.filename!r} in {archive.name} is compressed by another method than deflate")
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1024):
            raise PackageError(f"{entry.filename!r} in {archive.name} unpacks to more than {MAX_RATIO} times its size")
    names = [_folded(entry.filename) for entry in entries]
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    if len(set(names)) < len(names) or folders & set(names):
        raise PackageError(f"{archive.name} has two files that are one on some systems")
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise PackageError(f"{archive.name} unpacks to more than {MAX_BYTES >> 30} GiB")
    tops = {entry.filename.split("/")[0] if "/" in entry.filename else "" for entry in entries}
    if len(tops) > 1 or "" in tops:
        raise PackageError(f"{archive.name} must hold one folder, the bundle; it has {sorted(tops)[:5]}")


def _folded(name: str) -> str:
    """Return what a file system that knows no case and only one form of each letter makes of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_name(name: str) -> None:
    """Raise `PackageError` unless `name` is a plain relative path that means the same file on every system."""
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or re.search(r'[<>:"|?*\\]', name)
        or len(name.encode(errors="replace")) > MAX_NAME
        or any(DEVICE.match(part) for part in path.parts)
        or any(not part.strip() or part.endswith((".", " ")) for part in name.split("/"))
        or not name.isprintable()
    ):
        raise PackageError(f"the name {name[:MAX_NAME]!r} leads out of the bundle's folder or is not portable")


def _copy(source: IO[bytes], file: BinaryIO, entry: zipfile.ZipInfo) -> None:
    written = 0
    while block := source.read(1 << 20):
        written += len(block)
        if written > entry.file_size:
            raise PackageError(f"{entry.filename!r} is larger than the archive says")
        file.write(block)
