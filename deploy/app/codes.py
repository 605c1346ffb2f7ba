"""Codes of what reports say: SNOMED CT and DICOM's own where they exist, else the private scheme 99SCINTIKIT.

Source: DICOM PS3.16 annex D (DCM); SNOMED CT. The classes "diffuse goiter" and "nodular goiter" of a scintigram leave
open whether the gland is toxic, which SNOMED CT's finer concepts do not, and so have private codes.
"""

from __future__ import annotations

import hashlib
import re

from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

SCHEME = "99SCINTIKIT"


def _private(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, SCHEME, meaning)


FINDINGS = {
    "normal": CodedConcept("17621005", "SCT", "Normal"),
    "thyroiditis": CodedConcept("82119001", "SCT", "Thyroiditis"),
    "metastasis": CodedConcept("94222008", "SCT", "Bony metastasis"),
    "arthritis": CodedConcept("3723001", "SCT", "Arthritis"),
}
SITES = {
    "thyroid_cls": CodedConcept("69748006", "SCT", "Thyroid"),
    "spect_bone_cls": CodedConcept("272673000", "SCT", "Bone"),
}
PROCEDURE = CodedConcept("371572003", "SCT", "Nuclear medicine procedure")
PROBABILITY = CodedConcept("122157", "DCM", "Probability")
THRESHOLD = CodedConcept("122411", "DCM", "Threshold Value")
COMMENT = CodedConcept("121106", "DCM", "Comment")
SOURCE_IMAGE = CodedConcept("121322", "DCM", "Source image for image processing operation")
NO_UNITS = codes.UCUM.NoUnits
YES, NO = CodedConcept("373066001", "SCT", "Yes"), CodedConcept("373067005", "SCT", "No")
PRESENT, ABSENT = CodedConcept("52101004", "SCT", "Present"), CodedConcept("272519000", "SCT", "Absent")
MOST_PROBABLE = _private("MOST_PROBABLE", "Most probable class")
IN_CONFORMAL_SET = _private("CONFORMAL_SET", "In conformal set (cannot be ruled out)")
COVERAGE = _private("COVERAGE", "Nominal coverage of conformal sets")
CALLED = _private("CALLED", "Called at the threshold")
LIKENESS = _private("LIKENESS", "Likeness to the training data")
OOD_SCORE = _private("OOD_SCORE", "Out-of-distribution score")
UNLIKE = _private("UNLIKE", "Unlike the training data")


def finding(name: str) -> CodedConcept:
    """Return the code of a class by its name; of an unknown one, a private code that is always the same."""
    if name in FINDINGS:
        return FINDINGS[name]
    value = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")
    # What was left out could tell two classes apart; and 16 characters are the most that Code Value holds.
    if value.replace("_", " ") != name.upper() or len(value) > 16:
        value = hashlib.sha256(name.encode()).hexdigest()[:16].upper()
    return _private(value, name[:64])
