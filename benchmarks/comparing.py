"""Train a classifier in several ways on equal budgets, test each once, and tell differences with their intervals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scintikit.data import item_id, load_dataset
from scintikit.errors import ScintikitError
from scintikit.files import write_json
from scintikit.metrics.classification import nest
from scintikit.metrics.intervals import bootstrap_intervals

#: Takes probabilities (N, C), labels as text (N,), weights (R, N) and the names of the classes; returns {score: (R,)}.
Score = Callable[[np.ndarray, pd.Series, np.ndarray, list[str]], Mapping[str, np.ndarray]]


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


def compare(
    outputs: Mapping[str, Sequence[Path]], dataset: str, score: Score, bases: Sequence[str], bootstrap: int = 2000
) -> dict[str, Any]:
    """Return each way's mean over its seeds, and paired differences to the bases, with 95 % intervals over patients.

    The intervals tell how the scores of these trainings would vary with other patients; how they vary with the training
    seed, the values of each seed tell.

    Parameters
    ----------
    outputs
        Folders with `predictions.csv`, one for each seed, by the name of the way.
    dataset
        The dataset whose test split was predicted.
    score
        What is compared.
    bases
        Ways that the others are compared with.
    bootstrap
        Resamples.

    Raises
    ------
    ScintikitError
        If the predictions are not those of the test split, or differ in their items.
    """
    tables = {
        (name, seed): pd.read_csv(folder / "predictions.csv", dtype={"id": str})
        for name, folders in outputs.items()
        for seed, folder in enumerate(folders)
    }
    first = next(iter(tables.values()))
    loaded = load_dataset(dataset)
    patient_of = {item_id(item): item["patient"] for item in loaded.splits["test"]}
    if set(first["id"]) != set(patient_of):
        raise ScintikitError(f"the predictions are not those of the test split of {dataset}")
    for (name, seed), table in tables.items():
        if not table["id"].equals(first["id"]):
            raise ScintikitError(f"{name} seed {seed} has predictions of other items; delete its folder")
    names = list(loaded.labels.values())
    probabilities = {key: table[[f"p_{name}" for name in names]].to_numpy() for key, table in tables.items()}

    def scores(weights: np.ndarray) -> dict[tuple[str, int], Mapping[str, np.ndarray]]:
        return {key: score(values, first["label"], weights, names) for key, values in probabilities.items()}

    def statistic(weights: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
        each = scores(weights)
        mean = {
            (name, metric): np.mean([each[name, seed][metric] for seed in range(len(folders))], axis=0)
            for name, folders in outputs.items()
            for metric in each[name, 0]
        }
        return {("mean", *key): value for key, value in mean.items()} | {
            (f"minus {base}", name, metric): value - mean[base, metric]
            for base in bases
            for (name, metric), value in mean.items()
            if name != base
        }

    patients = first["id"].map(patient_of).to_numpy()
    intervals = bootstrap_intervals(statistic, patients, first["centre"].to_numpy(), n=bootstrap)
    result: dict[str, Any] = nest({key: interval.as_json() for key, interval in intervals.items()})
    once = scores(np.ones((1, len(first))))
    result["each seed"] = {
        name: {metric: [float(once[name, seed][metric][0]) for seed in range(len(folders))] for metric in once[name, 0]}
        for name, folders in outputs.items()
    }
    return {"test": {"items": len(first), "patients": len(set(patients)), "sha256": loaded.sha256}, **result}


def show(mean: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Print the means with their intervals, a way on each line."""
    width = max(map(len, mean))
    for name, scores in mean.items():
        cells = [f"{m} {scores[m]['value']:.3f} ({scores[m]['low']:.3f} to {scores[m]['high']:.3f})" for m in metrics]
        print(f"{name:<{width}} {'   '.join(cells)}")
