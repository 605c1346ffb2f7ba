"""`tools augment` and what comes after it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scintikit.data import compose, load_dataset
from scintikit.errors import DatasetError
from tools.__main__ import main
from tools.audit import audit
from tools.fidelity import fidelity


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command line and return what it printed."""

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tools", *arguments])
        main()
        return capsys.readouterr().out

    return call


def test_copies_are_counted_merged_and_measured(tools, tiny_dataset: str, tmp_path: Path) -> None:
    folder = tmp_path / "7"
    printed = tools("augment", tiny_dataset, "--output", str(folder), "--per_class", "6", "--flip", "0", "--seed", "2")
    assert "thyroiditis                    6" in printed
    assert "24 copies of 22 training items, 0 of them mirrored" in printed
    dataset = load_dataset(folder)
    assert {item["origin"]["seed"] for item in dataset.splits["training"]} == {2}
    assert not any(item["origin"]["settings"]["flip"] for item in dataset.splits["training"])
    fidelity(tiny_dataset, str(folder), output=str(tmp_path / "fidelity"))
    assert (tmp_path / "fidelity" / "fidelity.json").is_file()
    merged = compose([tiny_dataset, folder], tmp_path / "merged")
    with pytest.raises(DatasetError, match="no training item is generated"):  # copies by design
        audit(tiny_dataset, str(merged))


def test_several_diseases_are_counted_as_sets(tools, tiny_bone_dataset: str, tmp_path: Path) -> None:
    printed = tools("augment", tiny_bone_dataset, "--output", str(tmp_path / "CA"), "--per_class", "1")
    assert [line.split("  ")[0] for line in printed.splitlines()[:4]] == [
        "neither",
        "metastasis",
        "metastasis + arthritis",
        "arthritis",
    ]


def test_mistyped_option_is_refused(tools, tiny_dataset: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        tools("augment", tiny_dataset, "--output", str(tmp_path / "CA"), "--rotate", "5")
    assert "did you mean 'rotate_deg'" in capsys.readouterr().err
