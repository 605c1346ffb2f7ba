"""`make demo`, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from scintikit.errors import ScintikitError
from tools.demo import demo


def test_demo_leaves_a_folder_alone_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(ScintikitError, match="no demo made"):
        demo(str(tmp_path), epochs=1, profile="tiny")


@pytest.mark.slow
def test_demo_ends_with_a_table_and_a_report_and_reuses_its_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo(str(tmp_path), epochs=1, profile="tiny")
    shown = capsys.readouterr().out
    assert "macro average" in shown
    assert str(tmp_path / "report.html") in shown
    assert "not a medical device" in shown
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert len(list((tmp_path / "predictions" / "images").glob("*.png"))) == len(list((tmp_path / "dicom").iterdir()))
    weights = (tmp_path / "models" / "model.pt").stat().st_mtime_ns

    demo(str(tmp_path), epochs=1, profile="tiny")
    assert "already trained" in capsys.readouterr().out
    assert (tmp_path / "models" / "model.pt").stat().st_mtime_ns == weights

    (tmp_path / "models" / "calibration.pt").unlink()  # as if it had been stopped before the end
    demo(str(tmp_path), epochs=1, profile="tiny")
    assert (tmp_path / "models" / "model.pt").stat().st_mtime_ns == weights
    assert (tmp_path / "models" / "calibration.pt").exists()
