"""`tools gallery`: rows of classes, columns of datasets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scintikit.errors import ConfigError, DatasetError
from tools.gallery import gallery


@pytest.fixture
def synthetic(tiny_dataset: str, tmp_path: Path) -> str:
    """A dataset whose training items are synthetic ones."""
    folder = Path(shutil.copytree(tiny_dataset, tmp_path / "synthetic"))
    content = json.loads((folder / "dataset.json").read_text())
    for item in content["training"]:
        item["origin"] |= {"kind": "fm", "source": item["patient"]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder)


def test_rows_are_classes_and_columns_datasets(
    tiny_dataset: str, synthetic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}

    def save(figure: Any, path: str, dpi: int) -> None:
        drawn["titles"] = [axes.get_title() for axes in figure.axes]
        drawn["pictures"] = [axes.images[0].get_array() for axes in figure.axes]
        drawn["frames"] = [axes.spines["left"].get_edgecolor()[:3] for axes in figure.axes]

    monkeypatch.setattr("tools.gallery.save_figure", save)
    gallery(f"O={tiny_dataset}", "CA", f"FM={synthetic}", output=str(tmp_path / "x.png"))
    assert drawn["titles"][:4] == ["O\ndiffuse goiter", "CA\ndiffuse goiter", "FM\ndiffuse goiter", "O\nnodular goiter"]
    assert len(drawn["titles"]) == 12
    first, copy, made = drawn["pictures"][:3]
    assert not np.array_equal(first, copy)
    assert not np.array_equal(first, made)
    frames = drawn["frames"]
    assert frames[0] != frames[1] == frames[2] != frames[3] == frames[0]


def test_several_diseases_have_a_row_each_and_show_both_views(
    tiny_bone_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("tools.gallery.save_figure", lambda figure, path, dpi: drawn.extend(figure.axes))
    gallery(f"O={tiny_bone_dataset}", "CA", output=str(tmp_path / "x.png"), bundle="spect_bone_cls")
    assert [axes.get_title() for axes in drawn] == ["O\nmetastasis", "CA\nmetastasis", "O\narthritis", "CA\narthritis"]
    for axes in drawn:
        picture = np.asarray(axes.images[0].get_array())
        assert picture.shape == (512, 2 * 128)
        assert picture[:, :128].any()
        assert picture[:, 128:].any()
        assert not np.array_equal(picture[:, :128], picture[:, 128:])


def test_page_is_written_and_repeats(tiny_dataset: str, tmp_path: Path) -> None:
    for name in "ab":
        gallery(f"O={tiny_dataset}", "CA", output=str(tmp_path / f"{name}.png"), per_class=2)
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "b.png") as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert np.asarray(one).std() > 5


@pytest.mark.parametrize(
    ("columns", "options", "error", "match"),
    [
        ([], {}, ConfigError, "no column"),
        (["CA"], {}, ConfigError, "'CA' is not NAME=DATASET"),
        (["O={}", "FM"], {}, ConfigError, "'FM' is not NAME=DATASET"),
        (["O={}"], {"per_class": 0}, ConfigError, "per_class is 0"),
        (["O={}"], {"per_class": 10_000}, DatasetError, "training items of 'diffuse goiter'; 10000 are needed"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    tiny_dataset: str, tmp_path: Path, columns: list[str], options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        gallery(*(column.format(tiny_dataset) for column in columns), output=str(tmp_path / "x.png"), **options)
    assert not (tmp_path / "x.png").exists()


def test_other_classes_are_refused(tiny_dataset: str, synthetic: str, tmp_path: Path) -> None:
    path = Path(synthetic) / "dataset.json"
    path.write_text(path.read_text().replace("thyroiditis", "something else"))
    with pytest.raises(DatasetError, match=r"something else.*expected the same"):
        gallery(f"O={tiny_dataset}", f"X={synthetic}", output=str(tmp_path / "x.png"))
