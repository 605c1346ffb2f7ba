"""Patients, bodies and words: what a prompt says is what the phantom shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate

from scintikit.phantoms import CLASSES, draw_patient, findings, prompt
from scintikit.phantoms.body import COLD, GLAND, HOT, MU, look, path, surfaces
from scintikit.phantoms.patients import FORMS, Ellipsoid, Patient

PIXEL = 1.0
AXIS = np.arange(-100, 101, PIXEL, dtype=np.float32)
X, Y = np.meshgrid(AXIS, AXIS)


def patients(label: int, number: int) -> list[Patient]:
    return [draw_patient(label, np.random.default_rng((3, label, k))) for k in range(number)]


def thyroid_only(patient: Patient) -> Patient:
    """Take background and organs away and make the tissue even, so that what is left is gland and nodules."""
    return replace(patient, background=0.0, blood=0.0, organs=(), ripple=np.zeros((0, 4), np.float32))


def density(patient: Patient) -> np.ndarray:
    """Activity seen per mm of (attenuated) gland: relative concentration of the tissue at every point."""
    seen = look(thyroid_only(patient), X, Y).slabs.sum(0)
    plain = look(replace(thyroid_only(patient), nodules=_neutral(patient), tissue=1.0, suppression=1.0), X, Y)
    thickness = plain.slabs.sum(0)
    return np.divide(seen, thickness, out=np.zeros_like(seen), where=thickness > 0)


def _neutral(patient: Patient) -> tuple:
    return tuple(replace(nodule, contrast=1.0) for nodule in patient.nodules)


def test_attenuated_path_is_the_integral() -> None:
    depth = np.linspace(10, 37, 20001)
    expected = integrate.trapezoid(np.exp(-MU * depth), depth)
    front, back = np.array([10.0]), np.array([37.0])
    assert path(front, back, 0, 400)[0] == pytest.approx(expected, rel=1e-6)
    split = path(front, back, 0, 25) + path(front, back, 25, 400)
    assert split[0] == pytest.approx(expected, rel=1e-6)


def test_ellipsoid_surfaces_enclose_its_volume() -> None:
    front, back = surfaces(Ellipsoid((3.0, -5.0, 30.0), (20.0, 30.0, 12.0)), X, Y)
    volume = np.maximum(back - front, 0).sum() * PIXEL**2
    assert volume == pytest.approx(4 / 3 * np.pi * 20 * 30 * 12, rel=0.01)


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_activity_in_the_body_is_the_uptake(label: int) -> None:
    """Without attenuation the gland's activity would be the uptake; with it, it is what shines through."""
    for patient in patients(label, 8):
        plain = replace(thyroid_only(patient), nodules=(), bridges=patient.bridges[:1])
        seen = look(plain, X, Y).slabs.sum() * PIXEL**2
        total = sum(plain.volume_ml) * plain.tissue
        depth = np.mean([lobe.centre[2] for lobe in patient.lobes])
        assert seen == pytest.approx(total * np.exp(-MU * depth), rel=0.25)


def test_classes_differ_as_in_life() -> None:
    uptake = {label: [p.uptake_percent for p in patients(label, 200)] for label in range(len(CLASSES))}
    volume = {label: [sum(p.volume_ml) for p in patients(label, 200)] for label in range(len(CLASSES))}
    diffuse, nodular, normal, thyroiditis = (np.median(uptake[label]) for label in range(4))
    assert thyroiditis < 0.5 < normal < nodular < diffuse
    assert np.quantile(uptake[2], 0.05) > 0.3  # pertechnetate's normal range
    assert np.quantile(uptake[2], 0.95) < 3
    assert np.median(volume[0]) > 1.4 * np.median(volume[2])
    # They overlap: mild diffuse goiter looks normal, recovering thyroiditis too.
    assert 0.05 < np.mean(np.array(uptake[0]) < 2.0) < 0.5
    assert 0.05 < np.mean(np.array(uptake[3]) > 0.5) < 0.5


def test_shares_of_the_forms_sum_to_one() -> None:
    assert sorted(FORMS) == list(range(len(CLASSES)))
    for forms in FORMS.values():
        assert sum(form.share for form in forms) == pytest.approx(1)


def test_nodules_belong_to_nodular_goiter_only() -> None:
    for label in (0, 2, 3):
        assert not any(patient.nodules for patient in patients(label, 30))
    numbers = {len(patient.nodules) for patient in patients(1, 200)}
    assert numbers == {1, 2, 3, 4, 5, 6}


def test_prompt_is_what_the_phantom_shows() -> None:
    """Read a solitary nodule's kind and side from the words, and find them in the activity map and in the mask."""
    checked = set()
    for k, patient in enumerate(patients(1, 60)):
        if len(patient.nodules) != 1:
            continue
        text = prompt(findings(patient), np.random.default_rng(k))
        assert "nodular goiter" in text
        hot = "hot nodule" in text or "hyperfunctioning nodule" in text
        side = "right" if "right lobe" in text else "left"
        assert hot != ("cold nodule" in text or "hypofunctioning nodule" in text)

        mask = look(patient, X, Y).mask
        nodule = mask == (HOT if hot else COLD)
        assert nodule.any()
        assert set(np.unique(mask)) == {0, GLAND, HOT if hot else COLD}
        # The patient's right is on the left of an anterior picture.
        assert (X[nodule].mean() < 0) == (side == "right")
        concentration = density(patient)
        inside, outside = concentration[nodule].mean(), np.median(concentration[mask == GLAND])
        assert (inside > 1.2 * outside) if hot else (inside < 0.95 * outside)
        checked.add((hot, side))
    assert len(checked) == 4


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_prompt_names_class_and_uptake(label: int) -> None:
    words = {
        "increased": lambda percent: percent > 3,
        "normal": lambda percent: 0.4 <= percent <= 3,
        "reduced": lambda percent: 0.1 <= percent < 0.4,
        "absent": lambda percent: percent < 0.1,
    }
    for k, patient in enumerate(patients(label, 40)):
        text = prompt(findings(patient), np.random.default_rng(k))
        named = [name for name in CLASSES if name in text.replace("normal uptake", "").replace("normal size", "")]
        assert named == [CLASSES[label]]
        said = [word for word, holds in words.items() if f"{word} uptake" in text and holds(patient.uptake_percent)]
        assert len(said) == 1


def test_prompt_counts_every_nodule_and_names_the_pyramidal_lobe() -> None:
    for k, patient in enumerate(patients(1, 60)):
        text = prompt(findings(patient), np.random.default_rng(k))
        if len(patient.nodules) > 2:
            assert f"{len(patient.nodules)} nodules" in text
        assert ("pyramidal lobe" in text) == (patient.pyramidal and patient.uptake_percent >= 0.1)


def everybody(number: int) -> list[tuple[Patient, str]]:
    """Return patients of all classes with their prompts."""
    found = [patient for label in range(len(CLASSES)) for patient in patients(label, number)]
    return [(patient, prompt(findings(patient), np.random.default_rng(k))) for k, patient in enumerate(found)]


def test_larger_lobe_is_the_one_that_covers_more() -> None:
    said = set()
    for patient, text in everybody(60):
        if "lobe larger" not in text and "asymmetric" not in text:
            continue
        side = "right" if "right lobe" in text else "left"
        lobes = look(replace(thyroid_only(patient), bridges=patient.bridges[:1]), X, Y).mask > 0
        right, left = lobes[X < -3].sum(), lobes[X > 3].sum()
        assert (right > left) == (side == "right")
        said.add(side)
    assert said == {"right", "left"}


def test_background_and_salivary_glands_are_as_bright_as_the_prompt_says() -> None:
    """Both are compared with the gland where it is thick, in the activity that reaches the camera."""
    beside, above = (np.abs(np.abs(X) - 42) < 4) & (np.abs(Y) < 15), Y < -45
    contrasts: dict[str, list[float]] = {}
    salivary: dict[bool, list[float]] = {}
    for patient, text in everybody(25):
        if patient.nodules:
            continue
        seen = look(patient, X, Y)
        activity = seen.slabs.sum(0)
        gland = np.quantile(activity[seen.mask > 0], 0.8)
        level = next((word for word in ("high", "low") if f"{word} background" in text), "moderate")
        contrasts.setdefault(level, []).append(gland / np.median(activity[beside]))
        salivary.setdefault("salivary" in text, []).append(np.quantile(activity[above], 0.999) / gland)
    assert max(contrasts["high"]) < min(contrasts["low"])
    assert np.median(contrasts["high"]) < np.median(contrasts["moderate"]) < np.median(contrasts["low"])
    assert np.mean(np.array(salivary[True]) > 1) > 0.9
    assert np.mean(np.array(salivary[False]) < 1) > 0.9


def test_prompt_leaves_the_random_numbers_as_simple_words_did() -> None:
    """What is drawn after the prompt, the acquisition, must not change with what else a prompt says."""
    found = findings(patients(3, 1)[0])
    plain = found | {"larger_lobe": None, "background": "moderate", "salivary_glands": "fainter"}
    rich = found | {"larger_lobe": "left", "background": "high", "salivary_glands": "brighter"}
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    assert prompt(plain, one) != prompt(rich, other)
    assert one.random() == other.random()


def test_words_vary_and_repeat() -> None:
    found = findings(patients(0, 1)[0])
    texts = [prompt(found, np.random.default_rng(k)) for k in range(20)]
    assert len(set(texts)) > 4
    assert texts == [prompt(found, np.random.default_rng(k)) for k in range(20)]


def test_pyramidal_lobe_rises_above_the_isthmus() -> None:
    patient = next(p for p in patients(0, 30) if p.pyramidal)
    without = replace(thyroid_only(patient), bridges=patient.bridges[:1])
    more = look(thyroid_only(patient), X, Y).slabs.sum(0) - look(without, X, Y).slabs.sum(0)
    assert more.max() > 0
    assert (Y * more).sum() / more.sum() < patient.bridges[0].centre[1]


def test_later_pictures_show_a_brighter_gland_over_less_background() -> None:
    patient = draw_patient(2, np.random.default_rng(0))
    early, late = patient.at(10), patient.at(30)
    assert late.tissue > patient.tissue > early.tissue
    assert late.background < patient.background < early.background
    assert late.organs[0][1] > early.organs[0][1]
    assert patient.at(20).tissue == pytest.approx(patient.tissue)
    assert late.uptake_percent > early.uptake_percent
