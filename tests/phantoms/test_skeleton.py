"""Bone scans: the anatomy, what view and mask show, and the words; the dataset, its bytes and its difficulty."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scintikit.data import load_dataset
from scintikit.dicom import read_scintigram
from scintikit.errors import ConfigError
from scintikit.phantoms import load_cameras, skeleton
from scintikit.phantoms.skeleton import BONES, bone_findings, bone_prompt, draw_bone_patient, reference, scan
from scintikit.phantoms.skeleton.cameras import PROTOCOLS, blur, pixel_mm
from scintikit.phantoms.skeleton.findings import NUMBERS
from scintikit.phantoms.skeleton.patients import (
    ARTHRITIS,
    AXIAL,
    METASTASIS,
    REGIONS,
    BonePatient,
    Focus,
    vertebra,
)
from tools.simulate import simulate as tool


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "demo"
    return skeleton.simulate_bone("bone_demo", 3, folder, workers=1, progress=False)


def patients(label: tuple[int, int], number: int) -> list[BonePatient]:
    return [draw_bone_patient(label, np.random.default_rng((4, *label, k))) for k in range(number)]


def with_focus(bone: str, place: tuple[float, float, float], side: str = "", contrast: float = 12.0) -> BonePatient:
    """A patient whose only focus is a hot one at a place of a bone."""
    lobes = np.array([(*place, 14.0)], np.float32)
    plain = draw_bone_patient((0, 0), np.random.default_rng(1))
    return replace(plain, foci=(Focus(METASTASIS, bone, side, lobes, contrast, (bone,)),), spots=plain.spots[:3])


def added(patient: BonePatient) -> np.ndarray:
    """What the focus adds to the expected counts, (view, row, column)."""
    whole = scan(patient, "A", np.random.default_rng(0)).expected
    return whole - scan(replace(patient, foci=()), "A", np.random.default_rng(0)).expected


def place_on(bone: str, along: float) -> tuple[float, float, float]:
    cloud = reference()
    points = np.flatnonzero(cloud.bone == BONES.index(bone))
    x, y, z = cloud.place[points[np.abs(cloud.along[points] - along).argmin()]]
    return float(x), float(y), float(z)


def test_skeleton_has_every_bone_and_both_sides() -> None:
    cloud = reference()
    assert cloud.uptake.sum() == pytest.approx(1, rel=1e-5)
    assert set(cloud.bone) == set(range(len(BONES)))
    assert sum(" rib " in name for name in BONES) == 24
    for number, name in enumerate(BONES):
        if name.startswith("left "):
            other = BONES.index(name.replace("left", "right"))
            mine, mirrored = (cloud.place[cloud.bone == n].mean(0) for n in (number, other))
            np.testing.assert_allclose(mine * (-1, 1, 1), mirrored, atol=1e-3)
            assert mine[0] > 0


def test_ribs_run_from_the_spine_down_and_forward() -> None:
    for k in range(2, 10):
        start, middle, end = (place_on(f"left rib {k}", along) for along in (0.02, 0.5, 0.98))
        assert start[0] < middle[0]
        assert start[1] < middle[1] < end[1] + 15  # the costal end lies deep, the neck high
        assert start[2] > 30 > 0 > end[2]


def test_views_are_mirrored() -> None:
    """The patient's left is on the right of the anterior picture and on the left of the posterior one."""
    front, back = added(with_focus("left humerus", (168, 330, 12), "left"))
    assert np.unravel_index(front.argmax(), front.shape)[1] > 150
    assert np.unravel_index(back.argmax(), back.shape)[1] < 106


@pytest.mark.parametrize(("along", "brighter"), [(0.2, "POST"), (0.93, "ANT")])
def test_rib_focus_is_brighter_in_the_nearer_view(along: float, brighter: str) -> None:
    front, back = added(with_focus("left rib 7", place_on("left rib 7", along), "left"))
    near, far = (back, front) if brighter == "POST" else (front, back)
    assert near.sum() > 1.8 * far.sum()


def test_mask_leaves_out_the_view_that_does_not_show() -> None:
    body = scan(with_focus("sternum", (0, 420, -92), contrast=3.0), "A", np.random.default_rng(0))
    assert (body.mask[0] == 1).sum() > 20
    assert (body.mask[1] == 1).sum() < 0.3 * (body.mask[0] == 1).sum()


def test_mask_lies_on_the_focus() -> None:
    patient = with_focus("left pelvis", (92, 810, 10), "left")
    mask, extra = scan(patient, "A", np.random.default_rng(0)).mask, added(patient)
    for view in range(2):
        assert mask[view].any()
        rows, columns = np.nonzero(mask[view])
        peak = np.unravel_index(extra[view].argmax(), extra[view].shape)
        assert abs(rows.mean() - peak[0]) < 6
        assert abs(columns.mean() - peak[1]) < 6
        assert extra[view][mask[view] > 0].mean() > 10 * extra[view][mask[view] == 0].mean()


def test_metastasis_hides_arthritis_in_the_mask() -> None:
    lobes = np.array([(0, *vertebra("L4")[1:], 20)], np.float32)
    foci = (Focus(METASTASIS, "lumbar spine", "", lobes, 6.0, ("L4",)), Focus(ARTHRITIS, "x", "", lobes, 6.0))
    body = scan(replace(with_focus("L4", (0, 0, 0)), foci=foci), "A", np.random.default_rng(0))
    assert (body.mask == 1).sum() > (body.mask == 2).sum()


def test_deep_and_distant_sources_are_blurred_more() -> None:
    layers = np.zeros((3, 3, 128, 96), np.float32)
    for k in range(3):
        layers[k, k, 64, 48] = 1
    near, middle, deep = blur(layers, PROTOCOLS["A"], 2.2, 60.0).max((1, 2))
    assert near > middle > deep
    assert blur(layers, PROTOCOLS["A"], 2.2, 120.0).max() < near
    assert blur(layers, PROTOCOLS["A"], 2.2, 60.0, motion=8.0).max() < near


def test_metastases_are_mostly_axial() -> None:
    found = [f for p in patients((1, 0), 150) for f in p.of(METASTASIS)]
    regions = Counter(f"{f.side} {f.region}".strip() for f in found)
    assert set(regions) <= set(REGIONS)
    assert 0.7 < sum(regions[name] for name in AXIAL) / len(found) < 0.95
    assert regions["thoracic spine"] > 3 * regions["sternum"]


def test_numbers_of_foci() -> None:
    numbers = np.array([len(p.of(METASTASIS)) for p in patients((1, 0), 150)])
    assert numbers.min() == 1
    assert 20 < numbers.max() <= 30
    assert 0.1 < (numbers == 1).mean() < 0.3
    joints = [{(f.region, f.side) for f in p.of(ARTHRITIS)} for p in patients((0, 1), 60)]
    assert all(joints)
    both = [(name, "left") in found for found in joints for name, side in found if side == "right"]
    assert 0.3 < np.mean(both) < 0.9  # often, not always, symmetric
    assert not any(p.of(METASTASIS) or p.of(ARTHRITIS) for p in patients((0, 0), 40))


def test_superscan_has_faint_kidneys_and_soft_tissue() -> None:
    found = patients((1, 0), 200)
    superscans = [p for p in found if p.superscan > 1]
    others = [p for p in found if p.superscan == 1]
    assert 4 <= len(superscans) <= 25
    assert np.median([p.soft_tissue for p in superscans]) < 0.6 * np.median([p.soft_tissue for p in others])
    kidneys = [next(s.activity for s in p.spots if s.name == "kidney") for p in (superscans[0], others[0])]
    assert kidneys[0] < kidneys[1]
    body = scan(superscans[0], "A", np.random.default_rng(0))
    assert (body.mask == 1).mean() > 0.03


def test_prompt_agrees_with_the_findings() -> None:
    for label in skeleton.DIAGNOSES:
        for k, patient in enumerate(patients(label, 40)):
            found = bone_findings(patient)
            text = bone_prompt(found, np.random.default_rng(k))
            assert text == bone_prompt(found, np.random.default_rng(k))
            assert "anterior" in text
            assert "posterior" in text
            assert ("superscan" in text) == (patient.superscan > 1)
            number = len(patient.of(METASTASIS))
            if patient.superscan == 1 and number:
                word = NUMBERS[number] if number < len(NUMBERS) else str(number)
                assert re.search(rf", {word} metastas[ei]s ", text)
                assert Counter(f.region for f in patient.of(METASTASIS)).most_common(1)[0][0].rstrip("a") in text
            assert bool(re.search(r"degenerative|arthritic", text)) == bool(patient.of(ARTHRITIS))
            for focus in patient.of(ARTHRITIS):
                assert focus.region in text or focus.region.replace("foot", "feet") in text
                sides = {f.side for f in patient.of(ARTHRITIS) if f.region == focus.region}
                if focus.region != "lumbar facet joints":
                    assert f"the {focus.side} {focus.region}" in text or len(sides) == 2
            assert ("fracture" in text) == any(f.region == "old rib fracture" for f in patient.foci)
            assert ("injection" in text) == any("injection" in s.name for s in patient.spots)
            assert bool(re.search("contamination", text)) == any(s.name == "contamination" for s in patient.spots)


def test_dataset_keeps_the_contract(demo: Path) -> None:
    dataset = load_dataset(demo)
    assert dataset.multi_label
    assert list(dataset.labels.values()) == ["metastasis", "arthritis"]
    assert "Simulated, not for clinical use" in dataset.description
    assert {item["centre"] for item in dataset.splits["test"]} == set("FHI")
    items = [item for split in dataset.splits.values() for item in split]
    assert len(items) == 90
    assert {tuple(item["label"]) for item in items} == set(skeleton.DIAGNOSES)
    assert len({item["patient"] for item in items}) == 90
    totals = []
    for item in items:
        image, mask = (read_scintigram(demo / item[key]) for key in ("image", "mask"))
        pixel = pixel_mm(load_cameras()[item["centre"]])
        assert image.views == ("ANT", "POST")
        assert (image.image_type, image.synthetic) == ("WHOLE BODY", True)
        assert image.spacing_mm == pytest.approx((pixel, pixel))
        assert image.counts.shape == mask.counts.shape == (2, 1024, 256)
        totals.append(image.counts.sum())
        classes = item["origin"]["settings"]["findings"]["classes"]
        for number, name in enumerate(skeleton.CLASSES):
            present = item["label"][number]
            assert (name in classes) == present
            assert (mask.counts == number + 1).any() == present
    assert 1.5e6 < np.median(totals) < 3e6
    assert min(totals) > 5e5
    assert max(totals) < 1.2e7


def test_hottest_pixels_do_not_give_metastases_away(demo: Path) -> None:
    items = [item for split in load_dataset(demo).splits.values() for item in split]
    values = []
    for item in items:
        row = []
        for counts in read_scintigram(demo / item["image"]).counts:
            hottest = [counts.max(), np.percentile(counts, 99.9)]
            row += [*hottest, *(hottest / np.median(counts[counts > 0]))]
        values.append(np.log(row))
    labels = [item["label"][0] for item in items]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    score = cross_val_predict(model, np.array(values), labels, cv=5, method="predict_proba")[:, 1]
    assert roc_auc_score(labels, score) < 0.75


def test_killed_run_goes_on_in_workers_to_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    def hashes(folder: Path) -> dict[str, str]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    again = Path(shutil.copytree(demo, tmp_path / "again"))
    (again / "dataset.json").unlink()
    for path in sorted((again / "masks").iterdir())[:52]:  # enough for the workers to share
        path.unlink()
    skeleton.simulate_bone("bone_demo", 3, again, workers=2, progress=False)
    assert hashes(again) == hashes(demo)


@pytest.mark.dciodvfy
def test_objects_satisfy_the_validator(demo: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian package dicom3tools)")
    path = demo / "images" / "A_0001.dcm"
    report = subprocess.run(["dciodvfy", path], capture_output=True, text=True, timeout=60)
    lines = (report.stdout + report.stderr).splitlines()
    # It dates from 2022 and does not know SyntheticData.
    assert [line for line in lines if "Error" in line and "(0x0008,0x001c)" not in line] == []


def test_header_describes_the_scan(demo: Path) -> None:
    header = pydicom.dcmread(demo / "images" / "A_0001.dcm", stop_before_pixels=True)
    assert list(header.ImageType) == ["DERIVED", "PRIMARY", "WHOLE BODY", "EMISSION"]
    assert (header.NumberOfDetectors, list(header.DetectorVector)) == (2, [1, 2])
    assert (header.WholeBodyTechnique, float(header.ScanVelocity)) == ("1PS", PROTOCOLS["A"].mm_per_s)
    assert header.ScanLength == round(1024 * pixel_mm(load_cameras()["A"]))
    assert (header.SyntheticData, header.SeriesDescription) == ("YES", "Simulated, not for clinical use")
    assert not header.PatientName


@pytest.mark.parametrize("profile", skeleton.BONE_PROFILES)
def test_profiles_have_their_size_and_mix(profile: str) -> None:
    plan = skeleton.bone_cases(profile, 0)
    internal, external = skeleton.BONE_PROFILES[profile]
    assert Counter(case.centre in "FHI" for case in plan) == {False: internal, True: external}
    assert {case.centre for case in plan} == set("ABCDEFGHI")
    if profile == "bone_paper":
        shares = np.bincount([case.label for case in plan]) / len(plan)
        np.testing.assert_allclose(shares, (0.25, 0.30, 0.20, 0.25), atol=0.05)


def test_tool_makes_both_subjects_and_refuses_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="bone_demo"):
        tool("bone_huge")
    with pytest.raises(ConfigError, match="not negative"):
        skeleton.simulate_bone("bone_tiny", -1)
    monkeypatch.setenv("SCINTIKIT_HOME", str(tmp_path))
    folder = skeleton.simulated_bone_dataset("bone_tiny", 1)
    tool("bone_tiny", 1)
    printed = capsys.readouterr().out
    assert folder in printed
    assert printed.split()[:5] == ["neither", "metastasis", "arthritis", "both", "total"]
    assert printed.splitlines()[3].split()[-1] == "9"
