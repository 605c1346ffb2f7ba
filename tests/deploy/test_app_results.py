"""Structured Report, Secondary Capture and JSON of a study, as a PACS and a validator read them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from deploy.app import codes, process
from deploy.app.models import load_classifiers
from deploy.app.process import Outcome, process_study
from scintikit.classifier import Classifier
from scintikit.errors import ConfigError, PackageError

Classifiers = dict[str, Classifier]
SECRETS = ("Nobody", "Secret", "4711", "1961", "20240229", "S-88", "ACC-99")


def _one(outcome: Outcome, suffix: str) -> Path:
    (path,) = [path for path in outcome.files if path.name.endswith(suffix)]
    return path


def _items(content: Any, name: str) -> list[Any]:
    found = []
    for item in content:
        if item.ConceptNameCodeSequence and item.ConceptNameCodeSequence[0].CodeMeaning == name:
            found.append(item)
        found += _items(item.get("ContentSequence", []), name)
    return found


@pytest.fixture
def thyroid(send: Callable[..., Path], classifiers: Classifiers, tmp_path: Path) -> Outcome:
    return process_study([send("a.dcm", "thyroid")], tmp_path / "out", classifiers)


@pytest.fixture
def bone(split: Callable[..., list[Path]], classifiers: Classifiers, tmp_path: Path) -> Outcome:
    return process_study(split(), tmp_path / "out", classifiers)


def test_report_of_a_thyroid_study_says_what_the_json_says(thyroid: Outcome, classifiers: Classifiers) -> None:
    said = _said(thyroid)
    report = hd.sr.srread(_one(thyroid, ".sr.dcm"))
    groups = report.content.get_image_measurement_groups()
    probabilities = {}
    for group in groups[:-1]:
        (probability,) = [m for m in group.get_measurements() if m.name.meaning == "Probability"]
        assert (probability.unit.value, probability.unit.scheme_designator) == ("1", "UCUM")
        name = group.tracking_identifier
        probabilities[name] = probability.value
        answers = {e.name.meaning: e.value.meaning for e in group.get_qualitative_evaluations()}
        assert answers["In conformal set (cannot be ruled out)"] == ("Yes" if name in said["conformal_set"] else "No")
        assert answers["Most probable class"] == ("Yes" if name == said["prediction"] else "No")
    assert probabilities == pytest.approx(said["probabilities"])
    assert [group.finding_type.value for group in groups[:4]] == [
        "DIFFUSE_GOITER",
        "NODULAR_GOITER",
        "17621005",
        "82119001",
    ]
    assert _items(report.ContentSequence, "Algorithm Name")[0].TextValue == "scintikit thyroid_cls"
    assert (
        classifiers["thyroid_cls"].model_sha256 in _items(report.ContentSequence, "Algorithm Parameters")[0].TextValue
    )
    assert "Research use only" in _items(report.ContentSequence, "Comment")[0].TextValue
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def _said(outcome: Outcome) -> dict[str, Any]:
    (path,) = [path for path in outcome.files if path.suffix == ".json" and path.name != process.OUTCOME]
    return json.loads(path.read_text())


def test_report_of_a_bone_study_has_thresholds_and_calls(bone: Outcome) -> None:
    said = _said(bone)
    groups = hd.sr.srread(_one(bone, ".sr.dcm")).content.get_image_measurement_groups()
    for group, code in zip(groups, ("94222008", "3723001"), strict=False):
        name = group.tracking_identifier
        values = {m.name.meaning: m.value for m in group.get_measurements()}
        assert values == pytest.approx(
            {"Probability": said["probabilities"][name], "Threshold Value": said["thresholds"][name]}
        )
        (call,) = group.get_qualitative_evaluations()
        assert call.value.meaning == ("Present" if name in said["called"] else "Absent")
        assert group.finding_type.value == code


def test_a_scan_unlike_the_training_data_is_flagged(
    send: Callable[..., Path], classifiers: Classifiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(classifiers["thyroid_cls"]._writer.calibration["ood"], "threshold", -1.0)
    outcome = process_study([send("a.dcm", "thyroid")], tmp_path / "out", classifiers)
    content = hd.sr.srread(_one(outcome, ".sr.dcm")).ContentSequence
    assert _items(content, "Unlike the training data")[0].ConceptCodeSequence[0].CodeMeaning == "Yes"
    assert any("do not rely" in item.TextValue for item in _items(content, "Comment"))


def test_results_refer_to_their_sources_and_are_filed_beside_them(bone: Outcome, tmp_path: Path) -> None:
    sources = [pydicom.dcmread(path) for path in sorted((tmp_path / "study").iterdir(), reverse=True)]
    report, capture = (pydicom.dcmread(_one(bone, suffix)) for suffix in (".sr.dcm", ".sc.dcm"))
    for result in (report, capture):
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "StudyInstanceUID",
            "StudyDate",
            "AccessionNumber",
        ):
            assert result[keyword].value == sources[0][keyword].value
        assert result.SeriesInstanceUID not in [source.SeriesInstanceUID for source in sources]
        assert "RESEARCH USE ONLY" in result.SeriesDescription
    wanted = [source.SOPInstanceUID for source in sources]
    images = _items(report.ContentSequence, "Source of Measurement")
    assert [image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for image in images] == wanted * 3
    assert {image.ReferencedSOPSequence[0].ReferencedFrameNumber for image in images} == {1}
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert {item.ReferencedSOPInstanceUID for item in evidence} == set(wanted)
    assert [item.ReferencedSOPInstanceUID for item in capture.SourceImageSequence] == wanted


def test_capture_shows_banner_and_heat_map(thyroid: Outcome) -> None:
    capture = pydicom.dcmread(_one(thyroid, ".sc.dcm"))
    assert (capture.BurnedInAnnotation, capture.Modality, list(capture.ImageType)) == (
        "YES",
        "OT",
        ["DERIVED", "SECONDARY"],
    )
    banner = capture.pixel_array[:40].astype(int)
    red = (banner[..., 0] > 150) & (banner[..., 1] < 60)
    assert red.mean() > 0.6
    assert ((banner > 200).all(-1)).mean() > 0.03  # its letters
    picture = capture.pixel_array[-384:].astype(int)
    coloured = np.ptp(picture, axis=-1) > 40
    assert coloured[:, 384:].any()
    assert not coloured[:, :384].any()


@pytest.mark.dciodvfy
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_reports_and_captures_pass_the_validator(
    thyroid: Outcome, bone: Outcome, model_folder: Path, small_bone: dict[str, Any], tmp_path: Path
) -> None:
    real = Classifier(model_folder / "spect_bone_cls", "cpu", assumed_view="ANT", **small_bone)
    scan = process_study([Path(get_testdata_file("JPEG2000.dcm"))], tmp_path / "real", {"spect_bone_cls": real})
    results = [path for outcome in (thyroid, bone, scan) for path in outcome.files if path.suffix == ".dcm"]
    assert len(results) == 6
    for path in results:
        run = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert not [line for line in run.stderr.splitlines() if line.startswith("Error")], run.stderr


@pytest.mark.onnx
def test_without_gradients_there_is_no_capture_but_a_report(
    send: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra `onnx`")
    models = shutil.copytree(model_folder, tmp_path / "models")  # model.onnx is written there
    classifiers = load_classifiers(models, {"thyroid_cls"}, "cpu", "onnx")
    outcome = process_study([send("a.dcm", "thyroid")], tmp_path / "out", classifiers)
    assert sorted(path.name.partition(".")[2] for path in outcome.files) == ["json", "json", "sr.dcm"]


@pytest.mark.parametrize(
    ("character_set", "name"),
    [(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("ISO_IR 100", "Müller^Jörg"), ("NONSENSE", "Nobody")],
)
def test_a_patient_with_any_character_set_gets_results(
    character_set: str | list[str], name: str, send: Callable[..., Path], classifiers: Classifiers, tmp_path: Path
) -> None:
    file = send("a.dcm", "thyroid", SpecificCharacterSet=character_set, PatientName=name)
    outcome = process_study([file], tmp_path / "out", classifiers)
    for suffix in (".sr.dcm", ".sc.dcm"):
        assert pydicom.dcmread(_one(outcome, suffix)).PatientName == name


def test_two_names_are_no_name_and_no_failure(
    send: Callable[..., Path], classifiers: Classifiers, tmp_path: Path
) -> None:
    file = send("a.dcm", "thyroid", PatientName=["A^B", "C^D"])
    outcome = process_study([file], tmp_path / "out", classifiers)
    assert pydicom.dcmread(_one(outcome, ".sr.dcm")).PatientName == ""


def test_a_study_processed_twice_gives_the_same_instances(
    send: Callable[..., Path], classifiers: Classifiers, tmp_path: Path
) -> None:
    files = [send("a.dcm", "thyroid"), send("b.dcm", "thyroid", 1)]
    uids = []
    for name, order in (("x", files), ("y", files[::-1])):
        outcome = process_study(order, tmp_path / name, classifiers)
        uids.append(
            {path.name: pydicom.dcmread(path).SOPInstanceUID for path in outcome.files if path.suffix == ".dcm"}
        )
    assert uids[0] == uids[1]
    assert len(set(uids[0].values())) == 4


def test_nothing_that_identifies_a_person_reaches_json_names_or_logs(
    send: Callable[..., Path],
    classifiers: Classifiers,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    names = {"PatientName": "Nobody=Secret^^^^^^=x=y", "PatientSex": "4711"}  # both libraries complain of these
    files = [send("Nobody.dcm", "thyroid", **names), send("Secret_4711.dcm", "bone", Modality="CT", **names)]
    files.append(send("Nobody_empty.dcm", "thyroid", 1, PixelData=b"\0" * 2 * 128 * 128))
    outcome = process_study(files, tmp_path / "out", classifiers)
    assert outcome.status == "done"
    assert len(outcome.reasons) == 2
    texts = [path.read_text() for path in outcome.files if path.suffix == ".json"]
    texts += [str(outcome.files), str(outcome.reasons), caplog.text, *(str(warning.message) for warning in recwarn)]
    texts = [text.replace(str(tmp_path), "") for text in texts]
    assert not [(secret, text) for secret in SECRETS for text in texts if secret in text]


def test_an_unsuitable_study_ends_in_a_json_that_says_why(
    send: Callable[..., Path], classifiers: Classifiers, tmp_path: Path
) -> None:
    empty = send("a.dcm", "thyroid", PixelData=b"\0" * 2 * 128 * 128)
    outcome = process_study([empty, send("b.dcm", "bone", Modality="CT")], tmp_path / "out", classifiers)
    assert outcome.status == "unsuitable"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["outcome.json"]
    said = json.loads((tmp_path / "out" / "outcome.json").read_text())
    assert said["status"] == "unsuitable"
    assert any(reason.startswith("job ") and "no counts" in reason for reason in said["reasons"])
    assert any("modality CT" in reason for reason in said["reasons"])


def test_a_refusal_does_not_tell_where_the_file_lies(
    send: Callable[..., Path], classifiers: Classifiers, tmp_path: Path
) -> None:
    empty = send("a.dcm", "thyroid", PixelData=b"\0" * 2 * 128 * 128)
    folder = tmp_path / "M\u3000Mueller"
    folder.mkdir()
    outcome = process_study([empty.rename(folder / "a.dcm")], tmp_path / "out", classifiers)
    assert not [reason for reason in outcome.reasons if "Mueller" in reason]
    assert any("file 1 holds no counts" in reason for reason in outcome.reasons)


def test_codes_of_own_classes_tell_them_apart() -> None:
    names = ("grade 1+", "grade 1-", "узловой зоб 2", "диффузный зоб 2", "grade 1")
    values = [codes.finding(name).value for name in names]
    assert len(set(values)) == len(names)
    assert values[-1] == "GRADE_1"


def test_a_killed_run_leaves_whole_files_and_a_second_run_the_rest(
    send: Callable[..., Path], classifiers: Classifiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, output, write = [send("a.dcm", "thyroid")], tmp_path / "out", process.write_atomic

    def killed(path: Path, data: bytes) -> None:
        if path.name.endswith(".sr.dcm"):
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(process, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        process_study(files, output, classifiers)
    left = sorted(path.name.partition(".")[2] for path in output.iterdir())
    assert left == ["json", "sc.dcm"]  # the report comes last, no outcome yet
    monkeypatch.setattr(process, "write_atomic", write)
    outcome = process_study(files, output, classifiers)
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in outcome.files)
    monkeypatch.setattr(process, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        process_study(files, output, classifiers)
    assert not (output / "outcome.json").exists()  # what it said is of a run before


def test_a_changed_packed_bundle_is_refused_before_it_is_evaluated(model_folder: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(model_folder / "thyroid_cls", tmp_path / "thyroid_cls"))
    manifest = {"name": "thyroid_cls", "version": "0.1.0", "files": {"LICENSE": {"sha256": "0" * 64, "bytes": 1}}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match="LICENSE"):
        load_classifiers(tmp_path, {"thyroid_cls"})
    with pytest.raises(ConfigError, match="none of the bundles"):
        load_classifiers(tmp_path, {"spect_bone_cls"})
    (bundle / "configs" / "metadata.json").write_text("{")
    with pytest.raises(ConfigError, match=r"metadata\.json is damaged"):
        load_classifiers(tmp_path, {"spect_bone_cls"})
