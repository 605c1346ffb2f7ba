import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from scintikit.data import DatasetWriter, load_dataset
from scintikit.errors import DatasetError
from scintikit.files import write_atomic

SETTINGS = {"name": "n", "description": "d", "labels": ["a", "b"], "licence": "none"}

FORK = "fork" in multiprocessing.get_all_start_methods()


def generate(folder, pause, item):
    """Do what a generator does: file after file, skipping those that are there."""
    writer = DatasetWriter(folder, **SETTINGS, recipe={"seed": 1})
    items = []
    for n in range(100):
        image = f"images/A_{n}.dcm"
        items.append(item(f"A_{n}", n % 2))
        if not writer.has(image):
            write_atomic(writer.folder / image, bytes([n]) * 10_000)
            time.sleep(pause)
    writer.finish(training=items)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(not FORK, reason="needs a process that starts at once")
def test_killed_at_any_moment_a_second_run_ends_in_the_same_bytes(tmp_path, item):
    generate(tmp_path / "whole", 0, item)
    process = multiprocessing.get_context("fork").Process(target=generate, args=(tmp_path / "killed", 0.01, item))
    process.start()
    time.sleep(0.4)
    process.kill()
    process.join()
    assert 1 <= len(contents(tmp_path / "killed")) < 101
    assert not (tmp_path / "killed/dataset.json").exists()
    # The worst moment: in the middle of a file.
    write_atomic(tmp_path / "killed/images/.A_99.dcm.xyz.tmp", b"half")
    generate(tmp_path / "killed", 0, item)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert load_dataset(tmp_path / "killed").sha256 == load_dataset(tmp_path / "whole").sha256


def test_complete_only_after_finish(tmp_path, item):
    writer = DatasetWriter(tmp_path / "d", **SETTINGS, recipe={"seed": 1, "pair": (1, 2)})
    assert not writer.complete
    assert not writer.has("images/A_1.dcm")
    write_atomic(writer.folder / "images/A_1.dcm", b"x")
    assert writer.has("images/A_1.dcm")
    writer.finish(training=[item("A_1")])
    again = DatasetWriter(tmp_path / "d", **SETTINGS, recipe={"seed": 1, "pair": (1, 2)})
    assert again.complete
    assert json.loads((tmp_path / "d/dataset.json").read_text())["recipe"] == {"seed": 1, "pair": [1, 2]}


def test_finish_refuses_items_without_file_and_writes_nothing(tmp_path, item):
    writer = DatasetWriter(tmp_path / "d", **SETTINGS, recipe={})
    with pytest.raises(DatasetError, match="is missing"):
        writer.finish(training=[item("A_1")])
    assert not writer.complete


def test_another_recipe_and_foreign_files_are_refused(tmp_path):
    DatasetWriter(tmp_path / "d", **SETTINGS, recipe={"seed": 1})
    write_atomic(tmp_path / "d/images/A_1.dcm", b"x")
    with pytest.raises(DatasetError, match="other settings"):
        DatasetWriter(tmp_path / "d", **SETTINGS, recipe={"seed": 2})
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="is not empty"):
        DatasetWriter(tmp_path / "foreign", **SETTINGS, recipe={})
    assert (tmp_path / "foreign/notes.txt").read_text() == "mine"
    with pytest.raises(DatasetError, match="is a file"):
        DatasetWriter(tmp_path / "foreign/notes.txt", **SETTINGS, recipe={})


def test_claim_with_nothing_behind_it_gives_way_to_another_recipe(tmp_path):
    for seed in (1, 2):
        DatasetWriter(tmp_path, **SETTINGS, recipe={"seed": seed})
    assert json.loads((tmp_path / "recipe.json").read_text())["recipe"] == {"seed": 2}
    with pytest.raises(DatasetError, match="other settings"):  # another run may be about to write
        DatasetWriter(tmp_path, **SETTINGS, recipe={"seed": 3}, shared=True)


def test_nothing_is_deleted_in_a_folder_that_is_not_ours(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/.notes.tmp").write_text("keep")
    with pytest.raises(DatasetError, match="not empty"):
        DatasetWriter(tmp_path, **SETTINGS, recipe={"seed": 1})
    assert (tmp_path / "mine/.notes.tmp").read_text() == "keep"


def test_a_run_killed_while_it_claimed_the_folder_can_be_repeated(tmp_path):
    (tmp_path / ".recipe.json.abc.tmp").write_text("{")
    DatasetWriter(tmp_path, **SETTINGS, recipe={"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_report_of_the_maker_is_kept(tmp_path, item):
    writer = DatasetWriter(tmp_path / "d", **SETTINGS, recipe={})
    write_atomic(writer.folder / "images/A_1.dcm", b"x")
    writer.finish(training=[item("A_1")], report={"left_out": {"empty": 3}})
    assert json.loads((tmp_path / "d/dataset.json").read_text())["report"] == {"left_out": {"empty": 3}}
    assert load_dataset(tmp_path / "d").splits["training"]
    with pytest.raises(DatasetError, match="report"):
        writer.finish(training=[item("A_1")], report=["no object"])


def test_shared_folder_keeps_the_temporary_files_of_other_runs(tmp_path):
    DatasetWriter(tmp_path / "d", **SETTINGS, recipe={}, shared=True)
    write_atomic(tmp_path / "d/images/.A_1.dcm.xyz.tmp", b"another run is writing this")
    writer = DatasetWriter(tmp_path / "d", **SETTINGS, recipe={}, shared=True)
    assert writer.has("images/.A_1.dcm.xyz.tmp")
    writer.tidy()
    assert not writer.has("images/.A_1.dcm.xyz.tmp")


def test_tidying_bears_that_another_run_removes_a_folder_meanwhile(tmp_path, monkeypatch):
    writer = DatasetWriter(tmp_path, **SETTINGS, recipe={}, shared=True)
    (tmp_path / "batches").mkdir()
    write_atomic(tmp_path / "images/.A_1.dcm.xyz.tmp", b"half")
    scandir = os.scandir

    def vanish(path):
        if Path(path).name == "batches":
            (tmp_path / "batches").rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    writer.tidy()
    assert not (tmp_path / "batches").exists()
    assert not writer.has("images/.A_1.dcm.xyz.tmp")


def test_several_runs_may_claim_a_shared_folder_at_once(tmp_path):
    """Whatever moment of the other's claim one sees: no file, a temporary one, the recipe itself."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/.recipe.json.xyz.tmp").write_text("{")
    one, other = (DatasetWriter(tmp_path / "d", **SETTINGS, recipe={"a": 1}, shared=True) for _ in range(2))
    assert one.folder == other.folder == tmp_path / "d"
    assert not one.complete
    with pytest.raises(DatasetError, match="other settings"):
        DatasetWriter(tmp_path / "d", **SETTINGS, recipe={"a": 2}, shared=True)
