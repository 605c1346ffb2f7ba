"""The page of a comparison: real next to synthetic pictures, scores beside their floor, and what is doubtful."""

from __future__ import annotations

import copy
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scintikit.errors import ReportError
from scintikit.files import file_sha256
from scintikit.metrics import Sample, fidelity_metrics
from scintikit.reporting import fidelity_report
from scintikit.reporting.fidelity import SCORES, score_text

NAMES = ["normal", "nodular <goiter> $x_1"]
FREQUENCIES = np.arange(1, 17) / 64


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).random((40, 32, 32))


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """40 pictures a side; the second class has too few to compare."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], [34, 6])

    def side(name: str) -> Sample:
        patients = np.array([f"{name}{number}" for number in range(40)])
        parts = rng.normal(size=(40, 6)), rng.normal(0, 0.1, (40, 16)), rng.normal(size=(40, 3)), rng.random((40, 50))
        return Sample(*parts, np.eye(2, dtype=bool)[label], patients)

    return fidelity_metrics(side("r"), side("s"), NAMES, bootstrap=20)


@pytest.fixture
def page(result: dict[str, Any], pictures: np.ndarray, tmp_path: Path) -> Path:
    examples = dict.fromkeys(NAMES, (pictures[:9], pictures[9:12]))
    return fidelity_report(
        tmp_path / "out" / "one.html", result, FREQUENCIES, examples, {"seed": 7}, title="A title", subtitle="Below it"
    )


def test_pictures_come_first_then_tables_then_provenance(page: Path) -> None:
    text = page.read_text()
    assert text.count("<img ") == 8  # two classes, spectrum, ROC, scores, spectra by class, intensities, neighbours
    assert text.index("<img ") < text.index("<table>") < text.index("Provenance")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert captions[0].startswith("normal: real (upper row")
    assert captions[1].startswith("nodular &lt;goiter&gt; $x_1: real")
    assert "<goiter>" not in text
    assert "A title" in text
    assert "Below it" in text


def test_every_score_stands_beside_its_floor(page: Path, result: dict[str, Any]) -> None:
    text = page.read_text()
    scores = result["overall"]["scores"]
    assert set(scores) == set(SCORES)
    for key, score in scores.items():
        row = re.search(rf'<th scope="row">{SCORES[key]}</th>(.*?)</tr>', text)
        assert row, key
        assert re.findall("<td>(.*?)</td>", row[1]) == [score_text(key, score, p) for p in (None, "matched", "floor")]
    assert "floor, 20 against 20" in text


def test_doubts_are_in_the_banner_and_in_the_notes(page: Path, result: dict[str, Any]) -> None:
    text = page.read_text()
    banner = re.search(r'role="note">(.*?)</p>', text)
    assert banner
    assert "Fewer than 200 pictures, so uncertain: all classes, normal, nodular" in banner[1]
    assert len(result["warnings"]) == 3
    for warning in result["warnings"]:
        assert html.escape(warning).replace("&#x27;", "&#39;") in text
    assert "n/a</td>" in text  # the class that could not be measured


def test_without_doubts_the_banner_is_as_given(result: dict[str, Any], pictures: np.ndarray, tmp_path: Path) -> None:
    sure = copy.deepcopy(result)
    for group in (sure["overall"], *sure["per_class"].values()):
        group |= {"n_real": 500, "n_synthetic": 500}
    page = fidelity_report(
        tmp_path / "a.html", sure, FREQUENCIES, {"normal": (pictures[:2], pictures[:2])}, warning="Take care."
    )
    assert 'role="note">Take care.</p>' in page.read_text()


def test_figures_lie_beside_the_page(page: Path) -> None:
    names = sorted(path.stem for path in (page.parent / "one_figures").glob("*.png"))
    assert names == [
        "examples_0",
        "examples_1",
        "forest",
        "intensities",
        "neighbours",
        "roc",
        "spectra_by_class",
        "spectrum",
    ]


def test_the_same_input_gives_the_same_bytes(page: Path, result: dict[str, Any], pictures: np.ndarray) -> None:
    before = file_sha256(page)
    examples = dict.fromkeys(NAMES, (pictures[:9], pictures[9:12]))
    fidelity_report(page, result, FREQUENCIES, examples, {"seed": 7}, title="A title", subtitle="Below it")
    assert file_sha256(page) == before


@pytest.mark.parametrize("names", [[], ["thyroiditis"]])
def test_examples_of_no_class_are_refused(
    names: list[str], result: dict[str, Any], pictures: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(ReportError, match="expected classes among"):
        fidelity_report(tmp_path / "a.html", result, FREQUENCIES, dict.fromkeys(names, (pictures, pictures)))
    assert not list(tmp_path.iterdir())


def test_scores_as_text() -> None:
    floor = {"value": 0.0012, "low": -0.0021, "high": 0.0043}
    score = {"value": 0.01234, "low": 0.01, "high": 0.02, "matched": floor, "floor": floor}
    assert score_text("kid", score) == "12.3 (10.0 to 20.0)"
    assert score_text("kid", score, "floor") == "1.2 (-2.1 to 4.3)"
    assert score_text("fid", score, span=False) == "0.01234"
    assert score_text("coverage", score) == "0.01 (0.01 to 0.02)"
    assert score_text("grain_distance", score | {"low": None}) == "0.012"
    assert score_text("kid", score | {"value": None}) == "n/a"
    assert score_text("kid", score | {"value": -0.00001}, span=False) == "0.0"
