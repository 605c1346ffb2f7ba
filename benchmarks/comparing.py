"""Train a classifier in several ways on equal budgets, test each once, and compare what it predicted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scintikit.data import item_id, load_dataset
from scintikit.errors import ScintikitError
from scintikit.files import write_json
from scintikit.metrics import compare_scenarios
from scintikit.metrics.diseases import SEPARATOR


def train(bundle: str, folder: Path, dataset: str, options: Mapping[str, Any]) -> None:
    """Train one classifier in a process of its own; nothing to do if that was done, what was stopped goes on."""
    if (folder / "models" / "calibration.pt").is_file():
        return
    resume = {"resume": True} if (folder / "models" / "last.pt").is_file() else {}
    options = {"patience": 0, "log_dir": folder / "runs", **options, **resume}
    _call(bundle, "training", folder, {"dataset_dir": dataset, "ckpt_dir": folder / "models", **options})


def evaluate(bundle: str, folder: Path, dataset: str, split: str, **options: Any) -> Path:
    """Evaluate a classifier that `train` trained, if that was not done; return where its results are."""
    output = folder / split
    if not (output / "metrics.json").is_file():
        given = {"dataset_dir": dataset, "ckpt_dir": folder / "models", "output_dir": output, "split": split}
        _call(bundle, "evaluating", folder, {**given, **options})
    return output


def _call(bundle: str, task: str, folder: Path, options: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    with (folder / "log").open("a") as log:
        command = [sys.executable, "-m", "tools", "run", bundle, task, *arguments]
        if subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
            raise ScintikitError(f"{bundle} {task} failed; the end of {folder / 'log'} says why")


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make sure that what is kept in the folder was made with these settings and this data."""
    path = folder / "settings.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if any(kept.get(name, value) != value for name, value in settings.items()):
        raise ScintikitError(f"{folder} holds runs with other settings or data: {kept}; name another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, kept | dict(settings))


def compare(outputs: Mapping[str, Sequence[Path]], dataset: str, bases: Sequence[str], primary: str) -> dict[str, Any]:
    """Return `compare_scenarios` of what was predicted, and what the test was.

    Parameters
    ----------
    outputs
        Folders with what `evaluate` wrote, one for each seed, by the name of the way.
    dataset
        The dataset whose test split was predicted.
    bases
        Ways that the others are compared with.
    primary
        The metric that is told in words.

    Raises
    ------
    ScintikitError
        If the predictions are not those of the test split, or differ in their items.
    """
    loaded = load_dataset(dataset)
    names = list(loaded.labels.values())
    patient_of = {item_id(item): item["patient"] for item in loaded.splits["test"]}
    runs: dict[str, dict[int, np.ndarray]] = {name: {} for name in outputs}
    thresholds: dict[str, dict[int, list[float]]] = {name: {} for name in outputs}
    first = pd.DataFrame()
    for name, folders in outputs.items():
        for seed, folder in enumerate(folders):
            table = pd.read_csv(folder / "predictions.csv", dtype={"id": str}, float_precision="round_trip")
            first = table if first.empty else first
            if not table["id"].equals(first["id"]):
                raise ScintikitError(f"{name} seed {seed} has predictions of other items; delete its folder")
            runs[name][seed] = table[[f"p_{label}" for label in names]].to_numpy()
            metrics = json.loads((folder / "metrics.json").read_text())
            if "thresholds" in metrics:
                thresholds[name][seed] = [metrics["thresholds"][disease] for disease in names]
    if set(first["id"]) != set(patient_of):
        raise ScintikitError(f"the predictions are not those of the test split of {dataset}")
    several = any(thresholds.values())
    sets = first["label"].str.split(SEPARATOR, regex=False)
    truth = np.array([[label in present for label in names] for present in sets])
    patients = first["id"].map(patient_of).to_numpy()
    result = compare_scenarios(
        runs,
        truth if several else truth.argmax(axis=1),
        patients,
        first["centre"].to_numpy(),
        names,
        thresholds=thresholds,
        bases=bases,
        primary=primary,
    )
    return {"test": {"items": len(first), "patients": len(set(patients)), "sha256": loaded.sha256}, **result}


def show(result: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Print the means with their intervals, a way on each line, and what the comparison says."""
    ways = result["scenarios"]
    width = max(map(len, ways))
    for name, way in ways.items():
        scores = {metric: way["scores"][metric] for metric in metrics}
        cells = [f"{m} {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})" for m, score in scores.items()]
        print(f"{name:<{width}} {'   '.join(cells)}")
    print("\n".join(result["sentences"]))
