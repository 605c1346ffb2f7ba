"""The page of an audit: the nearest pairs first, then how near is usual, then the table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scintikit.errors import ReportError
from scintikit.files import file_sha256
from scintikit.reporting import audit_report
from scintikit.reporting.audit import distances

RESULT: dict[str, Any] = {
    "synthetic": 30,
    "held_out": 40,
    "flagged": 2,
    "expected_false_alarms": 0.03,
    "with_source": 20,
    "nearest_is_source": 5,
    "quantile": 0.999,
    "thresholds": {"distance": 0.02, "ratio": 0.3, "feature_distance": 1e-4},
    "warnings": ["only 40 held-out pictures"],
}


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    count = 30
    return pd.DataFrame(
        {
            "id": [f"fm_{number}" for number in range(count)],
            "nearest": "A_1<b>",
            "distance": np.r_[0.004, 0.3, rng.uniform(0.1, 0.4, count - 2)],
            "ratio": np.r_[0.05, rng.uniform(0.5, 1, count - 1)],
            "flip": np.arange(count) % 2 == 0,
            "shift_down_mm": 1.25,
            "shift_right_mm": -3.5,
            "nearest_by_features": "B_2",
            "feature_distance": rng.uniform(1e-3, 1e-2, count),
            "source": "A_1",
            "nearest_is_source": False,
            "flagged": ["distance, ratio", "feature_distance", *[""] * (count - 2)],
        }
    )


@pytest.fixture
def held_out() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "distance": rng.uniform(0.1, 0.4, 40),
        "feature_distance": rng.uniform(1e-3, 1e-2, 40),
        "ratio": rng.uniform(0.5, 1, 40),
    }


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.random((4, 16, 24)), rng.random((4, 16, 24))


@pytest.fixture
def page(
    table: pd.DataFrame, held_out: dict[str, np.ndarray], pairs: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> Path:
    return audit_report(tmp_path / "out" / "one.html", RESULT, table, held_out, pairs, {"seed": 7}, title="A title")


def test_pairs_come_first_then_distributions_table_and_provenance(page: Path) -> None:
    text = page.read_text()
    assert text.count("<img ") == 5
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert captions[0].startswith("The nearest pairs")
    assert ["threshold 0.02" in caption for caption in captions] == [False, False, True, False, False]
    assert ["threshold 0.0001" in caption for caption in captions] == [False, False, False, False, True]
    assert text.index("<img ") < text.index("<table>") < text.index("Provenance")
    assert "only 40 held-out pictures" in text
    files = sorted(path.stem for path in (page.parent / "one_figures").glob("*.png"))
    assert files == ["distance", "feature_distance", "nearness", "pairs", "ratio"]


def test_headline_and_rows_show_what_was_found(page: Path) -> None:
    text = page.read_text()
    assert "<dd>2<small>of 30 synthetic pictures" in text
    assert "<dd>0.0<small>quantile 0.999" in text
    assert "<dd>0.996<small>held-out 0." in text
    assert "<dd>25%<small>5 of 20 with a source" in text
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text)
    assert len(rows) == 20
    cells = re.findall("<td>(.*?)</td>", rows[0][1])
    assert (rows[0][0], *cells[:5]) == ("fm_0", "A_1&lt;b&gt;", "0.996", "0.05", "yes", "+1.2, -3.5")
    assert cells[-1] == "distance, ratio"
    assert re.findall("<td>(.*?)</td>", rows[1][1])[-1] == "features"
    assert re.findall("<td>(.*?)</td>", rows[2][1])[-1] == "no"


def test_the_same_input_gives_the_same_bytes(
    page: Path, table: pd.DataFrame, held_out: dict[str, np.ndarray], pairs: tuple[np.ndarray, np.ndarray]
) -> None:
    before = file_sha256(page)
    for _ in range(5):  # a layout that is solved anew each time would not be the same in one run of three
        audit_report(page, RESULT, table, held_out, pairs, {"seed": 7}, title="A title")
        assert file_sha256(page) == before


def test_no_source_and_an_exact_copy(
    table: pd.DataFrame, held_out: dict[str, np.ndarray], pairs: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    exact = table.assign(distance=0.0, ratio=np.nan)
    page = audit_report(tmp_path / "a.html", RESULT | {"with_source": 0}, exact, held_out, pairs)
    assert "<dd>n/a<small>" in page.read_text()


def test_histograms_hold_every_picture_copies_too() -> None:
    made, held_out = np.array([0, 1e-7, 0.2, 0.3], np.float32), np.array([0.1, 0.3, 0.4], np.float32)
    steps = distances(made, held_out, 0.02, "distance").axes[0].patches
    assert [step.get_data().values.sum() for step in steps] == pytest.approx([1, 1])


@pytest.mark.parametrize("count", [0, 31])
def test_pairs_that_do_not_fit_the_table_are_refused(
    count: int, table: pd.DataFrame, held_out: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(ReportError, match="expected pairs"):
        audit_report(tmp_path / "a.html", RESULT, table, held_out, (np.zeros((count, 16, 16)),) * 2)
    assert not list(tmp_path.iterdir())
