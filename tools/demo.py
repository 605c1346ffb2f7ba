"""`tools demo`: everything once, from nothing to predictions on DICOM files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from scintikit.data import load_dataset
from scintikit.errors import ScintikitError
from scintikit.files import write_json
from scintikit.phantoms import simulated_dataset
from tools.run import find_bundle, run

EPOCHS = 24


def demo(output: str = "demo", epochs: int = EPOCHS, profile: str = "demo") -> None:
    """Simulate nine cameras, train thyroid_cls, test it on three unseen cameras, predict on a folder of DICOM files.

    A second run reuses what the first one made, and goes on where it was stopped.

    Parameters
    ----------
    output
        Folder for the report and the predictions.
    epochs
        Training epochs.
    profile
        Size of the simulated dataset: `tiny`, `demo` or `paper`.
    """
    folder = Path(output).resolve()
    print("1/4  simulated dataset of nine cameras", flush=True)
    dataset = load_dataset(simulated_dataset(profile))
    print(f"     {sum(map(len, dataset.splits.values())):,} patients in {dataset.root}")
    models = folder / "models"
    common: dict[str, Any] = {"dataset_dir": str(dataset.root), "ckpt_dir": str(models)}

    print(f"2/4  training thyroid_cls on six cameras (to watch: tensorboard --logdir {folder / 'runs'})", flush=True)
    _start_anew_if_changed(folder, _fingerprint(dataset.sha256, epochs))
    if (models / "calibration.pt").is_file():  # the last thing that training writes
        print("     already trained")
    else:
        resume = (models / "last.pt").is_file()
        run("thyroid_cls", "training", max_epochs=epochs, log_dir=str(folder / "runs"), resume=resume, **common)

    print("3/4  testing on three cameras unseen in training", flush=True)
    run("thyroid_cls", "evaluating", output_dir=str(folder), **common)

    print("4/4  predicting on a folder of NM DICOM files", flush=True)
    inbox = folder / "dicom"
    shutil.rmtree(inbox, ignore_errors=True)
    inbox.mkdir(parents=True)
    for item in dataset.splits["test"][:: max(1, len(dataset.splits["test"]) // 12)]:
        shutil.copy(dataset.root / item["image"], inbox)
    run(
        "thyroid_cls",
        "inference",
        dataset_dir=str(inbox),
        output_dir=str(folder / "predictions"),
        ckpt_dir=str(models),
        gradcam=True,
    )
    _print_table(json.loads((folder / "metrics.json").read_text()))
    print(f"\nreport       {folder / 'report.html'}")
    print(f"predictions  {folder / 'predictions' / 'predictions.csv'}")
    print("Simulated data. Research use only; not a medical device.")


def _fingerprint(dataset_sha256: str, epochs: int) -> dict[str, Any]:
    """Return what decides the trained weights: data, settings and the code of the bundle and the library."""
    digest = hashlib.sha256()
    library = Path(__file__).resolve().parent.parent / "scintikit"
    for path in sorted([*library.rglob("*.py"), *(find_bundle("thyroid_cls") / "configs").glob("*.json")]):
        digest.update(path.read_bytes())
    return {"dataset": dataset_sha256, "epochs": epochs, "code": digest.hexdigest()}


def _start_anew_if_changed(folder: Path, state: dict[str, Any]) -> None:
    """Forget the training that an earlier run began with other data, settings or code."""
    stamp, made = folder / "training.json", [folder / name for name in ("models", "runs", "dicom")]
    if not stamp.is_file() and any(path.exists() for path in made):
        raise ScintikitError(f"{folder} holds folders that no demo made; choose another --output")
    if not stamp.is_file() or json.loads(stamp.read_text()) != state:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        write_json(stamp, state)


def _print_table(metrics: dict[str, Any]) -> None:
    def shown(score: dict[str, Any]) -> str:
        if score["value"] is None:
            return "-"
        return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"

    print(f"\nexternal test: {metrics['n']} scintigrams, {metrics['patients']} patients, 95 % intervals\n")
    print(f"{'class':<18}{'F1':>26}{'AUC':>26}{'n':>6}")
    for name in metrics["classes"]:
        row = metrics["per_class"][name]
        print(f"{name:<18}{shown(row['f1']):>26}{shown(row['auc']):>26}{row['support']:>6}")
    overall = metrics["overall"]
    print(f"{'macro average':<18}{shown(overall['macro_f1']):>26}{shown(overall['macro_auc']):>26}{metrics['n']:>6}")
