"""`tools fidelity`: which items are compared, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scintikit import __version__
from scintikit.data import compose, load_dataset
from scintikit.errors import ConfigError, DatasetError
from scintikit.metrics import Sample
from scintikit.metrics.features import random_features
from scintikit.phantoms import simulate
from tools.fidelity import fidelity

REPEATS = "scintikit.metrics.fidelity.REPEATS"


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """38 simulated patients of another seed, each declared as generated from one in the other dataset."""
    folder = simulate("tiny", 1, tmp_path_factory.mktemp("synthetic") / "made", progress=False)
    content = json.loads((folder / "dataset.json").read_text())
    for item in content["training"]:
        item["origin"] = {"kind": "fm", "seed": 0, "source": item["image"].split("/")[1].removesuffix(".dcm")}
    content |= {"name": "made", "validation": [], "test": []}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def written(tiny_dataset: str, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fidelity")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(REPEATS, 2)
        fidelity(tiny_dataset, str(synthetic), extractor="random", output=str(folder))
    return folder


class Stop(Exception):
    """Raised in place of the measuring."""


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """What would have been compared: the real side, then the synthetic one."""
    seen: list[Sample] = []

    def spy(real: Sample, synthetic: Sample, *args: object, **options: object) -> None:
        seen[:] = [real, synthetic]
        raise Stop

    monkeypatch.setattr("tools.fidelity.fidelity_metrics", spy)
    return seen


def test_the_json_says_what_was_compared_and_how(written: Path, tiny_dataset: str, synthetic: Path) -> None:
    result = json.loads((written / "fidelity.json").read_text())
    real = load_dataset(tiny_dataset)
    assert result["real"] == {
        "name": real.name,
        "sha256": real.sha256,
        "split": "training",
        "items": 38,
        "kinds": {"simulated": 38},
    }
    assert result["synthetic"]["sha256"] == load_dataset(synthetic).sha256
    assert result["synthetic"]["kinds"] == {"fm": 38}
    assert (result["extractor"]["name"], result["extractor"]["features"]) == ("random", 512)
    assert result["extractor"]["sha256"] == random_features().sha256
    assert result["preprocessing"]["bundle"] == "thyroid_cls"
    assert result["preprocessing"]["spacing_mm"] == 2.0
    assert result["settings"]["seed"] == 0
    assert result["scintikit"] == __version__
    assert (result["frequencies"][-1], len(result["frequencies"])) == (0.25, 64)
    assert (result["overall"]["n_real"], result["overall"]["n_floor"]) == (38, 19)
    assert set(result["per_class"]) == set(real.labels.values())
    assert "scores" not in result["per_class"]["normal"]
    assert all("fewer than 200" in text or "too few" in text for text in result["warnings"])
    assert len(result["warnings"]) == 5


def test_the_page_shows_each_class(written: Path) -> None:
    text = (written / "fidelity.html").read_text()
    assert "made against thyroid-tiny-0" in text
    assert "38 synthetic and 38 real scintigrams (training)" in text
    assert "Simulated data. Research use only; not a medical device. Fewer than 200" in text
    assert len(list((written / "fidelity_figures").glob("examples_*.png"))) == 4


def test_composed_datasets_give_their_own_side_and_a_json_file_takes_the_page_beside_it(
    tiny_dataset: str,
    synthetic: Path,
    written: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(REPEATS, 2)
    # Patients of the two seeds have names of their own.
    both = str(compose([tiny_dataset, synthetic], tmp_path / "both"))
    fidelity(both, both, extractor="random", output=str(tmp_path / "numbers" / "both.json"))
    result = json.loads((tmp_path / "numbers" / "both.json").read_text())
    assert result["real"]["kinds"] == {"simulated": 38}
    assert result["synthetic"]["kinds"] == {"fm": 38}
    alone = json.loads((written / "fidelity.json").read_text())
    for key in ("kid", "fid", "grain_ratio"):
        here, there = (r["overall"]["scores"][key]["value"] for r in (result, alone))
        assert here == pytest.approx(there, rel=1e-6), key
    assert (tmp_path / "numbers" / "both.html").is_file()
    printed = capsys.readouterr().out
    assert "floor, 19 + 19" in printed
    assert "KID x 1000" in printed
    assert "warning: all classes: 38 real and 38 synthetic pictures, fewer than 200" in printed
    assert "both.html" in printed


def test_validation_may_be_the_real_side_and_classes_can_be_limited(
    tiny_dataset: str, synthetic: Path, compared: list[Sample]
) -> None:
    with pytest.raises(Stop):
        fidelity(tiny_dataset, str(synthetic), split="validation", extractor="random")
    assert [len(side) for side in compared] == [10, 38]
    with pytest.raises(Stop):
        fidelity(tiny_dataset, str(synthetic), extractor="random", per_class_limit=5)
    assert [side.labels.sum(axis=0).tolist() for side in compared] == [[5, 5, 4, 5], [5, 5, 4, 5]]


def test_the_trained_classifier_is_the_extractor(
    tiny_dataset: str, synthetic: Path, tiny_model: Path, compared: list[Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stop):
        fidelity(tiny_dataset, str(synthetic), ckpt_dir=str(tiny_model), per_class_limit=3)
    assert "extractor: classifier" in capsys.readouterr().out
    assert compared[0].features.shape == (12, 512)


def test_pictures_made_from_a_patient_are_held_out_with_them(
    tiny_dataset: str, synthetic: Path, compared: list[Sample]
) -> None:
    with pytest.raises(Stop):
        fidelity(tiny_dataset, str(synthetic), extractor="random")
    patients = {item["patient"] for part in load_dataset(tiny_dataset).splits.values() for item in part}
    assert set(compared[1].patients) <= patients
    assert set(compared[0].patients) & set(compared[1].patients)


def test_nothing_synthetic_counts_as_real_and_the_other_way_round(tiny_dataset: str, synthetic: Path) -> None:
    with pytest.raises(DatasetError, match="no item of training is acquired or simulated"):
        fidelity(str(synthetic), str(synthetic))
    with pytest.raises(DatasetError, match="no training item is synthetic"):
        fidelity(tiny_dataset, tiny_dataset)


def test_other_classes_are_refused(tiny_dataset: str, synthetic: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(synthetic, other)
    content = json.loads((other / "dataset.json").read_text())
    content["labels"]["0"] = "cold nodule"
    (other / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"the classes differ: .*diffuse goiter.*cold nodule"):
        fidelity(tiny_dataset, str(other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "training or validation"),
        ({"per_class_limit": 0}, "--per_class_limit is 0"),
        ({"per_class_limit": True}, "--per_class_limit is True"),
        ({"seed": -1}, "--seed is -1"),
        ({"extractor": "resnet"}, "no extractor 'resnet'"),
        ({"bundle": "thyroid"}, "no bundle 'thyroid'"),
        ({"ckpt_dir": "nowhere"}, "no trained model"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(
    options: dict[str, object],
    message: str,
    tiny_dataset: str,
    synthetic: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("tools.fidelity.load_pictures")
    with pytest.raises(ConfigError, match=message):
        fidelity(tiny_dataset, str(synthetic), **options)  # type: ignore[arg-type]
