"""What a reader would report of a bone scan, and sentences that say it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from scintikit.phantoms.findings import _one_of
from scintikit.phantoms.skeleton.patients import ARTHRITIS, METASTASIS, SIDES, VARIANT, BonePatient, Focus

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLURALS = {"foot": "feet"}
LISTED = 4  # of more regions with metastases than this, only the leading three are named


def bone_findings(patient: BonePatient) -> dict[str, Any]:
    """Return the report of a patient as plain data.

    Keys: classes (the diseases present), superscan, metastases and arthritis (lists of region and side; "" in the
    midline and, of the facet joints, wherever a side makes no difference), fractures (sides of old rib fractures),
    injection_site ("right", "left", None) and contamination (with urine).
    """
    injection = [spot.name.rpartition(" ")[2] for spot in patient.spots if spot.name.startswith("injection site")]
    fractures = {f.side for f in patient.of(VARIANT) if f.region == "old rib fracture"}
    return {
        "classes": [name for name, present in zip((METASTASIS, ARTHRITIS), patient.label, strict=True) if present],
        "superscan": patient.superscan > 1,
        "metastases": [_place(focus) for focus in patient.of(METASTASIS)],
        "arthritis": [_place(focus) for focus in patient.of(ARTHRITIS)],
        "fractures": [side for side in SIDES if side in fractures],
        "injection_site": injection[0] if injection else None,
        "contamination": any(spot.name == "contamination" for spot in patient.spots),
    }


def bone_prompt(found: dict[str, Any], rng: np.random.Generator) -> str:
    """Word the findings as one English sentence; the phrasing varies with `rng`, what is said does not.

    Every prompt names both views, says how many metastases there are and in which regions (all up to four, else the
    three that hold most), and names every joint with arthritis. In a superscan single foci drown: they are not counted.
    """
    opening = _one_of(
        rng,
        "Whole-body bone scintigram, anterior and posterior",
        "Whole-body Tc-99m MDP bone scan, anterior and posterior views",
        "A scintigraphy image of the whole skeleton, anterior and posterior view",
        "Bone scintigraphy of the whole body with Tc-99m MDP, anterior and posterior",
    )
    parts = [opening]
    if found["superscan"]:
        parts.append(
            _one_of(rng, "superscan, diffuse metastases", "diffuse metastases of the axial skeleton, superscan")
        )
        parts.append(_one_of(rng, "faint kidneys and soft tissue", "kidneys and soft tissue hardly visible"))
    elif found["metastases"]:
        parts.append(_metastases(found["metastases"]))
    if found["arthritis"]:
        word = _one_of(rng, "degenerative uptake", "arthritic uptake")
        parts.append(f"{word} in {_listing(_by_side(found['arthritis']))}")
    if not found["classes"]:
        parts.append(_one_of(rng, "normal", "normal distribution", "no metastasis and no arthritis"))
    if found["fractures"]:
        where = "on both sides" if len(found["fractures"]) == 2 else f"on the {found['fractures'][0]}"
        parts.append(_one_of(rng, f"old rib fracture {where}", f"healing rib fracture {where}"))
    if found["injection_site"]:
        parts.append(
            _one_of(rng, "injection site at", "residue of the injection at") + f" the {found['injection_site']} arm"
        )
    if found["contamination"]:
        parts.append(_one_of(rng, "urine contamination", "contamination with urine"))
    return ", ".join(parts)


def _place(focus: Focus) -> dict[str, str]:
    return {"region": focus.region, "side": focus.side}


def _metastases(places: list[dict[str, str]]) -> str:
    number = len(places)
    counted = NUMBERS[number] if number < len(NUMBERS) else str(number)
    regions = [region for region, _ in Counter(place["region"] for place in places).most_common()]
    named = regions if len(regions) <= LISTED else regions[:3]
    where = _by_side([place for region in named for place in places if place["region"] == region])
    also = "" if named == regions else "mainly "
    return f"{counted} {'metastasis' if number == 1 else 'metastases'} {also}in {_listing(where)}"


def _by_side(places: list[dict[str, str]]) -> list[str]:
    """Return each region once: "the left ribs", "both knees", "the skull"."""
    sides: dict[str, set[str]] = {}
    for place in places:
        sides.setdefault(place["region"], set()).add(place["side"])
    names = []
    for region, found in sides.items():
        if region == "lumbar facet joints":
            names.append("the lumbar facet joints")
        elif region in ("ribs", "pelvis") and len(found) == 2:
            names.append(f"the {region} on both sides")
        elif len(found) == 2:
            names.append(f"both {_plural(region)}")
        else:
            side = "".join(found)
            names.append(f"the {side} {region}" if side else f"the {region}")
    return names


def _plural(region: str) -> str:
    special = PLURALS | {
        "scapula": "scapulae",
        "proximal femur": "proximal femora",
        "proximal humerus": "proximal humeri",
    }
    return special.get(region, f"{region}s")


def _listing(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
