"""`tools study` as it is used: the smallest study of thyroid_cls, killed once on its way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from scintikit.data import load_dataset
from scintikit.errors import ConfigError, ImageReadError, ScintikitError
from scintikit.study import WorkFolder, load_study, make_plan
from tools.run import BUNDLES
from tools.study import check_commands, study

COMMAND = [sys.executable, "-m", "tools", "study"]


def begin(output: Path) -> subprocess.Popen[str]:
    file = str(BUNDLES / "thyroid_cls" / "study.yaml")
    return subprocess.Popen(
        [*COMMAND, file, "--profile", "smoke", "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("augment: false", "augmnt: false"), r"train O, seed 0: unknown option --augmnt, did you mean 'augment'"),
        (("{augment: {}}", "{augment: {flips: 0}}"), r"augment CA: unknown option flips, did you mean 'flip'"),
        (("ema_momentum: 0.02", "overly: fast"), r"generator fm: unknown option --overly"),
    ],
)
def test_misspelt_options_are_found_before_the_first_piece(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    text = (BUNDLES / "thyroid_cls" / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(text.replace(*change))
    plan = make_plan(load_study(tmp_path / "study.yaml", "smoke"))
    with pytest.raises(ConfigError, match=message):
        check_commands([*plan.preparing, *plan.testing])


def test_a_folder_that_cannot_be_used_is_an_error_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScintikitError, match=r"the study stopped: .*name another folder"):
        study(str(BUNDLES / "thyroid_cls" / "study.yaml"), profile="smoke", output=str(tmp_path / "file"))


def test_a_test_picture_that_cannot_be_read_is_found_before_anything_begins(tiny_dataset: str, tmp_path: Path) -> None:
    own = Path(shutil.copytree(tiny_dataset, tmp_path / "own"))
    picture = own / load_dataset(own).splits["test"][-1]["image"]
    picture.write_bytes(picture.read_bytes()[:900])
    content = yaml.safe_load((BUNDLES / "thyroid_cls" / "study.yaml").read_text())
    content["profiles"]["smoke"] |= {"dataset": None, "scenarios": ["O", "O+CA"]}
    text = yaml.safe_dump({**content, "profiles": content["profiles"]}).replace("dataset: null", f"dataset: {own}")
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ImageReadError, match=picture.name):
        study(str(tmp_path / "study.yaml"), profile="smoke", output=str(tmp_path / "S"))
    assert not (tmp_path / "S").exists()


@pytest.mark.parametrize("path", sorted(BUNDLES.glob("*/study.yaml")), ids=lambda path: path.parent.name)
def test_the_commands_of_the_bundles_studies_are_known(path: Path) -> None:
    plan = make_plan(load_study(path))
    check_commands([*plan.preparing, *plan.testing])


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on_to_its_report(tmp_path: Path) -> None:
    root = tmp_path / "study"
    process = begin(root)
    while not list(root.glob("train-*/models/last.pt")):  # in the middle of a training
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    status = subprocess.run([*COMMAND, "status", str(root)], capture_output=True, text=True, check=True).stdout
    assert "0 failed" in status
    assert not list(root.glob("test-*/done.json"))

    process = begin(root)
    output = process.communicate()[0]
    assert process.returncode == 0, output[-3000:]
    assert "macro F1 of 3 scenarios" in output
    results = json.loads((root / "results.json").read_text())
    assert set(results["scenarios"]) == {"O", "O+CA", "O+FM"}
    original = results["scenarios"]["O"]["training"]["original"]
    written = load_dataset(next(root.glob("dataset-*")) / "data").splits["training"]  # without what was not plausible
    assert 16 < len(written) <= 32
    assert results["scenarios"]["O+FM"]["training"] == {"original": original, "fm": len(written)}
    assert results["failed"] == []
    assert str(tmp_path) not in json.dumps(results)
    page = (root / "report" / "report.html").read_text()
    assert "O+FM" in page
    assert "data:image/png;base64," in page

    _check_against_uninterrupted(root, tmp_path / "again")


def _check_against_uninterrupted(root: Path, again: Path) -> None:
    """Do the training that was killed once more, from its own `work.json` and without a break: the same predictions."""
    training = min(root.glob("train-*"), key=lambda folder: (folder / "work.json").stat().st_ctime_ns)
    test = next(f for f in root.glob("test-*") if training.name in (f / "work.json").read_text())
    for name, folder in (("training", training), ("test", test)):
        text = (folder / "work.json").read_text()
        (again / name).mkdir(parents=True)
        text = text.replace(str(training), str(again / "training")).replace(str(test), str(again / "test"))
        (again / name / "work.json").write_text(text)
        WorkFolder(again / name).execute(1)
    before, after = (pd.read_csv(folder / "test" / "predictions.csv") for folder in (test, again / "test"))
    pd.testing.assert_frame_equal(before, after)
