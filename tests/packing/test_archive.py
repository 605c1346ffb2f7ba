"""Zips: the same bytes every time, and nothing written outside the folder, whatever the zip says."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest

from scintikit.errors import PackageError
from scintikit.packing.archive import unpack_zip, write_zip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "bundle"
    (place / "configs").mkdir(parents=True)
    (place / "configs" / "a.json").write_text("{}")
    (place / "b.txt").write_bytes(b"b" * 5000)
    return place


def test_the_same_files_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_zip(folder, tmp_path / "1.zip", "bundle")
    os.utime(folder / "b.txt", (1, 1))
    (folder / "b.txt").chmod(0o600)
    (folder / "b.txt").rename(folder / "c.txt")  # another order in the file system
    (folder / "c.txt").rename(folder / "b.txt")
    write_zip(folder, tmp_path / "2.zip", "bundle")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_what_is_packed_comes_out(folder: Path, tmp_path: Path) -> None:
    write_zip(folder, tmp_path / "1.zip", "bundle")
    place = unpack_zip(tmp_path / "1.zip", tmp_path / "out")
    assert place == tmp_path / "out" / "bundle"
    assert {path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()} == {
        "a.json": b"{}",
        "b.txt": b"b" * 5000,
    }


def test_no_half_archive_is_left(folder: Path, tmp_path: Path) -> None:
    (folder / "gone").symlink_to(folder / "b.txt")
    before = (folder / "b.txt").stat().st_size

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.copyfileobj", stop)
        with pytest.raises(Stop):
            write_zip(folder, tmp_path / "half.zip", "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (folder / "b.txt").stat().st_size == before


def _zip(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "bundle/../../evil.py",
        "/etc/evil",
        "bundle/..\\evil.py",
        "C:/evil.py",
        "bundle//evil.py",
        "bundle/evil.py ",
        "bundle/\nevil.py",
        "bundle/" + "x" * 300,
        "bundle/" + "ü" * 150,  # too long for file systems, which count bytes
        "bundle/NUL.txt",
        "bundle/a?.txt",
    ],
)
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    _zip(tmp_path / "a.zip", **{"bundle/a.txt": b"a", name: b"evil"})
    with pytest.raises(PackageError, match=r"leads out of|not portable"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out" / "deep")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]  # nothing was written anywhere


def test_a_link_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("bundle/link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(PackageError, match="link or device"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    _zip(tmp_path / "a.zip", **{"bundle/zeros.json": bytes(50_000_000)})
    with pytest.raises(PackageError, match="times its size"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    data = _zip(tmp_path / "a.zip", **{"bundle/a.txt": os.urandom(3000)}).read_bytes()
    size = (3000).to_bytes(4, "little")
    assert data.count(size) >= 2  # in the local and in the central header
    (tmp_path / "a.zip").write_bytes(data.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(PackageError):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("files", [{"a.txt": b"a"}, {"one/a.txt": b"a", "two/a.txt": b"a"}, {}])
def test_a_zip_without_one_top_folder_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"one folder|no files"):
        unpack_zip(_zip(tmp_path / "a.zip", **files), tmp_path / "out")


@pytest.mark.parametrize(
    ("one", "two"),
    [("a.txt", "A.txt"), ("\u00e9.txt", "e\u0301.txt"), ("stra\u00dfe", "STRASSE"), ("a", "a/b"), ("a/b", "A")],
)
def test_names_of_the_same_file_are_refused(one: str, two: str, tmp_path: Path) -> None:
    """On some systems; and a file that is also a folder, on all."""
    with pytest.raises(PackageError, match="one on some systems"):
        unpack_zip(_zip(tmp_path / "a.zip", **{f"bundle/{one}": b"1", f"bundle/{two}": b"2"}), tmp_path / "out")


def test_a_name_that_could_not_be_unpacked_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / "a:b.txt").write_text("a")
    with pytest.raises(PackageError, match="not portable"):
        write_zip(folder, tmp_path / "a.zip", "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_tells_damage_in_another_way_is_refused(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("bundle/a", b"a")
    with pytest.raises(PackageError, match="another method than deflate"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    data = _zip(tmp_path / "a.zip", **{"bundle/\u00e9": b"a"}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace("\u00e9".encode(), b"\xff\xff"))
    with pytest.raises(PackageError, match="no intact zip"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")


def test_a_damaged_zip_is_refused(folder: Path, tmp_path: Path) -> None:
    write_zip(folder, tmp_path / "a.zip", "bundle")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[60] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(PackageError, match="no intact zip"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(PackageError, match="no intact zip"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out2")
