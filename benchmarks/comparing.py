"""Train a classifier in several ways on equal budgets, test each once, and compare what it predicted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scintikit.data import load_dataset
from scintikit.errors import ScintikitError
from scintikit.files import write_json
from scintikit.study import compare_tests
from scintikit.study.work import code_sha256

#: What of the library decides a training and its test, beside the bundle.
CODE = ("scintikit/data", "scintikit/dicom", "scintikit/engines", "scintikit/metrics")


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


def claim(folder: Path, bundle: str, settings: Mapping[str, Any]) -> None:
    """Make sure that what is kept in the folder was made with these settings, this data and this code of the bundle."""
    code = {path: code_sha256(path) for path in (*CODE, f"bundles/{bundle}/configs", f"bundles/{bundle}/scripts")}
    path = folder / "settings.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    changed = [name for name, value in {**settings, **code}.items() if kept.get(name, value) != value]
    if changed:
        raise ScintikitError(f"{folder} holds runs with another {', '.join(changed)}; name another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, kept | dict(settings) | code)


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
        If the predictions are not those of the test split.
    """
    tested = load_dataset(dataset)
    result = compare_tests(
        {name: dict(enumerate(folders)) for name, folders in outputs.items()}, tested, bases, primary
    )
    test = tested.splits["test"]
    told = {"items": len(test), "patients": len({item["patient"] for item in test}), "sha256": tested.sha256}
    return {"test": told, **result}


def show(result: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Print the means with their intervals, a way on each line, and what the comparison says."""
    ways = result["scenarios"]
    width = max(map(len, ways))
    for name, way in ways.items():
        scores = {metric: way["scores"][metric] for metric in metrics}
        cells = [f"{m} {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})" for m, score in scores.items()]
        print(f"{name:<{width}} {'   '.join(cells)}")
    print("\n".join(result["sentences"]))
