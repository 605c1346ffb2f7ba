"""From finished tests to results, where not everything went well."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from counting import failing

from scintikit.data import Dataset, augment, item_id, load_dataset
from scintikit.errors import ScintikitError
from scintikit.metrics.diseases import set_name
from scintikit.study import Given, Made, Plan, collect, load_study, make_plan


@pytest.fixture
def plan(tiny_bone_dataset: str, tmp_path: Path) -> Plan:
    study = {
        "name": "bone",
        "dataset": tiny_bone_dataset,
        "classifier": {"bundle": "spect_bone_cls"},
        "sources": {},
        "scenarios": ["O"],
        "primary_metric": "macro_auc",
        **{"epochs": 2, "steps": 3, "seeds": 3, "per_class": 1},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    return make_plan(load_study(tmp_path / "study.yaml"))


def finish(folder: Path, dataset: Dataset, seed: int) -> None:
    """Write what a test leaves, in another order than the test split's."""
    items = dataset.splits["test"][::-1]
    names = list(dataset.labels.values())
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"id": [item_id(item) for item in items]})
    table["label"] = [set_name(item["label"], names) for item in items]
    for number, name in enumerate(names):
        truth = np.array([item["label"][number] for item in items])
        table[f"p_{name}"] = np.clip(0.3 + 0.4 * truth + rng.normal(0, 0.05, len(items)), 0, 1)
    (folder / "test").mkdir(parents=True)
    table.to_csv(folder / "test/predictions.csv", index=False)
    (folder / "test/metrics.json").write_text(json.dumps({"thresholds": dict.fromkeys(names, 0.5)}))
    (folder / "done.json").write_text('{"seconds": 1.0}')


def test_several_diseases_and_a_missing_seed(plan: Plan, tiny_bone_dataset: str, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_bone_dataset)
    for seed in (0, 2):
        finish(tmp_path / plan.tests["O"][seed].folder, dataset, seed)
    error = f"error: out of memory in {tiny_bone_dataset}, see {tmp_path}/train/log.txt"
    found = collect(plan, tmp_path, {"train O, seed 1": error}, "python -m tools study")
    scenario = found.results["scenarios"]["O"]
    assert scenario["scores"]["macro_auc"]["value"] == 1.0
    assert scenario["scores"]["exact_match"]["value"] == 1.0
    assert scenario["per_seed"]["macro_auc"] == [1.0, 1.0]
    assert found.results["statistics"]["seeds"] == [0, 2]
    told = "error: out of memory in DATASET, see STUDY/train/log.txt"
    assert found.results["failed"] == [{"work": "train O, seed 1", "error": told}]
    assert found.results["study"]["several_diseases"]
    assert found.results["study"]["test"]["external"]
    assert json.loads((tmp_path / "results.json").read_text()) == found.results
    assert told in found.report.read_text()
    assert str(tmp_path) not in found.report.read_text()


def test_the_machines_of_the_trainings_are_told(plan: Plan, tiny_bone_dataset: str, tmp_path: Path) -> None:
    for seed, gpu in enumerate(("A", "B", "A")):
        finish(tmp_path / plan.tests["O"][seed].folder, load_dataset(tiny_bone_dataset), seed)
        training = tmp_path / plan.trainings["O"][seed].folder
        training.mkdir()
        (training / "done.json").write_text(json.dumps({"seconds": 60.0, "machine": {"gpu": gpu}}))
    found = collect(plan, tmp_path, {}, "python -m tools study")
    assert found.results["environment"]["machines"] == [{"gpu": "A"}, {"gpu": "B"}]
    page = found.report.read_text()
    assert "trained on (gpu: A), or on (gpu: B)" in page
    assert "several kinds of machines" in page
    assert "took 3 minutes of computing time" in page


def test_predictions_of_other_items_are_refused(plan: Plan, tiny_bone_dataset: str, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_bone_dataset)
    finish(tmp_path / plan.tests["O"][0].folder, dataset, 0)
    path = tmp_path / plan.tests["O"][0].folder / "test/predictions.csv"
    pd.read_csv(path).iloc[1:].to_csv(path, index=False)
    with pytest.raises(ScintikitError, match="predictions of other items"):
        collect(plan, tmp_path, {}, "")


def test_a_dataset_that_changed_meanwhile_is_refused(plan: Plan, tiny_bone_dataset: str, tmp_path: Path) -> None:
    finish(tmp_path / plan.tests["O"][0].folder, load_dataset(tiny_bone_dataset), 0)
    assert isinstance(plan.original, Given)
    plan.original = replace(plan.original, sha256="another")
    with pytest.raises(ScintikitError, match="was changed while the study went on"):
        collect(plan, tmp_path, {}, "")


def test_a_classifier_has_seen_what_all_its_stages_hold(plan: Plan, tiny_bone_dataset: str, tmp_path: Path) -> None:
    copies = augment(tiny_bone_dataset, tmp_path / "CA", progress=False)
    plan.sets["O"] = [Given(str(copies), ""), plan.original]
    finish(tmp_path / plan.tests["O"][0].folder, load_dataset(tiny_bone_dataset), 0)
    originals = len(load_dataset(tiny_bone_dataset).splits["training"])
    scenario = collect(plan, tmp_path, {}, "").results["scenarios"]["O"]
    assert scenario["training"] == {"augmented": originals, "original": originals}


def test_a_scenario_without_any_run_is_named(plan: Plan, tiny_bone_dataset: str, tmp_path: Path) -> None:
    finish(tmp_path / plan.tests["O"][0].folder, load_dataset(tiny_bone_dataset), 0)
    plan.tests["FM"] = [failing("test")]
    assert "FM was not tested" in collect(plan, tmp_path, {}, "").sentences


def test_nothing_tested_is_an_error(plan: Plan, tmp_path: Path) -> None:
    plan.original = Made(failing("simulate"), "data")  # not even the dataset was made
    with pytest.raises(ScintikitError, match="no classifier was tested"):
        collect(plan, tmp_path, {"train O, seed 0": "x"}, "")
