"""The status page: what it shows, and what it never does."""

import contextlib
import socket
import threading

import node_parts as parts
import pydicom
import pytest
import requests

from deploy.orthanc.ledger import Ledger
from deploy.orthanc.status import Handler, read_status, serve
from deploy.orthanc.watcher import draw_thumbnail

HOSTILE = "unsuitable <script>alert(1)</script>"


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    folder = tmp_path_factory.mktemp("png")
    outcome = parts.run_cheaply(parts.make_study(folder, 0), folder / "out")
    return draw_thumbnail(pydicom.dcmread(outcome.files[1]))


@pytest.fixture
def page(tmp_path, png):
    """The address of a page about studies of every state."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.follow(9, dict.fromkeys(("done", "unsuitable", "failed", "retrying", "waiting"), 1.0))
    for study in ledger.due(9):
        ledger.begin(study, f"{study.study}-0123", "sources")
        if study.study == "retrying":
            ledger.retry_later(study, 2, "the disk is full", 600)
        elif study.study != "waiting":
            ledger.finish(study, study.study, HOSTILE, 0.3, png if study.study == "done" else None)
    ledger.close()
    with serve(path, lambda: {"Orthanc": "running", "watcher": "starting"}, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_it_shows_counts_results_failures_and_reasons_escaped(page):
    text = requests.get(page, timeout=5).text
    for name in ("done-0123", "failed-0123", "unsuitable-0123", "retrying-0123"):
        assert name in text
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    assert "the disk is full" in text
    assert "in 10 min" in text
    assert "watcher: starting" in text
    assert "Research use only" in text


def test_its_pictures_and_style_are_served(page, png):
    assert requests.get(f"{page}/thumbnails/done-0123.png", timeout=5).content == png
    assert requests.get(f"{page}/status.css", timeout=5).headers["Content-Type"].startswith("text/css")
    for other in ("/thumbnails/failed-0123.png", "/thumbnails/../ledger.sqlite", "/ledger.sqlite", "/password"):
        assert requests.get(page + other, timeout=5).status_code == 404


def test_it_is_read_only_and_closed_to_foreign_pages(page, tmp_path):
    before = (tmp_path / "ledger.sqlite").read_bytes()
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert requests.request(method, page, timeout=5).status_code == 501
    assert requests.get(page, headers={"Host": "evil.example:80"}, timeout=5).status_code == 403
    for address in (page, f"{page}/nothing"):
        headers = requests.get(address, timeout=5).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert (tmp_path / "ledger.sqlite").read_bytes() == before


def test_an_empty_node_has_a_page(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with contextlib.closing(Ledger(path)), serve(path, dict, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert "None yet" in requests.get(f"http://127.0.0.1:{server.server_port}", timeout=5).text
        server.shutdown()


def test_a_ledger_that_is_gone_is_an_answer_and_no_traceback(tmp_path, capfd):
    with serve(tmp_path / "ledger.sqlite", dict, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for path in ("", "/thumbnails/a.png"):
            assert requests.get(f"http://127.0.0.1:{server.server_port}{path}", timeout=5).status_code == 503
        server.shutdown()
    assert "Traceback" not in capfd.readouterr().err


def test_a_folder_may_have_any_name(tmp_path):
    path = tmp_path / "node?#%41" / "ledger.sqlite"
    path.parent.mkdir()
    Ledger(path).close()
    assert read_status(path)["counts"] == {}


def test_a_client_that_says_nothing_is_not_waited_for(page, monkeypatch):
    monkeypatch.setattr(Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", int(page.rpartition(":")[2])), timeout=5) as client:
        assert client.recv(1) == b""
