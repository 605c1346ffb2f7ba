"""Runs an application on every study of an archive that becomes stable, and stores what it makes back. Once."""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pydicom
from PIL import Image

from deploy.orthanc.archive import Archive, ArchiveAway, instances_of
from deploy.orthanc.ledger import Ledger, Study
from scintikit.errors import ScintikitError

logger = logging.getLogger(__name__)

THUMBNAIL_PIXELS = (480, 240)
LONGEST_WAIT_S = 3600.0
REASON_CHARACTERS = 500


class Outcome(Protocol):
    """What an application says of a study: `done`, `unsuitable` or another word; what it wrote; and why."""

    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def files(self) -> Sequence[Path]: ...  # noqa: D102
    @property
    def reasons(self) -> Sequence[str]: ...  # noqa: D102


Application = Callable[[Sequence[Path], Path], Outcome]
"""Takes the DICOM files of a study and a folder for results. The SOP Instance UIDs of its results depend on the source
and the model alone: then a study that is handled again after a crash leaves no second result."""


T = TypeVar("T")
Then = Callable[["Job", T], None]
"""Goes on with a job and what its last task returned."""


@dataclass
class Job:
    """A study on its way."""

    study: Study
    pseudonym: str = ""
    sources: str = ""
    folder: Path | None = None
    files: list[Path] = field(default_factory=list)
    started: float = field(default_factory=time.time)


@dataclass
class Settings:
    """How the watcher goes about it.

    Parameters
    ----------
    modalities
        Of the series that are input; others, such as the SR and SC that it stores, never are.
    stable_s
        Orthanc's `StableAge` in s.
    poll_s
        Between two looks at the change log.
    attempts
        After which a study is set aside.
    first_wait_s
        Before the second attempt; each further wait is four times as long, up to an hour.
    ahead
        Studies in work at once: while one is computed, others are downloaded and stored.
    computing
        How many threads may call the application at once.
    """

    modalities: frozenset[str] = frozenset({"NM"})
    stable_s: float = 60.0
    poll_s: float = 0.5
    attempts: int = 8
    first_wait_s: float = 5.0
    ahead: int = 6
    computing: int = 1


class Watcher:
    """Follow the change log, and keep the ledger.

    Downloads, the application and uploads run in threads; the ledger belongs to the thread that calls `run`.

    Parameters
    ----------
    archive, ledger, application
    work
        Folder for files on their way; emptied.
    settings
    """

    def __init__(
        self, archive: Archive, ledger: Ledger, application: Application, work: Path, settings: Settings | None = None
    ) -> None:
        self.archive = archive
        self.ledger = ledger
        self.application = application
        self.settings = settings or Settings()
        self.work = work
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        self.in_work: set[str] = set()
        self.tasks: dict[Future[Any], tuple[Job, Then[Any]]] = {}
        self.away = False

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; what is then on its way is left for the next time."""
        computing = ThreadPoolExecutor(self.settings.computing, "computing")
        with ThreadPoolExecutor(self.settings.ahead, "archive") as self.pool, computing as self.computing:
            looked = 0.0
            while not stop.is_set():
                if time.monotonic() - looked >= self.settings.poll_s:
                    self._follow()
                    looked = time.monotonic()
                self._start_jobs()
                self._finish_tasks(stop)
            for pool in (self.pool, self.computing):
                pool.shutdown(wait=False, cancel_futures=True)

    def _follow(self) -> None:
        """Take over what is new in the change log."""
        try:
            position = self.ledger.position()
            if self.archive.last_change() < position:
                logger.warning("the change log is shorter than before: another archive? starting at its beginning")
                self.ledger.rewind()
                position = 0
            while changes := self.archive.changes(position):
                position = changes[-1]["Seq"]
                due, new = self._read_changes(changes)
                self.ledger.follow(position, due, new)
        except ArchiveAway as error:
            self._note_away(error)
        else:
            self._note_back()

    def _read_changes(self, changes: Sequence[dict[str, Any]]) -> tuple[dict[str, float], set[str]]:
        """Return when to look at which study, and which studies are new to the archive.

        The log does not tell of a deletion; but a study that is sent again after one is a NewStudy again.

        StableStudy is only said by the Orthanc that saw the last instance arrive, never by one that was restarted
        since: so every new instance makes its study due as well, later.
        """
        arrived = [change["ID"] for change in changes if change["ChangeType"] == "NewInstance"]
        studies = dict(zip(arrived, self.pool.map(self.archive.study_of, arrived), strict=True))
        due: dict[str, float] = {}
        new: set[str] = set()
        now = time.time()
        later = now + self.settings.stable_s + 2 * self.settings.poll_s
        for change in changes:
            kind, identifier = change["ChangeType"], change["ID"]
            if kind == "StableStudy":
                due[identifier] = now
            elif kind == "NewInstance" and (study := studies[identifier]):
                due[study] = later
            elif kind == "NewStudy":
                due[identifier] = later
                new.add(identifier)
        return due, new

    def _start_jobs(self) -> None:
        free = self.settings.ahead - len(self.in_work)
        if self.away or free <= 0:
            return
        due = self.ledger.due(self.settings.ahead + len(self.in_work))
        for study in [study for study in due if study.study not in self.in_work][:free]:
            self.in_work.add(study.study)
            job = Job(study)
            self._submit(self.pool, job, self._fetch, self._begin)

    def _submit(self, pool: ThreadPoolExecutor, job: Job, task: Callable[[Job], T], then: Then[T]) -> None:
        """Do a task in a thread; then go on with what it returned in this one."""
        self.tasks[pool.submit(task, job)] = (job, then)

    def _finish_tasks(self, stop: threading.Event) -> None:
        """Go on with the jobs whose tasks in threads are finished; wait until the next poll for one."""
        if not self.tasks:
            stop.wait(self.settings.poll_s)
            return
        for task in wait(self.tasks, self.settings.poll_s, FIRST_COMPLETED).done:
            job, then = self.tasks.pop(task)
            before = len(self.tasks)
            try:
                then(job, task.result())
            except ArchiveAway as error:
                self._note_away(error)
                self.ledger.postpone(job.study, self.settings.poll_s)
            except Exception as error:
                self._fail(job, error)
            if len(self.tasks) == before:  # nothing more was started for it
                self._leave(job)

    def _fetch(self, job: Job) -> str:
        """Download a study; return `gone`, `arriving`, `unchanged` or `fetched`."""
        identifier = job.study.study
        found = self.archive.study(identifier)
        if found is None:
            return "gone"
        if not found["IsStable"]:
            return "arriving"
        instances = instances_of(self.archive.series(identifier), self.settings.modalities)
        uid = found["MainDicomTags"].get("StudyInstanceUID", identifier)
        job.pseudonym = hashlib.sha256(uid.encode()).hexdigest()[:10]
        job.sources = hashlib.sha256("\n".join(instances).encode()).hexdigest()
        if job.study.settled and job.sources == job.study.sources:
            return "unchanged"
        job.folder = Path(tempfile.mkdtemp(dir=self.work))
        (job.folder / "in").mkdir()
        for number, instance in enumerate(instances):
            job.files.append(job.folder / "in" / f"{number:05d}.dcm")
            self.archive.download(instance, job.files[-1])
        return "fetched"

    def _begin(self, job: Job, found: str) -> None:
        """Let the application work on a study that was fetched."""
        if found == "gone":
            self.ledger.forget(job.study)
        elif found == "arriving":
            self.ledger.postpone(job.study, self.settings.stable_s)
        elif found == "unchanged":
            self.ledger.settle(job.study)
        else:
            attempt = self.ledger.begin(job.study, job.pseudonym, job.sources)
            if attempt > self.settings.attempts:
                raise ScintikitError("the program ended every time while this study was computed")
            if job.files:
                self._submit(self.computing, job, self._compute, self._send)
            else:
                self._finish(job, "unsuitable", [f"no series of modality {' or '.join(self.settings.modalities)}"])

    def _compute(self, job: Job) -> Outcome:
        assert job.folder is not None
        return self.application(job.files, job.folder / "out")

    def _send(self, job: Job, outcome: Outcome) -> None:
        """Send the results on their way to the archive."""
        if outcome.status not in ("done", "unsuitable"):
            raise ScintikitError("; ".join(outcome.reasons) or f"the application ended with {outcome.status!r}")
        results = [path for path in outcome.files if path.suffix == ".dcm"]
        self._submit(
            self.pool,
            job,
            lambda job: self._store(job, results),
            lambda job, thumbnail: self._finish(job, outcome.status, outcome.reasons, thumbnail),
        )

    def _store(self, job: Job, results: Sequence[Path]) -> bytes | None:
        """Store the results that are not there, and return the picture among them as a small PNG."""
        if self.archive.study(job.study.study) is None:  # its results would bring the patient back
            raise ScintikitError("the study was deleted while it was computed")
        thumbnail = None
        for path in results:
            result = pydicom.dcmread(path)
            if "PixelData" in result and thumbnail is None:
                thumbnail = draw_thumbnail(result)
            if not self.archive.holds(result.SOPInstanceUID, job.study.study):
                self.archive.store(path)
        return thumbnail

    def _finish(self, job: Job, status: str, reasons: Sequence[str], thumbnail: bytes | None = None) -> None:
        seconds = time.time() - job.started
        self.ledger.finish(job.study, status, shorten("; ".join(reasons)), seconds, thumbnail)
        logger.info("%s: %s in %.2f s", job.pseudonym, status, seconds)

    def _fail(self, job: Job, error: Exception) -> None:
        """Try again later, or set aside what failed too often."""
        reason = shorten(explain(error))
        attempts = job.study.attempts + 1
        if job.sources:
            attempts = self.ledger.begin(job.study, job.pseudonym, job.sources)  # the same number if it has begun
        if attempts >= self.settings.attempts:
            self.ledger.finish(job.study, "failed", reason)
            logger.error("%s: set aside: %s", job.pseudonym or "a study", reason)
            return
        pause = min(self.settings.first_wait_s * 4 ** (attempts - 1), LONGEST_WAIT_S)
        self.ledger.retry_later(job.study, attempts, reason, pause)
        logger.warning("%s: again in %.0f s: %s", job.pseudonym or "a study", pause, reason)

    def _leave(self, job: Job) -> None:
        self.in_work.discard(job.study.study)
        if job.folder is not None:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _note_away(self, error: ArchiveAway) -> None:
        if not self.away:
            logger.warning("%s; waiting for it", error)
        self.away = True

    def _note_back(self) -> None:
        if self.away:
            logger.warning("Orthanc answers again")
        self.away = False


def draw_thumbnail(result: pydicom.Dataset) -> bytes:
    """Return the picture of a Secondary Capture as a PNG of at most `THUMBNAIL_PIXELS`."""
    picture = Image.fromarray(result.pixel_array)
    picture.thumbnail(THUMBNAIL_PIXELS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def explain(error: Exception) -> str:
    """Return the reason of a failure.

    Of an error that scintikit did not raise on purpose only the kind and the place: its message may hold what stands
    in a header.
    """
    if isinstance(error, ScintikitError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name} ({Path(frame.filename).name}, line {frame.lineno})"


def shorten(reason: str) -> str:
    """Return at most `REASON_CHARACTERS` of it."""
    return reason if len(reason) <= REASON_CHARACTERS else reason[: REASON_CHARACTERS - 1] + "…"
