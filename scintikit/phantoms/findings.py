"""What a reader would report of a patient, and sentences that say it."""

from __future__ import annotations

from typing import Any

import numpy as np

from scintikit.phantoms.patients import CLASSES, Patient

ENLARGED_ML = 22.0  # a gland above this volume is a goiter, about the upper limit in adults (WHO: 18 to 25)
HIGH_PERCENT, LOW_PERCENT, ABSENT_PERCENT = 3.0, 0.4, 0.1  # limits of the pertechnetate uptake
ABSENT = "absent"  # then nothing of the gland's shape can be said


def findings(patient: Patient) -> dict[str, Any]:
    """Return the report of a patient as plain data.

    Keys: class, form, uptake ("increased", "normal", "reduced", "absent"), uptake_percent, size ("enlarged", "normal"),
    volume_ml [right, left], pyramidal_lobe, pattern ("homogeneous", "patchy"), nodules (a list of side, pole, kind,
    diameter_mm; the largest first).
    """
    strength = float(np.sqrt((patient.ripple[:, 0] ** 2).sum() / 2))
    nodules = [
        {"side": n.side, "pole": n.pole, "kind": n.kind, "diameter_mm": round(n.diameter_mm, 1)}
        for n in patient.nodules
    ]
    return {
        "class": CLASSES[patient.label],
        "form": patient.form,
        "uptake": _uptake(patient.uptake_percent),
        "uptake_percent": round(patient.uptake_percent, 3),
        "size": "enlarged" if sum(patient.volume_ml) > ENLARGED_ML else "normal",
        "volume_ml": [round(volume, 1) for volume in patient.volume_ml],
        "pyramidal_lobe": patient.pyramidal,
        "pattern": "patchy" if strength > 0.25 else "homogeneous",
        "nodules": nodules,
    }


def prompt(found: dict[str, Any], rng: np.random.Generator) -> str:
    """Word the findings as one English sentence; the phrasing varies with `rng`, what is said does not.

    Every prompt names the class and the uptake; a nodular goiter's also the number of nodules, and of each of the first
    two its kind, side and pole.
    """
    opening = _one_of(
        rng,
        "Anterior thyroid scintigram",
        "Anterior Tc-99m pertechnetate thyroid scan",
        "A scintigraphy image of the thyroid, anterior view",
        "Thyroid scintigraphy with pertechnetate, anterior view",
    )
    name = found["class"] if found["class"] != "normal" else "normal gland"
    parts = [_one_of(rng, f"{opening}, {name}", f"{opening} showing {name}")]
    if found["class"] == "nodular goiter":
        parts.append(_nodules(found["nodules"], rng))
    parts.append(f"{found['uptake']} uptake")
    if found["size"] == "enlarged":
        parts.append(_one_of(rng, "enlarged gland", "enlarged thyroid"))
    elif found["class"] == "normal":
        parts.append("normal size")
    if found["pattern"] == "patchy" and found["uptake"] != ABSENT:
        parts.append(_one_of(rng, "patchy distribution", "inhomogeneous distribution"))
    if found["pyramidal_lobe"] and found["uptake"] != ABSENT:
        parts.append(_one_of(rng, "pyramidal lobe", "visible pyramidal lobe"))
    return ", ".join(parts)


def _uptake(percent: float) -> str:
    if percent > HIGH_PERCENT:
        return "increased"
    if percent < ABSENT_PERCENT:
        return ABSENT
    return "reduced" if percent < LOW_PERCENT else "normal"


def _nodules(nodules: list[dict[str, Any]], rng: np.random.Generator) -> str:
    described = [_nodule(n, rng) for n in nodules[:2]]
    if len(nodules) == 1:
        return _one_of(rng, f"solitary {described[0]}", f"single {described[0]}")
    listed = " and ".join(f"a {text}" for text in described)
    if len(nodules) == 2:
        return f"two nodules: {listed}"
    return f"{len(nodules)} nodules, the largest {listed}"


def _nodule(nodule: dict[str, Any], rng: np.random.Generator) -> str:
    adjective = (
        _one_of(rng, "hot", "hyperfunctioning") if nodule["kind"] == "hot" else _one_of(rng, "cold", "hypofunctioning")
    )
    size = "small " if nodule["diameter_mm"] < 12 else "large " if nodule["diameter_mm"] > 25 else ""
    place = f"{nodule['pole']} pole" if nodule["pole"] != "mid" else "middle"
    return f"{size}{adjective} nodule in the {place} of the {nodule['side']} lobe"


def _one_of(rng: np.random.Generator, *phrases: str) -> str:
    return phrases[int(rng.integers(len(phrases)))]
