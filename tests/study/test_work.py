"""Pieces of work: what their hash depends on, and what happens when they are stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
from counting import SCRIPT

from scintikit.errors import ScintikitError
from scintikit.study import Command, Given, Made, Work, WorkFolder
from scintikit.study import work as module


def counting(until: int, pause: float = 0.0, name: str = "a", code: tuple[str, ...] = ()) -> Work:
    command = Command((Made(path="numbers"), until, pause), code, program=("-c", SCRIPT))
    return Work("count", name, (command,))


def folder_of(work: Work, root: Path) -> WorkFolder:
    folder = WorkFolder(root / work.folder)
    folder.prepare(work, root)
    return folder


def test_work_is_done_once(tmp_path: Path) -> None:
    folder = folder_of(counting(3), tmp_path)
    folder.execute()
    numbers = folder.path / "numbers"
    assert numbers.read_text() == "0\n1\n2\n"
    numbers.unlink()
    folder.execute()
    assert not numbers.exists()
    assert folder.done is not None
    assert folder.done["machine"]["processor"]
    assert folder.failed is None


def test_the_key_depends_on_content_and_not_on_names_and_places(tmp_path: Path) -> None:
    def uses(argument: Given | Made) -> str:
        return Work("train", "x", (Command(("run", argument), ()),)).key

    assert counting(3, name="a").key == counting(3, name="b").key
    assert counting(3).key != counting(4).key
    assert uses(Given("/a", "hash")) == uses(Given("/b", "hash"))
    assert uses(Given("/a", "hash")) != uses(Given("/a", "other"))
    assert uses(Made(counting(3))) != uses(Made(counting(4)))
    # How a folder is filled, by how many pieces, does not matter.
    assert uses(Made(counting(3))) == uses(Made(counting(3), fillers=(counting(4),)))


def test_the_key_depends_on_the_versions_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    before = counting(3).key
    monkeypatch.setattr(module, "_libraries", lambda: {"torch": "99"})
    assert counting(3).key != before


def test_the_key_depends_on_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part").mkdir()
    source = tmp_path / "part/module.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    module.code_sha256.cache_clear()
    before = counting(3, code=("part",)).key
    (tmp_path / "part/notes.md").write_text("no code")
    module.code_sha256.cache_clear()
    assert counting(3, code=("part",)).key == before
    source.write_text("x = 2\n")
    module.code_sha256.cache_clear()
    assert counting(3, code=("part",)).key != before
    module.code_sha256.cache_clear()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_code_that_changed_since_the_folder_was_named_makes_nothing(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "part.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    module.code_sha256.cache_clear()
    script = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch(); pathlib.Path('part.py').write_text('x = 2\\n')"
    work = Work("change", "c", (Command((Made(path="made"),), ("part.py",), program=("-c", script)),))
    folder = folder_of(work, tmp_path / "study")
    if when == "before":
        source.write_text("x = 3\n")
    with pytest.raises(ScintikitError, match=r"part.py changed after the study began; start the study again"):
        folder.execute()
    module.code_sha256.cache_clear()
    assert (folder.path / "made").exists() == (when == "meanwhile")
    assert folder.done is None
    assert "part.py changed" in (folder.failed or "")


def test_a_failure_is_told_and_tried_again(tmp_path: Path) -> None:
    script = "import sys, pathlib; pathlib.Path(sys.argv[1]).exists() or sys.exit('error: no such thing')"
    work = Work("fail", "f", (Command((Made(path="thing"),), (), program=("-c", script)),))
    folder = folder_of(work, tmp_path)
    with pytest.raises(ScintikitError, match="error: no such thing"):
        folder.execute()
    assert "error: no such thing" in (folder.failed or "")
    assert "exit code 1" in (folder.failed or "")
    assert str(tmp_path) not in (folder.failed or "")
    assert folder.done is None
    (folder.path / "thing").touch()
    folder.execute()
    assert folder.failed is None
    assert folder.done is not None


def test_a_checkpoint_is_resumed_from(tmp_path: Path) -> None:
    script = "import sys; print('given', sys.argv[1:])"
    command = Command(("training",), (), ("--resume", "True"), "models/last.pt", ("-c", script))
    folder = folder_of(Work("train", "t", (command,)), tmp_path)
    folder.execute()
    (folder.path / "done.json").unlink()
    (folder.path / "models").mkdir()
    (folder.path / "models/last.pt").touch()
    folder.execute()
    assert folder.log.read_text().splitlines() == ["given ['training']", "given ['training', '--resume', 'True']"]


def test_what_a_broken_disk_left_counts_for_nothing(tmp_path: Path) -> None:
    folder = folder_of(counting(3), tmp_path)
    (folder.path / "done.json").write_text('{"seco')
    (folder.path / "failed.json").write_text("")
    assert folder.failed is None
    folder.execute()
    assert folder.done is not None


def test_a_piece_that_the_system_killed_says_so(tmp_path: Path) -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    folder = folder_of(Work("kill", "k", (Command((), (), program=("-c", script)),)), tmp_path)
    with pytest.raises(ScintikitError, match="memory was full"):
        folder.execute()


def test_an_interrupted_piece_has_not_failed(tmp_path: Path) -> None:
    # A shell that runs the tests in the background has them ignore SIGINT.
    script = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)"
    folder = folder_of(Work("stop", "s", (Command((), (), program=("-c", script)),)), tmp_path)
    with pytest.raises(ScintikitError, match="stopped"):
        folder.execute()
    assert folder.failed is None


def test_after_kill_9_nobody_works_in_the_folder_beside_the_orphan(tmp_path: Path) -> None:
    folder = folder_of(counting(40, pause=0.05), tmp_path)
    path = str(folder.path)
    script = f"from pathlib import Path; from scintikit.study import WorkFolder; WorkFolder(Path({path!r})).execute()"
    parent = subprocess.Popen([sys.executable, "-c", script])
    while not (folder.path / "numbers").exists():
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert folder.running
    folder.execute()  # waits for the orphan
    assert [int(line) for line in (folder.path / "numbers").read_text().split()] == list(range(40))
    assert not folder.running


def test_waiting_for_another_process_can_be_stopped(tmp_path: Path) -> None:
    folder = folder_of(counting(40, pause=0.1), tmp_path)
    path = str(folder.path)
    script = f"from pathlib import Path; from scintikit.study import WorkFolder; WorkFolder(Path({path!r})).execute()"
    other = subprocess.Popen([sys.executable, "-c", script])
    while not (folder.path / "numbers").exists():
        time.sleep(0.05)
    stop = Event()
    stop.set()
    with pytest.raises(ScintikitError, match="stopped"):
        folder.execute(stop=stop)
    assert other.poll() is None
    other.wait()


def test_what_is_to_be_done_can_be_read(tmp_path: Path) -> None:
    first = counting(3)
    second = Work("use", "second", (Command(("verb", Made(first, "out", prefix="O=")), ()),))
    folder = folder_of(second, tmp_path)
    content = json.loads((folder.path / "work.json").read_text())
    assert content["commands"][0]["arguments"] == ["-m", "tools", "verb", f"O={tmp_path / first.folder}/out"]
    assert second.needs == (first,)
