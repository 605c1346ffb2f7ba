"""The status page and a report in headless Chromium: no error, every picture drawn."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import threading
import time

import node_parts as parts
import numpy as np
import pydicom
import pytest

from deploy.orthanc.ledger import Ledger
from deploy.orthanc.status import serve
from deploy.orthanc.watcher import draw_thumbnail
from scintikit.metrics import evaluate_classifier
from scintikit.reporting import classification_report, predictions_table

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
    "--window-size=1280,1400",
]
PICTURES = "[...document.images].map(i => [i.src.slice(0, 80), i.complete && i.naturalWidth > 0])"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (make system)"),
]


class Browser:
    """A page of Chromium, driven over the pipe of its DevTools protocol (JSON, each message ended by a zero byte)."""

    def __init__(self, profile):
        reading, their_output = os.pipe()
        their_input, self.writing = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4.
        pipes = f"3<&{their_input} 4>&{their_output}"
        shell = f"exec {CHROMIUM} {' '.join(FLAGS)} --user-data-dir={profile} about:blank {pipes}"
        self.process = subprocess.Popen(
            ["bash", "-c", shell], pass_fds=(their_input, their_output), stderr=subprocess.DEVNULL
        )
        os.close(their_input)
        os.close(their_output)
        self.stream = os.fdopen(reading, "rb")
        self.number, self.session, self.events = 0, {}, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self):
        buffer = bytearray()
        while (byte := self.stream.read(1)) != b"\0":
            assert byte, "Chromium ended"
            buffer += byte
        return json.loads(buffer)

    def open(self, address):
        self.events = []
        self.ask("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())
        time.sleep(0.5)
        return self.evaluate(PICTURES)

    def evaluate(self, expression):
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def complaints(self):
        names = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed")
        return [event for event in self.events if event["method"] in names]

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.stream.close()
        os.close(self.writing)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@contextlib.contextmanager
def status_page(folder):
    outcome = parts.run_cheaply(parts.make_study(folder, 0), folder / "out")
    png = draw_thumbnail(pydicom.dcmread(outcome.files[1]))
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.follow(9, {str(number): 1.0 for number in range(6)})
    for study in ledger.due(9):
        ledger.begin(study, f"{study.study}-0123", "sources")
        state = "done" if int(study.study) < 4 else "failed"
        ledger.finish(
            study, state, "<script>document.title = 'hostile'</script>", 0.2, png if state == "done" else None
        )
    ledger.close()
    with serve(folder / "ledger.sqlite", lambda: {"Orthanc": "running"}, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_status_page_loads_without_complaint_and_with_all_pictures(browser, tmp_path):
    with status_page(tmp_path) as address:
        pictures = browser.open(address)
        browser.screenshot(tmp_path / "status.png")
    assert [drawn for _, drawn in pictures] == [True] * 4
    assert browser.complaints() == []
    assert browser.evaluate("document.title") == "scintikit node: 0 waiting, 2 set aside"
    assert browser.evaluate("getComputedStyle(document.querySelector('figure')).borderRadius") == "10px"


def test_a_report_loads_without_complaint_and_with_all_pictures(browser, tmp_path):
    names, generator = ["nodular goiter", "normal"], np.random.default_rng(0)
    labels = np.arange(24) % 2
    odds = generator.random(24)
    probabilities = np.stack([odds, 1 - odds], axis=1)
    centres = np.array(["F", "H"])[labels]
    metrics = evaluate_classifier(
        probabilities, labels, np.arange(24), centres, names, conformal_threshold=0.8, bootstrap=20
    )
    table = predictions_table([str(n) for n in range(24)], probabilities, names, labels=labels, centres=centres)
    images, heat = generator.poisson(5, (24, 16, 16)), generator.random((24, 4, 4))
    report = classification_report(tmp_path, metrics, table, images, heat, {"seed": 0}, title="test")
    pictures = browser.open(report.as_uri())
    assert len(pictures) >= 4
    assert all(drawn for _, drawn in pictures)
    assert browser.complaints() == []


def test_a_missing_picture_would_be_noticed(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<img src='nothing.png'><script>console.error('seen')</script>")
    assert [drawn for _, drawn in browser.open(page.as_uri())] == [False]
    assert {event["method"] for event in browser.complaints()} >= {"Runtime.consoleAPICalled", "Network.loadingFailed"}
