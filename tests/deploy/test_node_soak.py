"""Two hundred studies arrive while Orthanc and the watcher are killed again and again."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import node_parts as parts
import pytest

STUDIES = 200
KILLS = 24
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.slow,
    pytest.mark.skipif(not parts.INSTALLED, reason="Orthanc is not installed"),
]


def children(process):
    """Return the process numbers of a node's programs by name."""
    found = {}
    for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        command = Path(f"/proc/{number}/cmdline").read_bytes()
        found["watcher" if b"deploy.orthanc" in command else "Orthanc"] = int(number)
    return found


def states(node):
    """Return the number of studies that something is due for, and of those in each state."""
    with sqlite3.connect(f"file:{node.ledger}?mode=ro", uri=True) as connection:
        waiting = connection.execute("SELECT count(*) FROM studies WHERE due IS NOT NULL").fetchone()[0]
        return waiting, dict(connection.execute("SELECT state, count(*) FROM studies GROUP BY state"))


def finished(node):
    return sum(states(node)[1].get(state, 0) for state in ("done", "unsuitable"))


def await_progress(node, studies, seconds):
    """Wait until some more studies are finished, so that kills fall into the midst of work, and then a moment."""
    goal = finished(node) + studies
    end = time.monotonic() + 6
    while finished(node) < goal and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(seconds)


@pytest.mark.timeout(400)
def test_each_of_200_studies_has_one_report_though_everything_is_killed_at_random(tmp_path):
    randomness = random.Random(0)
    source = tmp_path / "source"
    source.mkdir()
    kinds = ["OT" if number % 5 == 0 else "NM" for number in range(STUDIES)]
    studies = [parts.make_study(source, number, modality=kind) for number, kind in enumerate(kinds)]
    node = parts.new_node(tmp_path / "node", stable_s=1)
    places = ["--folder", node.folder, "--http-port", node.http_port, "--dicom-port", node.dicom_port]
    options = [*places, "--status-port", node.status_port, "--stable-s", node.stable_s]
    command = [sys.executable, "-m", "deploy.orthanc", *options, "--application", "node_parts:application"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stdout=log, stderr=log)
    sender = threading.Thread(target=lambda: [parts.send(node, study) for study in studies], daemon=True)
    killed = []
    try:
        parts.wait_for(lambda: node.archive().last_change() >= 0)
        sender.start()
        while len(killed) < KILLS:
            await_progress(node, randomness.randint(1, 10), randomness.uniform(0, 0.2))
            running = children(process)
            if running:
                name = randomness.choice(sorted(running))
                os.kill(running[name], signal.SIGKILL)
                killed.append(name)
        sender.join(120)
        assert not sender.is_alive()
        parts.wait_for(lambda: states(node) == (0, {"done": kinds.count("NM"), "unsuitable": kinds.count("OT")}), 120)
        archive = node.archive()
        for modality in ("SR", "OT"):
            counts = sorted(parts.results(archive, modality).values())
            # The 40 studies that do not match hold one OT themselves.
            assert counts == ([0] * 40 + [1] * 160 if modality == "SR" else [1] * 200)
        with sqlite3.connect(node.ledger) as connection:
            print(killed, connection.execute("SELECT attempts, count(*) FROM studies GROUP BY attempts").fetchall())
    finally:
        process.terminate()
        process.wait(30)
        log.close()
    assert set(killed) == {"Orthanc", "watcher"}
    text = (tmp_path / "log").read_text()
    assert node.password() not in text
    assert not any(secret in text for secret in parts.SECRETS)
