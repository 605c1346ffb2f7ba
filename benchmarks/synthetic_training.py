"""Does synthetic training data help? thyroid_cls trained with and without it, on equal budgets.

    python -m benchmarks.synthetic_training --original D --synthetic D2 --output docs/results/fm_generator/training.json

Scenarios: O (original), O+CA (and on-the-fly flips, rotations, shifts, scaling), O+FM (and the synthetic dataset),
O+CA+FM. All take the same number of optimiser steps, the same seeds and validation split, and are tested on the
external centres once, at the end. What a run finished is kept in `--folder`, so a stopped one goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import machine, versions
from scintikit.data import compose, item_id, load_dataset
from scintikit.errors import ScintikitError
from scintikit.files import write_json
from scintikit.metrics.classification import classification_scores, nest
from scintikit.metrics.intervals import bootstrap_intervals

SCENARIOS = {"O": (False, False), "O+CA": (True, False), "O+FM": (False, True), "O+CA+FM": (True, True)}
DATA = ("original", "synthetic")
METRICS = ("macro_f1", "macro_auc", "balanced_accuracy")


def train_and_test(folder: Path, dataset: str, augment: bool, seed: int, epochs: int, steps: int) -> None:
    """Train one classifier and test it on the external centres; nothing to do if that was done."""
    if (folder / "metrics.json").is_file():
        return
    common = ["--dataset_dir", dataset, "--ckpt_dir", str(folder / "models")]
    training = ["--seed", str(seed), "--augment", str(augment), "--max_epochs", str(epochs)]
    training += ["--epoch_length", str(steps), "--patience", "0", "--log_dir", str(folder / "runs")]
    resume = ["--resume", "True"] if (folder / "models" / "last.pt").is_file() else []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("a") as log:
        for task in (["training", *training, *resume], ["evaluating", "--output_dir", str(folder)]):
            command = [sys.executable, "-m", "tools", "run", "thyroid_cls", *task, *common]
            subprocess.run(command, check=True, stdout=log, stderr=log)


def claim(folder: Path, arguments: argparse.Namespace) -> None:
    """Make sure that what is kept in the folder was made with these settings and this data."""
    settings = {"epochs": arguments.epochs, "steps": arguments.steps}
    settings |= {name: load_dataset(path).sha256 for name, path in vars(arguments).items() if name in DATA and path}
    path = folder / "settings.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if any(kept.get(name, value) != value for name, value in settings.items()):
        raise ScintikitError(f"{folder} holds runs with other settings or data: {kept}; name another --folder")
    write_json(path, kept | settings)


def summarise(folder: Path, original: str, scenarios: list[str], seeds: int) -> dict[str, Any]:
    """Return every scenario's mean over the seeds, and paired differences, with 95 % intervals over patients.

    The intervals tell how the scores of these trainings would vary with other patients; how they vary with the training
    seed, the values of each seed tell.
    """
    dataset = load_dataset(original)
    names = list(dataset.labels.values())
    runs = [(s, k) for s in scenarios for k in range(seeds)]
    tables = {(s, k): pd.read_csv(folder / s / str(k) / "predictions.csv", dtype={"id": str}) for s, k in runs}
    first = tables[scenarios[0], 0]
    patient_of = {item_id(item): item["patient"] for item in dataset.splits["test"]}
    if set(first["id"]) != set(patient_of):
        raise ScintikitError(f"the predictions in {folder} are not those of the test split of {original}")
    patients = first["id"].map(patient_of).to_numpy()
    labels = first["label"].map({name: number for number, name in enumerate(names)}).to_numpy()
    probabilities = {}
    for key, table in tables.items():
        if not table["id"].equals(first["id"]):
            raise ScintikitError(f"{key[0]} seed {key[1]} has predictions of other items; delete its folder")
        probabilities[key] = table[[f"p_{name}" for name in names]].to_numpy()

    def statistic(weights: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
        scores = {key: classification_scores(p, labels, weights, names) for key, p in probabilities.items()}
        mean = {
            (s, m): np.mean([scores[s, k]["overall", m] for k in range(seeds)], axis=0)
            for s in scenarios
            for m in METRICS
        }
        result: dict[tuple[str, ...], np.ndarray] = {("mean", *key): value for key, value in mean.items()}
        for base in {"O", "O+CA"} & set(scenarios):
            result |= {
                (f"minus {base}", s, m): mean[s, m] - mean[base, m] for s in scenarios if s != base for m in METRICS
            }
        return result

    intervals = bootstrap_intervals(statistic, patients, first["centre"].to_numpy(), n=2000)
    result: dict[str, Any] = nest({key: interval.as_json() for key, interval in intervals.items()})
    ones = np.ones((1, len(labels)))
    result["each seed"] = {
        s: {
            m: [
                float(classification_scores(probabilities[s, k], labels, ones, names)["overall", m][0])
                for k in range(seeds)
            ]
            for m in METRICS
        }
        for s in scenarios
    }
    return {"test": {"items": len(labels), "patients": len(set(patients)), "sha256": dataset.sha256}, **result}


def main() -> None:
    """Train every scenario with every seed, test, and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True, help="dataset with training, validation and external test")
    parser.add_argument("--synthetic", help="dataset of the generator; needed for the FM scenarios")
    parser.add_argument("--folder", default="synthetic_training", help="where runs are kept")
    parser.add_argument("--scenarios", nargs="*", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--steps", type=int, default=63, help="batches of 32 in an epoch")
    parser.add_argument(
        "--workers", type=int, default=1, help="trainings at once; give each a core by OMP_NUM_THREADS=1"
    )
    parser.add_argument("--output", help="JSON file for the comparison; needs all four scenarios")
    arguments = parser.parse_args()
    folder = Path(arguments.folder).resolve()
    merged = folder / "merged"
    claim(folder, arguments)
    if arguments.synthetic and not (merged / "dataset.json").is_file():
        compose([arguments.original, arguments.synthetic], str(merged))

    def work(job: tuple[int, str]) -> None:
        seed, scenario = job
        augment, synthetic = SCENARIOS[scenario]
        dataset = str(merged) if synthetic else arguments.original
        train_and_test(folder / scenario / str(seed), dataset, augment, seed, arguments.epochs, arguments.steps)
        print(f"{scenario} seed {seed} done", flush=True)

    jobs = [(seed, scenario) for seed in range(arguments.seeds) for scenario in arguments.scenarios]
    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(work, jobs))
    if arguments.output:
        settings = {key: getattr(arguments, key) for key in ("seeds", "epochs", "steps")} | {"batch_size": 32}
        result = summarise(folder, arguments.original, arguments.scenarios, arguments.seeds)
        write_json(arguments.output, {**result, "settings": settings, "machine": machine(), "versions": versions()})
        for name, scores in result["mean"].items():
            shown = [
                f"{m} {scores[m]['value']:.3f} ({scores[m]['low']:.3f} to {scores[m]['high']:.3f})" for m in METRICS
            ]
            print(f"{name:<8} {'   '.join(shown)}")


if __name__ == "__main__":
    main()
