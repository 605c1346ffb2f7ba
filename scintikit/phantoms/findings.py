"""What a reader would report of a patient, and sentences that say it."""

from __future__ import annotations

from typing import Any

import numpy as np

from scintikit.phantoms.patients import CLASSES, Patient

ENLARGED_ML = 22.0  # a gland above this volume is a goiter, about the upper limit in adults (WHO: 18 to 25)
HIGH_PERCENT, LOW_PERCENT, ABSENT_PERCENT = 3.0, 0.4, 0.1  # limits of the pertechnetate uptake
ABSENT = "absent"  # then nothing of the gland's shape can be said
LARGER_LOBE = 1.25  # a lobe that covers this many times the other's area makes the gland asymmetric
HIGH_BACKGROUND, LOW_BACKGROUND = 15.0, 120.0  # below and above this multiple of soft tissue lies the gland's activity


def findings(patient: Patient) -> dict[str, Any]:
    """Return the report of a patient as plain data.

    Keys: class, form, uptake ("increased", "normal", "reduced", "absent"), uptake_percent, size ("enlarged", "normal"),
    volume_ml [right, left], larger_lobe ("right", "left", None), pyramidal_lobe, pattern ("homogeneous", "patchy"),
    background ("high", "moderate", "low") and salivary_glands ("brighter", "fainter"), both compared with the gland,
    nodules (a list of side, pole, kind, diameter_mm; the largest first).
    """
    strength = float(np.sqrt((patient.ripple[:, 0] ** 2).sum() / 2))
    salivary = float(np.mean([concentration for _, concentration in patient.organs[:4]]))
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
        "larger_lobe": _larger_lobe(*(lobe.semi_axes[0] * lobe.semi_axes[1] for lobe in patient.lobes)),
        "pyramidal_lobe": patient.pyramidal,
        "pattern": "patchy" if strength > 0.25 else "homogeneous",
        "background": _background(patient.tissue / patient.background),
        "salivary_glands": "brighter" if salivary > patient.tissue else "fainter",
        "nodules": nodules,
    }


def prompt(found: dict[str, Any], rng: np.random.Generator) -> str:
    """Word the findings as one English sentence; the phrasing varies with `rng`, what is said does not.

    Every prompt names the class and the uptake; a nodular goiter's also the number of nodules, and of each of the first
    two its kind, side and pole. Salivary glands may lie outside a small field of view.
    """
    later = rng.spawn(1)[0]  # leaves `rng` as it is, from which simulations go on
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
    if found["larger_lobe"] and found["uptake"] != ABSENT and not found["nodules"]:
        side = found["larger_lobe"]
        parts.append(_one_of(later, f"{side} lobe larger", f"asymmetric with a larger {side} lobe"))
    if found["background"] != "moderate":
        parts.append(_one_of(later, f"{found['background']} background", f"{found['background']} background activity"))
    if found["salivary_glands"] == "brighter":
        parts.append(
            _one_of(later, "salivary glands brighter than the thyroid", "salivary activity above that of the thyroid")
        )
    return ", ".join(parts)


def _larger_lobe(right: float, left: float) -> str | None:
    if max(right, left) < LARGER_LOBE * min(right, left):
        return None
    return "right" if right > left else "left"


def _background(contrast: float) -> str:
    return "high" if contrast < HIGH_BACKGROUND else "low" if contrast > LOW_BACKGROUND else "moderate"


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
