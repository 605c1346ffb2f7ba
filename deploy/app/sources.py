"""What a result takes over from the instances that it was made from, and how it refers to them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import DA, TM

from scintikit.classifier import Classifier
from scintikit.errors import ImageReadError

from .selection import Job

# Both libraries quote values of the header, such as the patient's name, when they complain.
for _library in ("pydicom", "highdicom"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)

#: The patient and study modules' attributes that a result needs to be filed beside its source (PS3.3 C.7.1.1, C.7.2.1).
CONTEXT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
OPTIONAL = ("IssuerOfPatientID", "StudyDescription", "FrameOfReferenceUID")
REFERENCE = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@contextmanager
def discreet(what: str) -> Iterator[None]:
    """Let neither a warning nor an error show values of a header; an unforeseen one is reported by its kind only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError:  # of the disk: worth another try
        raise
    except Exception as error:
        raise ImageReadError(f"{what}: the header of the source is not usable ({type(error).__name__})") from None


def read_sources(job: Job) -> list[Dataset]:
    """Return the headers of a job's instances, cut down to what results may take over; call it within `discreet`.

    What must be there and is not, or breaks the rules for its values, is empty. Texts become UTF-8: the libraries that
    write results do not take every character set that there is, such as the Japanese ones.
    """
    sources = []
    for instance in job.instances:
        wanted = [*CONTEXT, *OPTIONAL, *REFERENCE]
        stored = pydicom.dcmread(instance.path, stop_before_pixels=True, specific_tags=wanted)
        source = Dataset()
        source.SpecificCharacterSet = "ISO_IR 192"  # UTF-8 holds whatever the source was written in
        for name in wanted:
            if name in stored:
                source[name] = stored[name]
        for name in CONTEXT:
            if not _valid(name, source.get(name)):
                setattr(source, name, "")
        sources.append(source)
    return sources


def _valid(name: str, value: Any) -> bool:
    """Tell whether the libraries that write results take the value."""
    if name == "PatientSex":
        return value in ("M", "F", "O")
    if name in ("PatientName", "ReferringPhysicianName") and isinstance(value, MultiValue):
        return False
    kind = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}.get(name)
    try:
        return value is not None and (kind is None or kind(value) is not None)
    except ValueError:
        return False


def result_uid(job: Job, classifier: Classifier, purpose: str) -> UID:
    """Return a UID that depends on the source instances, the model and the purpose alone.

    A study that is processed again gives the same UIDs, so that an archive keeps one result of it.
    """
    identifiers = sorted(instance.sop_instance for instance in job.instances)
    return generate_uid(entropy_srcs=["scintikit", *identifiers, classifier.name, classifier.model_sha256, purpose])
