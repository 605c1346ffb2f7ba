"""The node's folder, its Orthanc, and the programs that are started again."""

import contextlib
import socket
import stat
import sys
import threading
import time
from pathlib import Path

import node_parts as parts
import pytest
import requests

from deploy.orthanc.archive import Archive, ArchiveAway, ArchiveError
from deploy.orthanc.ledger import Ledger, LedgerError
from deploy.orthanc.server import Node, NodeError, Program, check_ports, prepare_ledger, supervise

needs_orthanc = pytest.mark.skipif(not parts.INSTALLED, reason="Orthanc is not installed (make system)")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A node whose Orthanc runs and holds what the watcher made of three studies."""
    source = tmp_path_factory.mktemp("source")
    node = parts.new_node(tmp_path_factory.mktemp("node") / "node")
    Ledger(node.ledger).close()
    studies = [parts.make_study(source, number, files=2) for number in range(3)]
    with parts.orthanc(node), parts.watching(node):
        parts.send(node, [path for study in studies for path in study])
        parts.wait_for(lambda: [row["state"] for row in parts.rows(node)] == ["done"] * 3)
        yield node


@pytest.mark.orthanc
@needs_orthanc
def test_studies_sent_by_c_store_get_one_report_and_one_picture_each(running):
    archive = running.archive()
    assert sorted(parts.results(archive, "SR").values()) == [1, 1, 1]
    assert sorted(parts.results(archive, "OT").values()) == [1, 1, 1]


@pytest.mark.orthanc
@needs_orthanc
def test_storing_again_changes_nothing(running, tmp_path):
    archive = running.archive()
    (path,) = parts.make_study(tmp_path, 77)
    archive.store(path)
    changes = archive.last_change()
    archive.store(path)
    assert [change["ChangeType"] for change in archive.changes(changes) if "New" in change["ChangeType"]] == []


@pytest.mark.orthanc
@needs_orthanc
def test_a_study_that_is_deleted_and_sent_again_gets_its_report_again(tmp_path):
    node = parts.new_node(tmp_path / "node")
    files = parts.make_study(tmp_path, 0)
    with parts.orthanc(node), parts.watching(node):
        archive = node.archive()
        for _ in range(2):
            parts.send(node, files)
            parts.wait_for(lambda: list(parts.results(archive, "SR").values()) == [1])
            (study,) = parts.results(archive, "SR")
            requests.delete(f"{node.url}/studies/{study}", auth=archive.session.auth, timeout=5).raise_for_status()


@pytest.mark.orthanc
@needs_orthanc
def test_orthanc_listens_on_this_machine_only_and_asks_for_the_password(running):
    listening = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, port = line.split()[1].split(":")
        if line.split()[3] == "0A":
            listening[int(port, 16)] = address
    assert listening[running.http_port] == listening[running.dicom_port] == "0100007F"  # 127.0.0.1
    for page in ("/system", "/studies", "/dicom-web/studies"):
        assert requests.get(running.url + page, timeout=5).status_code == 401
    with pytest.raises(ArchiveError, match="password"):
        Archive(running.url, "scintikit", "guess").last_change()
    assert requests.get(running.url + "/dicom-web/studies", auth=running.archive().session.auth, timeout=5).ok


@pytest.mark.orthanc
@needs_orthanc
def test_the_password_stands_in_its_own_file_alone_and_identities_in_the_archive_alone(running):
    assert stat.S_IMODE((running.folder / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE(running.folder.stat().st_mode) == 0o700
    for path in running.folder.rglob("*"):
        if path.is_file() and path.name != "password":
            content = path.read_bytes()
            assert running.password().encode() not in content, path
            if "archive" not in path.parts:
                assert not [secret for secret in parts.SECRETS if secret.encode() in content], path


def test_the_password_is_made_once_and_differs_between_nodes(tmp_path):
    first, second = Node(tmp_path / "a"), Node(tmp_path / "b")
    with pytest.raises(NodeError, match="start the node first"):
        first.password()
    first.prepare()
    second.prepare()
    password = first.password()
    assert len(password) >= 32
    assert password != second.password()
    first.prepare()
    assert first.password() == password


def test_a_folder_that_cannot_be_preloaded_from_is_refused(tmp_path):
    for name in ("my node", "a:b"):  # Orthanc would listen on all addresses
        node = Node(tmp_path / name)
        with pytest.raises(NodeError, match="blank or colon"):
            node.prepare()
        assert not node.folder.exists()


def test_of_an_archive_that_is_gone_the_ledger_starts_anew(tmp_path):
    node = Node(tmp_path)
    for index, position in ((False, 0), (True, 7)):
        with contextlib.closing(Ledger(node.ledger)) as ledger:
            ledger.follow(7, {})
        node.prepare()
        if index:
            (tmp_path / "archive" / "index").touch()
        prepare_ledger(node)
        with contextlib.closing(Ledger(node.ledger)) as ledger:
            assert ledger.position() == position


def test_a_damaged_ledger_is_an_error_of_one_line(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerError, match="move it away"):
        Ledger(tmp_path / "ledger.sqlite")


def test_an_empty_password_is_refused(tmp_path):
    node = Node(tmp_path)
    (tmp_path / "password").write_text("\n")
    with pytest.raises(NodeError, match="is empty"):
        node.password()


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(NodeError, match="in use"):
            check_ports(Node(tmp_path, *parts.free_ports(2), taken.getsockname()[1]))


def test_an_archive_that_does_not_answer_is_away():
    (port,) = parts.free_ports(1)
    with pytest.raises(ArchiveAway, match="does not answer"):
        Archive(f"http://127.0.0.1:{port}", "a", "b").last_change()


def test_a_program_that_ends_is_started_again_ever_later_and_ended_at_last(tmp_path):
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'a').write('x'); import time; time.sleep({{}})"
    quitter = Program("quitter", [sys.executable, "-c", code.format(0)])
    stayer = Program("stayer", [sys.executable, "-c", "import time; time.sleep(60)"])
    stop = threading.Event()
    thread = threading.Thread(target=supervise, args=([quitter, stayer], stop))
    thread.start()
    try:
        time.sleep(3.2)
        assert stayer.state == "running"
        killed = stayer.process
        killed.kill()
        parts.wait_for(lambda: stayer.state == "running" and stayer.process is not killed)
    finally:
        stop.set()
        thread.join()
    assert 2 <= len(mark.read_text()) <= 3  # at 0, 0.5 and 2 s or so, not all the time
    assert stayer.process.poll() is not None
