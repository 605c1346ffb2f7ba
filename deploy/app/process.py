"""One study in, results out: a report, a picture and a JSON for each job, and what became of the rest."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from scintikit.classifier import Classifier
from scintikit.data.tree import printable
from scintikit.dicom import ScintigramWarning
from scintikit.engines.outputs import NOTICE, Prediction
from scintikit.errors import ImageReadError
from scintikit.files import write_atomic, write_json

from .secondary_capture import secondary_capture
from .selection import Job, Rule, load_rules, read_instances, select
from .sources import discreet, read_sources
from .structured_report import structured_report

DONE, UNSUITABLE = "done", "unsuitable"
OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """What became of a study.

    Attributes
    ----------
    status
        "done" if there is at least one result, else "unsuitable".
    files
        What was written: SR and SC (`.dcm`) and JSON files.
    reasons
        Why each series, or file, that is in no result was not used. Nothing in it identifies a person.
    """

    status: str
    files: tuple[Path, ...]
    reasons: tuple[str, ...]


def process_study(
    files: Sequence[Path],
    output: Path,
    classifiers: Mapping[str, Classifier],
    rules: Sequence[Rule] | None = None,
) -> Outcome:
    """Classify what the rules select of a study, and write the results.

    For each job `<bundle>_<job>.sr.dcm`, `.sc.dcm` (if the bundle draws a heat map) and `.json`; `outcome.json` at the
    end. Each file is whole or absent, whenever the process is killed; a second run writes the same names and UIDs, and
    removes the `outcome.json` of the first at its beginning.

    Parameters
    ----------
    files
        Of the study; what is no DICOM file is told among the reasons.
    output
        Folder for the results; made if missing.
    classifiers
        By the names that the rules use, from `load_classifiers`.
    rules
        From `load_rules`; default those of `selection.yaml`.
    """
    (output / OUTCOME).unlink(missing_ok=True)
    instances, reasons = read_instances(files)
    selection = select(instances, load_rules() if rules is None else rules, classifiers)
    reasons += selection.reasons
    written: list[Path] = []
    for name, classifier in classifiers.items():
        jobs = [job for job in selection.jobs if job.rule.bundle == name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScintigramWarning)  # it names the file
            predictions = classifier.classify([_item(job) for job in jobs])
        for job, prediction in zip(jobs, predictions, strict=True):
            reason = _refusal(job, prediction)
            if not reason:
                try:
                    written += _write(job, prediction, classifier, output)
                except ImageReadError as error:
                    reason = str(error)
            reasons += [f"job {job.id}: {reason}"] if reason else []
    outcome = Outcome(DONE if written else UNSUITABLE, (*written, output / OUTCOME), tuple(reasons))
    names = [path.name for path in written]
    write_json(output / OUTCOME, {"status": outcome.status, "files": names, "reasons": reasons, "notice": NOTICE})
    return outcome


def _item(job: Job) -> dict[str, Any]:
    paths = [str(instance.path) for instance in job.instances]
    return {"id": job.id, "image": paths if len(paths) > 1 else paths[0]}


def _refusal(job: Job, prediction: Prediction) -> str:
    """Return why the bundle did not read the job; without the paths, which may hold names."""
    reason = prediction.content.get("error", "")
    for number, instance in enumerate(job.instances, 1):
        for path in (str(instance.path), printable(str(instance.path))):
            reason = reason.replace(path, f"file {number}")
    return reason


def _write(job: Job, prediction: Prediction, classifier: Classifier, output: Path) -> list[Path]:
    """Write the results of a job, the report last: where it is, the others are."""
    stem = output / f"{classifier.name}_{job.id}"
    with discreet(f"no report of job {job.id}"):
        sources = read_sources(job)
        report = _bytes(structured_report(job, prediction.content, classifier, sources))
        picture = b""
        if prediction.picture is not None:
            picture = _bytes(secondary_capture(job, prediction.content, prediction.picture, classifier, sources))
    model = {"bundle": classifier.name, "version": classifier.version}
    record = json.dumps(model | prediction.content, indent=2, ensure_ascii=False).encode() + b"\n"
    results = {".json": record, ".sc.dcm": picture, ".sr.dcm": report}
    paths = {Path(f"{stem}{suffix}"): data for suffix, data in results.items() if data}
    for path, data in paths.items():
        write_atomic(path, data)
    return list(paths)


def _bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
