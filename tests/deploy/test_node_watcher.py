"""The watcher and its ledger against an archive in memory."""

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import node_parts as parts
import pydicom
import pytest

from deploy.orthanc.archive import ArchiveAway, ArchiveError
from deploy.orthanc.ledger import THUMBNAILS, Ledger
from deploy.orthanc.watcher import Settings, Watcher, draw_thumbnail, explain
from deploy.orthanc.workers import WorkerEnded, Workers

FAST = Settings(stable_s=0.1, poll_s=0.02, attempts=3, first_wait_s=0.02)


class MemoryArchive:
    """What the watcher asks of Orthanc, whose names go by PatientID and UID; and lets it be out of order."""

    def __init__(self):
        self.files, self.log, self.stored = {}, [], []
        self.away = self.refusing = False
        self.stable = True
        self.last = 0

    def put(self, path, announce=True):
        data = path.read_bytes()
        header = pydicom.dcmread(path, stop_before_pixels=True)
        study, series, instance = (
            hashlib.sha1(f"{header.PatientID} {uid}".encode()).hexdigest()
            for uid in (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)
        )
        new = self.study(study) is None
        self.files[instance] = (study, series, header, data)
        self._say("NewInstance", instance)
        if new:
            self._say("NewStudy", study)
        if announce:
            self._say("StableStudy", study)
        return study

    def delete(self, study):
        """As Orthanc does: the log does not tell of it, and what it told of the study is gone."""
        gone = {uid for uid, file in self.files.items() if file[0] == study} | {study}
        self.files = {uid: file for uid, file in self.files.items() if uid not in gone}
        self.log = [change for change in self.log if change["ID"] not in gone]

    def _say(self, kind, identifier):
        self.last += 1
        self.log.append({"ChangeType": kind, "ID": identifier, "ResourceType": "Study", "Seq": self.last})

    def last_change(self):
        if self.away:
            raise ArchiveAway("away")
        return self.last

    def changes(self, since, limit=3):
        return [change for change in self.log if change["Seq"] > since][:limit]

    def study_of(self, instance):
        return self.files[instance][0] if instance in self.files else None

    def study(self, study):
        if self.away:
            raise ArchiveAway("away")
        uids = [file[2].StudyInstanceUID for file in self.files.values() if file[0] == study]
        return {"IsStable": self.stable, "MainDicomTags": {"StudyInstanceUID": uids[0]}} if uids else None

    def series(self, study):
        found = {}
        for uid, (of, series, header, _) in self.files.items():
            if of == study:
                tags = {"Modality": header.Modality}
                found.setdefault(series, {"MainDicomTags": tags, "Instances": []})["Instances"].append(uid)
        return list(found.values())

    def download(self, instance, path):
        path.write_bytes(self.files[instance][3])

    def holds(self, uid, study):
        return any(file[0] == study and file[2].SOPInstanceUID == uid for file in self.files.values())

    def store(self, path):
        if self.refusing:
            raise ArchiveError("full")
        uid = pydicom.dcmread(path).SOPInstanceUID
        self.stored.append(uid)
        self.put(path)


class Night:
    """A watcher that is run for a while, again and again."""

    def __init__(self, folder, application=parts.run_cheaply):
        self.folder = folder
        self.archive = MemoryArchive()
        self.calls = []
        self.application = application

    def run(self, until, ledger=Ledger, seconds=20.0):
        """Run a new watcher until a condition on the ledger's rows (by study) holds."""
        stop, failures = threading.Event(), []

        def work():
            try:
                book = ledger(self.folder / "ledger.sqlite")
                Watcher(self.archive, book, self._call, self.folder / "work", FAST).run(stop)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        end = time.monotonic() + seconds
        try:
            while thread.is_alive() and not until(self.rows()) and time.monotonic() < end:
                time.sleep(0.01)
        finally:
            stop.set()
            thread.join()
        rows = self.rows()
        assert failures or until(rows), rows
        return failures

    def _call(self, files, output):
        self.calls.append(len(files))
        return self.application(files, output)

    def rows(self):
        try:
            address = f"file:{self.folder}/ledger.sqlite?mode=ro"
            with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                return {row["study"]: dict(row) for row in connection.execute("SELECT * FROM studies")}
        except sqlite3.OperationalError:  # not made yet
            return {}

    def count(self, modality):
        return sum(file[2].Modality == modality for file in self.archive.files.values())


@pytest.fixture
def night(tmp_path):
    return Night(tmp_path)


def settled(*states):
    """Return a condition: nothing is due, and the studies are in these states."""

    def holds(rows):
        return sorted(row["state"] for row in rows.values()) == sorted(states) and not any(
            row["due"] for row in rows.values()
        )

    return holds


def test_a_matching_study_gets_one_report_and_one_picture_and_others_get_none(night, tmp_path):
    night.archive.put(*parts.make_study(tmp_path, 0))
    night.archive.put(*parts.make_study(tmp_path, 1, modality="CT"))
    night.run(settled("done", "unsuitable"))
    assert (night.count("SR"), night.count("OT"), night.calls) == (1, 1, [1])
    rows = {row["state"]: row for row in night.rows().values()}
    assert rows["unsuitable"]["reason"] == "no series of modality NM"
    assert rows["done"]["thumbnail"].startswith(b"\x89PNG")
    uid = pydicom.dcmread(tmp_path / "0000_0.dcm").StudyInstanceUID
    assert rows["done"]["pseudonym"] == hashlib.sha256(uid.encode()).hexdigest()[:10]
    assert not list((tmp_path / "work").iterdir())


def test_what_is_done_is_not_done_again_by_the_next_watcher(night, tmp_path):
    night.archive.put(*parts.make_study(tmp_path, 0))
    night.run(settled("done"))
    night.archive.put(*parts.make_study(tmp_path, 1))
    night.run(settled("done", "done"))
    assert night.calls == [1, 1]


def test_new_source_images_are_handled_and_the_old_result_stays(night, tmp_path):
    first, second = parts.make_study(tmp_path, 0, files=2)
    night.archive.put(first)
    night.run(settled("done"))
    night.archive.put(second)
    night.run(lambda rows: settled("done")(rows) and night.count("SR") == 2)
    assert night.calls == [1, 2]


def test_a_study_that_comes_again_under_a_corrected_patient_id_gets_its_own_report(night, tmp_path):
    (path,) = parts.make_study(tmp_path, 0)
    night.archive.put(path)
    night.run(settled("done"))
    file = pydicom.dcmread(path)
    file.PatientID = "CORRECTED"
    file.save_as(path)
    night.archive.put(path)
    night.run(settled("done", "done"))
    of = [entry[2].PatientID for entry in night.archive.files.values() if entry[2].Modality == "SR"]
    assert len(of) == 2
    assert len({entry[0] for entry in night.archive.files.values() if entry[2].Modality == "SR"}) == 2


def test_a_study_whose_stability_was_never_announced_is_not_lost(night, tmp_path):
    night.archive.put(*parts.make_study(tmp_path, 0), announce=False)
    assert not night.run(settled("done"))


def test_a_study_that_is_still_arriving_is_left_alone(night, tmp_path):
    night.archive.stable = False
    night.archive.put(*parts.make_study(tmp_path, 0))
    night.run(lambda rows: any(row["due"] for row in rows.values()))
    assert night.calls == []
    night.archive.stable = True
    night.run(settled("done"))


class KilledBeforeCommit(Ledger):
    def finish(self, *arguments, **options):
        raise KeyboardInterrupt


def test_killed_between_upload_and_commit_leaves_one_report(night, tmp_path):
    night.archive.put(*parts.make_study(tmp_path, 0))
    assert night.run(lambda rows: False, KilledBeforeCommit)
    assert night.count("SR") == 1
    assert next(iter(night.rows().values()))["state"] == "waiting"
    night.run(settled("done"))
    assert night.calls == [1, 1]
    assert len(night.archive.stored) == len(set(night.archive.stored)) == 2


def test_what_keeps_failing_is_set_aside_with_the_reason_and_tried_again_when_asked(night, tmp_path):
    night.archive.put(*parts.make_study(tmp_path, 0, description="fail"))
    night.archive.put(*parts.make_study(tmp_path, 1))
    night.run(settled("failed", "done"))
    row = next(row for row in night.rows().values() if row["state"] == "failed")
    assert row["attempts"] == FAST.attempts
    assert len(night.calls) == FAST.attempts + 1
    assert "RuntimeError in run_cheaply" in row["reason"]
    assert not any(secret in json.dumps(row, default=str) for secret in parts.SECRETS)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert ledger.retry_failed() == 1
    ledger.close()
    night.application = lambda files, output: parts.CheapOutcome("unsuitable", [], ["mended"])
    night.run(settled("unsuitable", "done"))


def test_a_refused_result_is_tried_again(night, tmp_path):
    night.archive.refusing = True
    night.archive.put(*parts.make_study(tmp_path, 0))
    night.run(lambda rows: any(row["state"] == "retrying" and row["reason"] == "full" for row in rows.values()))
    night.archive.refusing = False
    assert not night.run(settled("done"))


def test_a_study_that_ends_the_program_every_time_is_set_aside(night, tmp_path):
    def crash(files, output):
        raise KeyboardInterrupt  # as good as a crash: it leaves the watcher at once

    night.application = crash
    night.archive.put(*parts.make_study(tmp_path, 0))
    for _ in range(FAST.attempts):
        assert night.run(lambda rows: False)
    night.run(settled("failed"))
    assert "the program ended" in next(iter(night.rows().values()))["reason"]


def test_a_crash_in_a_worker_ends_neither_the_watcher_nor_other_studies(night, tmp_path):
    night.application = workers = Workers("node_parts:application", tmp_path, 1)
    night.archive.put(*parts.make_study(tmp_path, 0, description="crash"))
    night.archive.put(*parts.make_study(tmp_path, 1))
    assert not night.run(settled("failed", "done"))
    row = next(row for row in night.rows().values() if row["state"] == "failed")
    assert "ended" in row["reason"]
    workers.close()


def test_a_crash_in_one_process_leaves_the_study_in_the_other_alone(tmp_path):
    workers = Workers("node_parts:application", tmp_path, 2)
    waits = parts.make_study(tmp_path, 0, description="wait")
    bad = parts.make_study(tmp_path, 1, description="crash")
    with contextlib.closing(workers), ThreadPoolExecutor(2) as pool:
        beside = pool.submit(workers, waits, tmp_path / "waits")
        parts.wait_for((tmp_path / "waits").exists)
        with pytest.raises(WorkerEnded):
            workers(bad, tmp_path / "bad")
        (tmp_path / "waits" / "go").touch()
        assert beside.result().status == "done"
        assert workers(parts.make_study(tmp_path, 2), tmp_path / "next").status == "done"


def test_a_study_without_end_is_given_up(tmp_path):
    hangs, next_one = (parts.make_study(tmp_path, n, description=d) for n, d in enumerate(("wait", "")))
    with contextlib.closing(Workers("node_parts:application", tmp_path, 1, longest_s=1)) as workers:
        with pytest.raises(WorkerEnded, match="after 1 s"):
            workers(hangs, tmp_path / "hangs")
        assert workers(next_one, tmp_path / "next").status == "done"


def test_what_an_application_cannot_load_is_said_at_once(tmp_path):
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        Workers("nowhere:application", tmp_path, 1)


def test_an_archive_that_is_away_is_no_fault_of_a_study(night, tmp_path):
    night.archive.put(*parts.make_study(tmp_path, 0))

    def unplug(files, output):
        night.archive.holds = away
        return parts.run_cheaply(files, output)

    def away(uid, study):
        raise ArchiveAway("away")

    night.application = unplug
    assert not night.run(lambda rows: len(night.calls) > 2 * FAST.attempts)
    del night.archive.holds
    night.application = parts.run_cheaply
    assert not night.run(settled("done"))


def test_a_deleted_study_that_comes_again_is_new(night, tmp_path):
    path = parts.make_study(tmp_path, 0)[0]
    night.archive.stable = False
    study = night.archive.put(path)
    night.run(lambda rows: any(row["due"] for row in rows.values()))
    night.archive.delete(study)
    night.run(lambda rows: not rows)
    night.archive.stable = True
    study = night.archive.put(path)
    night.run(settled("done"))
    night.archive.delete(study)
    night.archive.put(path)
    night.run(lambda rows: settled("done")(rows) and night.count("SR") == 1)
    assert night.calls == [1, 1]


def test_a_study_that_is_deleted_while_it_is_computed_does_not_come_back_as_its_results(night, tmp_path):
    def delete(files, output):
        night.archive.delete(study)
        return parts.run_cheaply(files, output)

    night.application = delete
    study = night.archive.put(*parts.make_study(tmp_path, 0))
    night.run(lambda rows: night.calls and not rows)
    assert not night.archive.files


def test_a_study_that_cannot_be_downloaded_is_set_aside(night, tmp_path):
    def broken(instance, path):
        raise ArchiveError("damaged on disk")

    night.archive.download = broken
    night.archive.put(*parts.make_study(tmp_path, 0))
    night.run(settled("failed"))
    assert next(iter(night.rows().values()))["attempts"] == FAST.attempts


def test_a_clock_that_was_ahead_delays_nothing(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.follow(1, {"a": time.time() + 365 * 86400, "b": time.time() + 60})
    assert [study.study for study in ledger.due(9)] == ["a"]


def test_another_archive_is_read_from_its_beginning(night, tmp_path):
    for number in range(3):
        night.archive.put(*parts.make_study(tmp_path, number))
    assert not night.run(settled("done", "done", "done"))
    night.archive = MemoryArchive()
    night.archive.put(*parts.make_study(tmp_path, 9))
    assert not night.run(settled("done", "done", "done", "done"))


def test_a_change_during_work_keeps_the_study_due(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.follow(1, {"a": 1.0})
    (study,) = ledger.due(9)
    ledger.begin(study, "name", "sources")
    ledger.follow(2, {"a": 2.0})
    ledger.finish(study, "done", "")
    (again,) = ledger.due(9)
    assert (again.state, again.change, ledger.position()) == ("done", 2, 2)
    ledger.finish(again, "done", "")
    assert ledger.due(9) == []


def test_a_page_of_changes_is_taken_over_whole_or_not_at_all(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(sqlite3.Error):
        ledger.follow(5, {"a": 1.0, "b": object()})
    assert (ledger.position(), ledger.due(9)) == (0, [])


def test_only_the_newest_pictures_are_kept(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.follow(1, {str(number): 1.0 for number in range(THUMBNAILS + 5)})
    for study in ledger.due(999):
        ledger.finish(study, "done", "", 0.1, b"png")
    kept = ledger.connection.execute("SELECT count(*) FROM studies WHERE thumbnail IS NOT NULL").fetchone()[0]
    assert kept == THUMBNAILS


def test_of_an_unexpected_error_only_kind_and_place_are_told():
    with pytest.raises(KeyError) as caught:
        {}[parts.NAME]
    assert explain(caught.value).startswith("KeyError in test_of_an_unexpected")
    assert explain(ArchiveError("said on purpose")) == "said on purpose"


def test_a_thumbnail_is_small(tmp_path):
    source = parts.make_study(tmp_path, 0)
    outcome = parts.run_cheaply(source, tmp_path / "out")
    assert draw_thumbnail(pydicom.dcmread(outcome.files[1])).startswith(b"\x89PNG")
