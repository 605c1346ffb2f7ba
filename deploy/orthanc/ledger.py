"""What the watcher knows: how far it has read Orthanc's change log, and how every study stands. One SQLite file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scintikit.errors import ScintikitError

THUMBNAILS = 60
"""How many pictures are kept: those of the newest results."""

LONGEST_S = 86400.0
"""No study has to wait that long."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS position (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), change INTEGER NOT NULL);
INSERT OR IGNORE INTO position VALUES (1, 0);
CREATE TABLE IF NOT EXISTS studies (
    study TEXT PRIMARY KEY,                -- Orthanc's identifier
    pseudonym TEXT,                        -- short hash of the StudyInstanceUID: the only name that is shown
    state TEXT NOT NULL DEFAULT 'waiting', -- waiting, retrying, done, unsuitable or failed
    due REAL,                              -- when to look at it, in s since 1970; NULL: nothing is to be done
    change INTEGER NOT NULL,               -- number of the last change of it
    attempts INTEGER NOT NULL DEFAULT 0,   -- at its present instances
    sources TEXT,                          -- hash of the instances that state and attempts are about
    reason TEXT NOT NULL DEFAULT '',
    finished REAL,
    seconds REAL,                          -- from its download to the last result's storage
    thumbnail BLOB                         -- PNG
);
CREATE INDEX IF NOT EXISTS studies_due ON studies (due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS studies_finished ON studies (finished);
"""


class LedgerError(ScintikitError):
    """The ledger cannot be used; the message says why."""


@dataclass(frozen=True)
class Study:
    """A row of the ledger, as it was when it was read."""

    study: str
    state: str
    change: int
    attempts: int
    sources: str | None

    @property
    def settled(self) -> bool:
        """Whether the last outcome stands as long as the sources are the same."""
        return self.state in ("done", "unsuitable", "failed")


class Ledger:
    """The watcher's memory. Every method is one transaction, on disk when it returns; for one thread.

    Parameters
    ----------
    path
        The file; made if there is none.

    Raises
    ------
    LedgerError
        If it is damaged, cannot be written or stays locked.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode = WAL")  # the status page reads while the watcher writes
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.executescript(SCHEMA)
        except sqlite3.Error as error:
            advice = "if it is damaged, stop the node and move it away: the archive is then read from its beginning"
            raise LedgerError(f"{path} cannot be used ({error}); {advice}") from error

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def position(self) -> int:
        """Return the number of the last change that was followed."""
        return self.connection.execute("SELECT change FROM position").fetchone()[0]

    def rewind(self) -> None:
        """Go back to the start of the change log, for an archive that is not the one that was followed."""
        self.connection.execute("UPDATE position SET change = 0")

    def follow(self, position: int, due: Mapping[str, float], new: Iterable[str] = ()) -> None:
        """Note that the log was followed up to `position`, and the studies to look at with the time.

        What is known of studies that are new to the archive is of deleted ones, and forgotten.
        """
        self.connection.execute("BEGIN IMMEDIATE")
        with self.connection:
            self.connection.execute("UPDATE position SET change = ?", (position,))
            self.connection.executemany("DELETE FROM studies WHERE study = ?", [(study,) for study in new])
            self.connection.executemany(
                "INSERT INTO studies (study, due, change) VALUES (?, ?, ?) "
                "ON CONFLICT (study) DO UPDATE SET due = excluded.due, change = excluded.change",
                [(study, when, position) for study, when in due.items()],
            )

    def due(self, limit: int) -> list[Study]:
        """Return the studies to look at now, the longest due first; also those of a clock that was ahead."""
        now = time.time()
        rows = self.connection.execute(
            "SELECT study, state, change, attempts, sources FROM studies WHERE due <= ? OR due > ? "
            "ORDER BY due LIMIT ?",
            (now, now + LONGEST_S, limit),
        )
        return [Study(*row) for row in rows]

    def postpone(self, study: Study, seconds: float) -> None:
        """Look at a study later; what was begun was no attempt."""
        self._update(study, time.time() + seconds, attempts=study.attempts)

    def settle(self, study: Study) -> None:
        """Note that there is nothing to do: its instances are those of the last outcome."""
        self._update(study, None)

    def forget(self, study: Study) -> None:
        """Drop a study that is no longer in the archive."""
        self.connection.execute("DELETE FROM studies WHERE study = ? AND change = ?", (study.study, study.change))

    def begin(self, study: Study, pseudonym: str, sources: str) -> int:
        """Count an attempt before it is made, so that one that ends the program is counted, and return its number."""
        attempts = study.attempts + 1 if sources == study.sources else 1
        self._update(study, time.time(), attempts=attempts, pseudonym=pseudonym, sources=sources)
        return attempts

    def finish(
        self, study: Study, state: str, reason: str, seconds: float | None = None, thumbnail: bytes | None = None
    ) -> None:
        """Note the outcome `done`, `unsuitable` or `failed`."""
        self.connection.execute("BEGIN IMMEDIATE")
        with self.connection:
            outcome = {"state": state, "reason": reason, "seconds": seconds, "thumbnail": thumbnail}
            self._update(study, None, finished=time.time(), **outcome)
            self.connection.execute(
                "UPDATE studies SET thumbnail = NULL WHERE thumbnail IS NOT NULL AND finished < "
                "(SELECT finished FROM studies WHERE thumbnail IS NOT NULL ORDER BY finished DESC LIMIT 1 OFFSET ?)",
                (THUMBNAILS - 1,),
            )

    def retry_later(self, study: Study, attempts: int, reason: str, seconds: float) -> None:
        """Note that an attempt failed, and look at the study again later."""
        self._update(study, time.time() + seconds, state="retrying", attempts=attempts, reason=reason)

    def retry_failed(self) -> int:
        """Let everything that was set aside be tried again; return how many studies that are."""
        changed = self.connection.execute(
            "UPDATE studies SET due = ?, state = 'waiting', attempts = 0 WHERE state = 'failed'", (time.time(),)
        )
        return changed.rowcount

    def _update(self, study: Study, due: float | None, **columns: object) -> None:
        """Set when to look at a study, unless it has changed since it was read, and other columns."""
        assignments = "".join(f", {name} = ?" for name in columns)
        self.connection.execute(
            f"UPDATE studies SET due = CASE change WHEN ? THEN ? ELSE due END{assignments} WHERE study = ?",
            (study.change, due, *columns.values(), study.study),
        )
