"""A thyroid scintigram and a whole-body scan go into a node, and what the classifiers say comes back."""

import contextlib

import node_parts as parts
import pydicom
import pytest

from deploy.orthanc.__main__ import APPLICATION
from deploy.orthanc.workers import Workers


@pytest.mark.orthanc
@pytest.mark.slow
@pytest.mark.skipif(not parts.INSTALLED, reason="Orthanc is not installed (make system)")
def test_studies_of_both_bundles_get_a_report_and_a_picture(model_folder, send, tmp_path):
    sources = [send("thyroid.dcm", "thyroid"), send("bone.dcm", "bone")]
    node = parts.new_node(tmp_path / "node")
    with parts.orthanc(node), contextlib.closing(Workers(APPLICATION, model_folder, 1)) as workers:
        with parts.watching(node, workers):
            parts.send(node, sources)
            parts.wait_for(lambda: [row["state"] for row in parts.rows(node)] == ["done"] * 2, 120)
        archive = node.archive()
        assert sorted(parts.results(archive, "SR").values()) == [1, 1]
        assert sorted(parts.results(archive, "OT").values()) == [1, 1]
        for study in parts.results(archive, "SR"):
            series = {one["MainDicomTags"]["Modality"]: one["Instances"] for one in archive.series(study)}
            files = {}
            for modality, (instance,) in series.items():
                archive.download(instance, tmp_path / "file.dcm")
                files[modality] = pydicom.dcmread(tmp_path / "file.dcm")
            source = files["NM"].SOPInstanceUID
            (referenced,) = (
                files["SR"]
                .CurrentRequestedProcedureEvidenceSequence[0]
                .ReferencedSeriesSequence[0]["ReferencedSOPSequence"]
            )
            assert referenced.ReferencedSOPInstanceUID == source
            assert files["OT"].SourceImageSequence[0].ReferencedSOPInstanceUID == source
            assert files["SR"].PatientName == files["NM"].PatientName
    assert all(row["thumbnail"].startswith(b"\x89PNG") for row in parts.rows(node))
