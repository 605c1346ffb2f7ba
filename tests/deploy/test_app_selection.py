"""Which instances of a study go to which bundle, and why the others do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from deploy.app.selection import RULES, Selection, load_rules, read_instances, select
from scintikit.errors import ConfigError

BOTH = {"thyroid_cls": None, "spect_bone_cls": None}


def _select(*files: Path, bundles: dict[str, None] = BOTH) -> Selection:
    return select(read_instances(files)[0], load_rules(), bundles)


def test_each_series_goes_to_its_bundle(send: Callable[..., Path]) -> None:
    files = send("a.dcm", "thyroid"), send("b.dcm", "bone")
    jobs = _select(*files).jobs
    assert [(job.rule.bundle, job.instances[0].path.name) for job in jobs] == [
        ("thyroid_cls", "a.dcm"),
        ("spect_bone_cls", "b.dcm"),
    ]
    assert [job.instances[0].frames(job.rule.views) for job in jobs] == [[1], [1, 2]]
    assert len({job.id for job in jobs}) == 2


def test_frames_of_no_stated_view_are_not_said_to_be_read_beside_one_that_is(send: Callable[..., Path]) -> None:
    (job,) = _select(send("a.dcm", "thyroid")).jobs
    (instance,) = job.instances
    for views, read in ((("", "ANT"), [2]), (("ANT", "LAO"), [1]), (("",), [1])):
        header = replace(instance.header, views=views, read_frames=tuple(range(len(views))))
        assert replace(instance, header=header).frames(job.rule.views) == read


def test_single_frames_of_one_study_are_one_job_in_the_order_of_the_views(split: Callable[..., list[Path]]) -> None:
    anterior, posterior = split()
    (job,) = _select(posterior, anterior).jobs
    assert [instance.path for instance in job.instances] == [anterior, posterior]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "DYNAMIC", "EMISSION"]}, "its Image Type is DYNAMIC"),
        ({"BodyPartExamined": "LIVER"}, "neither body part nor descriptions fit"),
        ({"StudyDescription": "Parathyroid <script>"}, "its descriptions speak against it"),
        ({"Modality": "CT"}, "not nuclear medicine"),
        ({"Modality": "OT", "Manufacturer": "scintikit"}, "a result of scintikit itself"),
        ({"SeriesInstanceUID": ""}, "does not state"),
    ],
)
def test_what_no_bundle_reads_has_a_reason_that_identifies_nobody(
    send: Callable[..., Path], values: dict[str, object], reason: str
) -> None:
    selection = _select(send("a.dcm", "thyroid", **values))
    assert not selection.jobs
    assert reason in selection.reasons[0]
    for secret in ("Nobody", "4711", "1961", "2024", "<script>", "a.dcm"):
        assert secret not in str(selection.reasons)


def test_a_description_does_where_the_body_part_is_not_stated(send: Callable[..., Path]) -> None:
    described = send("a.dcm", "thyroid", BodyPartExamined="", SeriesDescription="SCHILDDRUESE Tc-99m")
    assert len(_select(described).jobs) == 1
    named = send("b.dcm", "thyroid", BodyPartExamined="", SeriesDescription="Pertechnetate", ProtocolName="Thyroid")
    assert len(_select(named).jobs) == 1


def test_other_files_copies_and_missing_bundles_are_told(send: Callable[..., Path]) -> None:
    picture = send("a.dcm", "thyroid")
    shutil.copy(picture, picture.with_name("copy.dcm"))
    note = picture.with_name("note.txt")
    note.write_text("not DICOM")
    instances, reasons = read_instances([picture, picture.with_name("copy.dcm"), note])
    assert len(instances) == 1
    assert reasons == ['1 files: it is not DICOM (no "DICM" at byte 128)']
    assert "there is no bundle thyroid_cls" in _select(picture, bundles={"spect_bone_cls": None}).reasons[0]


def test_two_files_of_one_uid_and_other_content_are_told(send: Callable[..., Path]) -> None:
    first = send("a.dcm", "thyroid")
    other = send("b.dcm", "thyroid", SOPInstanceUID=dcmread(first).SOPInstanceUID, StudyDescription="Thyroid, later")
    instances, reasons = read_instances([other, first])
    assert [instance.path for instance in instances] == [first]
    assert reasons == ["1 files: another file with the same SOP Instance UID and other content was taken"]


def test_files_without_a_uid_are_each_told(send: Callable[..., Path]) -> None:
    files = [send(name, "thyroid", SOPInstanceUID="") for name in ("a.dcm", "b.dcm")]
    (reason,) = _select(*files).reasons
    assert "2 files: it does not state its SOP Instance" in reason


def test_a_character_set_that_decodes_no_text_is_a_reason_and_no_failure(send: Callable[..., Path]) -> None:
    file = send("a.dcm", "thyroid", SpecificCharacterSet="ISO_IR 100", StudyDescription="Thyr\x1b$Bü")
    file.write_bytes(file.read_bytes().replace(b"ISO_IR 100", b"rot13     ", 1))
    assert read_instances([file]) == ([], ["1 files: the file is damaged (LookupError)"])


def test_a_real_whole_body_scan_of_an_old_archive_is_selected() -> None:
    (job,) = _select(Path(get_testdata_file("JPEG2000.dcm"))).jobs
    assert job.rule.bundle == "spect_bone_cls"
    assert job.instances[0].frames(job.rule.views) is None  # a Secondary Capture's only frame has no number


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("views: [ANT]", "views: [ABOVE]", "rule 1 of .*unknown view ABOVE"),
        ("frames: [1, 16]", "frames: [1]", "expected .LEAST, MOST."),
        ("thyr|", "thyr(|", "rule 1 of"),
        ("body_part: [THYROID]", "body_prat: [THYROID]", "rule 1 of .* must have"),
        ("rules:", "rule:", "no list `rules`"),
    ],
)
def test_wrong_rules_are_named(tmp_path: Path, before: str, after: str, reason: str) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.read_text().replace(before, after))
    with pytest.raises(ConfigError, match=reason):
        load_rules(tmp_path / "rules.yaml")
