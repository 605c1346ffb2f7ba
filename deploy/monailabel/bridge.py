"""The way from MONAI Label's environment into scintikit's: a process that is kept running."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: What a request may say of an image that its file does not: items of the bundle's config.
OPTIONS = ("assumed_spacing_mm", "assumed_view", "layout")


class Bridge:
    """Send requests to `worker.py`, one at a time; start it, and again if it has died.

    Parameters
    ----------
    python
        The Python of scintikit's environment.
    timeout_s
        How long an answer may take, the start included; then the worker is ended.
    """

    def __init__(self, python: str | Path, timeout_s: float = 600) -> None:
        self.python = str(python)
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process = self._start()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the worker's answer to a request, or why there is none under `error`."""
        with self._lock:
            if self._process.poll() is not None:
                self._process = self._start()
            process = self._process
            timer = threading.Timer(self.timeout_s, process.kill)
            timer.start()
            try:
                line = _exchange(process, json.dumps(request) + "\n")
            finally:
                timer.cancel()
            if line.endswith("\n"):  # else it was cut off
                return json.loads(line)
            process.communicate()
            return {"error": f"inference stopped with exit code {process.returncode}; the server's log has more"}

    def close(self) -> None:
        """Let the worker end."""
        with self._lock:
            self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, "-m", "deploy.monailabel.worker"],
            cwd=ROOT,
            # MONAI Label puts its own folders on the path of its children.
            env=os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )


def _exchange(process: subprocess.Popen[str], line: str) -> str:
    """Return the line that a process writes for one that it reads; "" if it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        return ""
    return process.stdout.readline()
