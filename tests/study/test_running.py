"""Many pieces of work: in the right order, in spite of failures and of being killed at any moment."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from counting import SCRIPT, counting, failing, graph, numbers

from scintikit.errors import ConfigError
from scintikit.study import Command, LocalExecutor, Made, RayExecutor, Work, read_status, run_all, write_plan


def run_here(works: list[Work], root: Path) -> dict[str, str | None]:
    executor = LocalExecutor(2)
    try:
        return {outcome.work.name: outcome.error for outcome in run_all(works, root, executor)}
    finally:
        executor.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("whole")
    assert set(run_here(graph(), root).values()) == {None}
    return numbers(graph(), root)


def test_pieces_get_what_they_need(expected: list[str]) -> None:
    # first ends at 9, second at 14, so third at 9 + 14 + 11 and fourth at 9 + 7, and fifth at their sum + 8.
    assert [text.split()[-1] for text in expected] == ["34", "16", "58"]


def test_finished_pieces_are_used_again_and_changes_redo_what_depends_on_them(tmp_path: Path) -> None:
    first = counting("first", 3)
    run_here([counting("second", 4, first)], tmp_path)
    before = (tmp_path / first.folder / "done.json").stat().st_mtime_ns
    changed = counting("second", 5, counting("first", 3))
    run_here([changed], tmp_path)
    assert (tmp_path / first.folder / "done.json").stat().st_mtime_ns == before
    assert len((tmp_path / changed.folder / "numbers").read_text().split()) == 5


def test_a_failure_stops_only_what_depends_on_it(tmp_path: Path) -> None:
    broken = failing("broken")
    outcomes = run_here([counting("after", 2, broken), counting("beside", 2)], tmp_path)
    assert outcomes["beside"] is None
    assert "error: no luck" in (outcomes["broken"] or "")
    assert outcomes["after"] == "needs fail broken, which failed"


def test_what_filled_a_folder_that_is_gone_is_done_again(tmp_path: Path) -> None:
    shared = Work("dataset", "shared", (), inputs=("content",))
    parts = tuple(
        Work("fill", name, (Command((Made(shared, name), 3, 0), (), program=("-c", SCRIPT)),)) for name in ("a", "b")
    )
    script = "import sys, shutil; shutil.copy(*sys.argv[1:])"
    copying = Work(
        "copy", "c", (Command((Made(shared, "a", fillers=parts), Made(path="a")), (), program=("-c", script)),)
    )
    assert set(run_here([copying], tmp_path).values()) == {None}
    shutil.rmtree(tmp_path / shared.folder)
    shutil.rmtree(tmp_path / copying.folder)
    assert set(run_here([copying], tmp_path).values()) == {None}
    assert (tmp_path / copying.folder / "a").read_text() == "0\n1\n2\n"


@pytest.mark.parametrize("workers", [0, -1, 2.5, "two"])
def test_workers_are_a_number_of_them(workers: Any) -> None:
    with pytest.raises(ConfigError, match=f"workers is {workers!r}; expected"):
        LocalExecutor(workers)


def test_what_failed_is_not_tried_again_by_what_follows(tmp_path: Path) -> None:
    broken, executor = failing("broken"), LocalExecutor(1)
    first = run_all([broken, counting("fine", 2)], tmp_path, executor)
    log = tmp_path / broken.folder / "log.txt"
    before = log.stat().st_size
    second = run_all([counting("after", 2, broken), counting("last", 3)], tmp_path, executor, before=first)
    executor.close()
    assert {o.work.name: o.error is None for o in second} == {"after": False, "last": True}
    assert log.stat().st_size == before


def test_pieces_at_once_have_different_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    script = "import os, sys, time; open(sys.argv[1], 'w').write(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.5)"
    works = [Work("see", n, (Command((Made(path="seen"), n), (), program=("-c", script)),), gpu=True) for n in "ab"]
    executor = LocalExecutor()
    assert executor.workers == 2
    run_all(works, tmp_path, executor)
    executor.close()
    assert {(tmp_path / work.folder / "seen").read_text() for work in works} == {"0", "1"}


def test_status_tells_what_is_done_failed_and_left(tmp_path: Path) -> None:
    works = [counting("a", 2), failing("b")]
    write_plan([*works, counting("c", 3)], tmp_path)
    assert read_status(tmp_path)["counts"] == {"done": 0, "running": 0, "failed": 0, "waiting": 3}
    assert read_status(tmp_path)["seconds_left"] is None
    run_here(works, tmp_path)
    status = read_status(tmp_path)
    assert status["counts"] == {"done": 1, "running": 0, "failed": 1, "waiting": 1}
    assert [entry["state"] for entry in status["works"]] == ["done", "failed", "waiting"]
    assert "no luck" in status["works"][1]["error"]
    with pytest.raises(ConfigError, match="holds no study"):
        read_status(tmp_path / "elsewhere")


def test_killed_at_random_moments_it_ends_with_the_same_numbers(tmp_path: Path, expected: list[str]) -> None:
    chance = random.Random(5)
    script = Path(__file__).parent / "counting.py"
    for kill in range(5):
        process = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path)], start_new_session=True, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()  # it begins
        time.sleep(chance.uniform(0, 0.7))
        if kill % 2:  # the study alone, whose pieces go on as orphans
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert set(run_here(graph(), tmp_path).values()) == {None}
    assert numbers(graph(), tmp_path) == expected


@pytest.mark.ray
def test_on_two_nodes_of_which_one_dies(tmp_path: Path, expected: list[str]) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    from ray.cluster_utils import Cluster

    slow = [counting(f"slow {number}", 20 + number, pause=0.2) for number in range(4)]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        executor = RayExecutor(cluster.address)
        assert executor.workers == 2
        killed = False

        def kill_once(outcome: object) -> None:
            nonlocal killed
            if not killed:
                cluster.remove_node(node, allow_graceful=False)
                killed = True

        outcomes = run_all([*slow, *graph()], tmp_path, executor, kill_once)
        executor.close()
    finally:
        cluster.shutdown()
    assert killed
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    assert numbers(graph(), tmp_path) == expected
    assert [len(text.split()) for text in numbers(slow, tmp_path)] == [20, 21, 22, 23]
