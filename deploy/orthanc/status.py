"""A page that tells how the node is doing. It reads the ledger, changes nothing, and knows no patient."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jinja2

HERE = Path(__file__).resolve().parent
SHOWN = 24
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LISTS = {
    "done": ("state = 'done'", "finished DESC"),
    "failed": ("state = 'failed'", "finished DESC"),
    "retrying": ("state = 'retrying'", "due"),
    "unsuitable": ("state = 'unsuitable'", "finished DESC"),
}
Programs = Callable[[], Mapping[str, str]]
"""Tells of each program of the node how it is."""


def read_status(ledger: Path) -> dict[str, Any]:
    """Return what the page shows: counts, throughput and the newest studies of each state."""
    with contextlib.closing(_open(ledger)) as connection:
        rows = connection.execute("SELECT state, count(*) AS number FROM studies GROUP BY state")
        counts = {row["state"]: row["number"] for row in rows}
        rates = {
            name: connection.execute(
                "SELECT count(*) FROM studies WHERE state = 'done' AND finished > ?", (time.time() - seconds,)
            ).fetchone()[0]
            for name, seconds in (("minute", 60), ("hour", 3600), ("day", 86400))
        }
        lists = {
            name: connection.execute(
                "SELECT pseudonym, attempts, reason, finished, seconds, due, thumbnail IS NOT NULL AS drawn "
                f"FROM studies WHERE {condition} ORDER BY {order} LIMIT ?",
                (SHOWN,),
            ).fetchall()
            for name, (condition, order) in LISTS.items()
        }
    return {"counts": counts, "rates": rates, **lists}


def read_thumbnail(ledger: Path, pseudonym: str) -> bytes | None:
    """Return a study's picture as PNG, or None if there is none."""
    with contextlib.closing(_open(ledger)) as connection:
        found = connection.execute(
            "SELECT thumbnail FROM studies WHERE pseudonym = ? AND thumbnail IS NOT NULL", (pseudonym,)
        ).fetchone()
    return found and found["thumbnail"]


def draw_page(ledger: Path, programs: Programs) -> str:
    """Return the page as HTML; every value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["ago"] = _ago
    return environment.get_template("status.html").render(now=time.time(), programs=programs(), **read_status(ledger))


def serve(ledger: Path, programs: Programs, port: int) -> ThreadingHTTPServer:
    """Return a server of the page on 127.0.0.1; run its `serve_forever` in a thread. Port 0 means any."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, ledger, programs))


class Handler(BaseHTTPRequestHandler):
    """Answers GET for the page, its style and its pictures, and nothing else."""

    server_version = "scintikit"
    sys_version = ""
    timeout = 10.0  # s, for a client that says or takes nothing

    def __init__(self, ledger: Path, programs: Programs, *arguments: Any) -> None:
        self.ledger = ledger
        self.programs = programs
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Answer a request."""
        try:
            self._answer()
        except sqlite3.Error:  # locked, or moved away
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "The ledger cannot be read")

    def _answer(self) -> None:
        name = (self.headers.get("Host") or "").rpartition(":")[0]
        if name not in ("127.0.0.1", "localhost"):  # a foreign page whose name was made to mean this machine
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path == "/":
            self._send(draw_page(self.ledger, self.programs).encode(), "text/html; charset=utf-8")
        elif self.path == "/status.css":
            self._send((HERE / "status.css").read_bytes(), "text/css; charset=utf-8")
        elif self.path.startswith("/thumbnails/") and (picture := self._thumbnail()):
            self._send(picture, "image/png")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _thumbnail(self) -> bytes | None:
        return read_thumbnail(self.ledger, self.path.removeprefix("/thumbnails/").removesuffix(".png"))

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        """Add the headers that every answer has."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet: the page is asked for every few seconds."""


def _open(ledger: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
    connection.row_factory = sqlite3.Row
    return connection


def _ago(seconds: float) -> str:
    """Return a stretch of time in words, such as "5 min"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
