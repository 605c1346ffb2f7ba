"""From finished pieces of work to the study's results and report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scintikit.data import Dataset, item_id, load_dataset
from scintikit.data.contract import SYNTHETIC_KINDS
from scintikit.environment import versions
from scintikit.errors import ScintikitError
from scintikit.files import write_json
from scintikit.metrics.comparison import compare_scenarios
from scintikit.reporting.study import write_study_report
from scintikit.study.plan import SAMPLES, TEST, Plan
from scintikit.study.settings import Study
from scintikit.study.work import ROOT, Given, Made, Work, WorkFolder, in_order

RESULTS = "results.json"
REPORT = "report"
ATTENTION = f"{TEST}/figures/attention.png"


@dataclass(frozen=True)
class Collected:
    """What a study came to.

    Attributes
    ----------
    results
        As in `results.json`.
    report
        The page.
    """

    results: dict[str, Any]
    report: Path

    @property
    def sentences(self) -> str:
        """The findings in words."""
        return "\n".join(self.results["sentences"])


def collect(plan: Plan, root: Path, failed: Mapping[str, str], command: str) -> Collected:
    """Compare all scenarios that were tested, and write `results.json` and the report.

    Parameters
    ----------
    plan
        Of the study.
    root
        Folder of all work.
    failed
        Pieces that failed, and why.
    command
        What started the study.

    Raises
    ------
    ScintikitError
        If nothing was tested, the dataset was changed, or predictions are not those of the test split.
    """
    done = {
        name: {seed: root / work.folder for seed, work in enumerate(works) if _is_done(work, root)}
        for name, works in plan.tests.items()
    }
    if not any(done.values()):
        raise ScintikitError(f"no classifier was tested; `tools study status {root}` says what failed")
    dataset = load_dataset(_path(plan.original, root))
    if isinstance(plan.original, Given) and dataset.sha256 != plan.original.sha256:
        raise ScintikitError(f"{dataset.root} was changed while the study went on; start it again, or put it back")
    tests = {name: {seed: path / TEST for seed, path in of.items()} for name, of in done.items()}
    compared = compare_tests(tests, dataset, plan.study.compare_with, plan.study.primary_metric)
    for name, scores in compared["scenarios"].items():
        scores["training"] = _counts([load_dataset(_path(place, root)) for place in plan.sets[name]])
    compared["sentences"] += [
        f"{name} was not tested with any seed: see what failed." for name, of_seed in tests.items() if not of_seed
    ]
    results = {
        "study": _study(plan, dataset, command, root),
        **compared,
        "generators": {name: _generator(plan, name, root) for name in {**plan.fidelity, **plan.audits}},
        "failed": [{"work": work, "error": _placeless(error, plan, root)} for work, error in failed.items()],
        "environment": {"machines": _machines(plan, root), "versions": versions()},
    }
    write_json(root / RESULTS, results)
    return Collected(results, write_study_report(results, root / REPORT, _pictures(plan, done, compared, root)))


def _path(place: Given | Made, root: Path) -> Path:
    if isinstance(place, Given):
        return Path(place.path)
    assert place.work is not None
    return root / place.work.folder / place.path


def _is_done(work: Work, root: Path) -> bool:
    return WorkFolder(root / work.folder).done is not None


def compare_tests(
    outputs: Mapping[str, Mapping[int, Path]], dataset: Dataset, bases: Sequence[str], primary: str | None
) -> dict[str, Any]:
    """Return `compare_scenarios` of what evaluations of one test split wrote.

    Parameters
    ----------
    outputs
        Folders with `predictions.csv` and `metrics.json`, by the name of the scenario and the seed.
    dataset
        Whose test split was predicted.
    bases, primary
        As of `compare_scenarios`.

    Raises
    ------
    ScintikitError
        If predictions are not those of the test split.
    """
    test = {item_id(item): item for item in dataset.splits["test"]}
    names = list(dataset.labels.values())
    return compare_scenarios(
        {name: {seed: _probabilities(path, test, names) for seed, path in of.items()} for name, of in outputs.items()},
        np.array([item["label"] for item in test.values()]),
        [item["patient"] for item in test.values()],
        [item["centre"] for item in test.values()],
        names,
        thresholds={name: {seed: _thresholds(path, names) for seed, path in of.items()} for name, of in outputs.items()}
        if dataset.multi_label
        else None,
        bases=bases,
        primary=primary,
    )


def _probabilities(folder: Path, test: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    """Return the predictions `(N, C)` of one run in the order of the test split."""
    table = pd.read_csv(
        folder / "predictions.csv", dtype={"id": str}, na_filter=False, float_precision="round_trip"
    ).set_index("id")
    if set(table.index) != set(test):
        raise ScintikitError(f"{folder} has predictions of other items than the test split; delete it and start again")
    return table.loc[list(test), [f"p_{name}" for name in names]].to_numpy()


def _thresholds(folder: Path, names: Sequence[str]) -> list[float]:
    """Return the thresholds of one run, which its validation chose."""
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["thresholds"]
    return [found[name] for name in names]


def _counts(stages: Sequence[Dataset]) -> dict[str, int]:
    """Return how many items of each origin a classifier has seen in training; all that nothing made are "original"."""
    kinds = {item_id(item): item["origin"]["kind"] for stage in stages for item in stage.splits["training"]}
    return dict(Counter(kind if kind in SYNTHETIC_KINDS else "original" for kind in kinds.values()))


def _centres(dataset: Dataset, *splits: str) -> set[str]:
    return {item["centre"] for split in splits for item in dataset.splits[split]}


def _study(plan: Plan, dataset: Dataset, command: str, root: Path) -> dict[str, Any]:
    study, test = plan.study, dataset.splits["test"]
    seconds = [WorkFolder(root / work.folder).done for work in in_order([*plan.preparing, *plan.testing])]
    return {
        "name": study.name,
        "profile": study.profile,
        "classifier": study.classifier["bundle"],
        "class_names": list(dataset.labels.values()),
        "several_diseases": dataset.multi_label,
        "simulated": any(item["origin"]["kind"] == "simulated" for item in test),
        "seeds": list(range(study.seeds)),
        "optimiser_steps": study.epochs * study.steps,
        "given_generators": [name for name in plan.wanted if _was_given(study, name)],
        "test": {
            "items": len(test),
            "patients": len({item["patient"] for item in test}),
            "centres": dict(Counter(item["centre"] for item in test)),
            "external": not _centres(dataset, "test") & _centres(dataset, "training", "validation"),
        },
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "command": command,
        "file_sha256": study.sha256,
        # Of all pieces added up, whenever and wherever they were done; of one that was stopped, since it went on.
        "minutes": round(sum(done["seconds"] for done in seconds if done is not None) / 60, 1),
    }


def _was_given(study: Study, source: str) -> bool:
    """Tell whether a source's generator was trained before the study."""
    generator = study.sources[source].get("generator")
    return generator is not None and bool(study.generators[generator].get("trained"))


def _machines(plan: Plan, root: Path) -> list[dict[str, Any]]:
    """Return the machines that trained the classifiers, each kind once."""
    found: list[dict[str, Any]] = []
    for works in plan.trainings.values():
        for work in works:
            machine = (WorkFolder(root / work.folder).done or {}).get("machine")
            if machine is not None and machine not in found:
                found.append(machine)
    return found


def _placeless(error: str, plan: Plan, root: Path) -> str:
    """Return an error without where somebody keeps the study, the data and the checkout: the report is shared."""
    places = {str(root): "STUDY", str(ROOT): "CHECKOUT", str(Path.home()): "~"}
    if isinstance(plan.original, Given):
        places = {plan.original.path: "DATASET"} | places
    for place, name in places.items():
        error = error.replace(place, name)
    return error


def _generator(plan: Plan, name: str, root: Path) -> dict[str, Any]:
    """Return how close a source comes to real scintigrams, and how many may be copies; None for what is missing."""
    fidelity = _json(plan.fidelity.get(name), "fidelity.json", root)
    audit = _json(plan.audits.get(name), "audit.json", root)
    scores = fidelity["overall"]["scores"] if fidelity else {}
    return {
        **{metric: scores[metric]["matched"] if scores else None for metric in ("fid", "kid")},
        **{f"{metric}_floor": scores[metric]["floor"]["value"] if scores else None for metric in ("fid", "kid")},
        "flagged": audit["flagged"] if audit else None,
        "pictures": audit["synthetic"] if audit else None,
    }


def _json(work: Work | None, file: str, root: Path) -> dict[str, Any] | None:
    if work is None or not _is_done(work, root):
        return None
    return json.loads((root / work.folder / file).read_text(encoding="utf-8"))


def _pictures(
    plan: Plan, done: Mapping[str, Mapping[int, Path]], compared: Mapping[str, Any], root: Path
) -> dict[str, Path]:
    """Return the page of samples, and Grad-CAM of the best scenario's first seed."""
    pictures = {}
    if plan.samples is not None and _is_done(plan.samples, root):
        pictures["samples"] = root / plan.samples.folder / SAMPLES
    primary = compared["metrics"]["primary"]
    values = {name: scores["scores"][primary]["value"] for name, scores in compared["scenarios"].items()}
    best = max(values, key=lambda name: -np.inf if values[name] is None else values[name])
    attention = next(iter(done[best].values())) / ATTENTION
    if attention.is_file():
        pictures["gradcam"] = attention
    return pictures
