"""`tools demo`: everything once, from nothing to predictions on DICOM files and synthetic scintigrams."""

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
from tools.fidelity import fidelity
from tools.run import find_bundle, run

EPOCHS, GENERATOR_EPOCHS = 24, 20
PER_CLASS = 50


def demo(
    output: str = "demo", epochs: int = EPOCHS, profile: str = "demo", generator_epochs: int = GENERATOR_EPOCHS
) -> None:
    """Simulate nine cameras, train thyroid_cls, test it on three unseen cameras, predict on a folder of DICOM files.

    Then train fm_generator for a few minutes, draw synthetic scintigrams, and compare them with the real ones.

    A second run reuses what the first one made, and goes on where it was stopped.

    Parameters
    ----------
    output
        Folder for the report and the predictions.
    epochs
        Training epochs.
    profile
        Size of the simulated dataset: `tiny`, `demo` or `paper`.
    generator_epochs
        Training epochs of the generator.
    """
    folder = Path(output).resolve()
    print("1/6  simulated dataset of nine cameras", flush=True)
    dataset = load_dataset(simulated_dataset(profile))
    print(f"     {sum(map(len, dataset.splits.values())):,} patients in {dataset.root}")
    models = folder / "models"
    common: dict[str, Any] = {"dataset_dir": str(dataset.root), "ckpt_dir": str(models)}

    print(f"2/6  training thyroid_cls on six cameras (to watch: tensorboard --logdir {folder / 'runs'})", flush=True)
    _start_anew_if_changed(folder, _fingerprint(dataset.sha256, epochs, generator_epochs))
    if (models / "calibration.pt").is_file():  # the last thing that training writes
        print("     already trained")
    else:
        resume = (models / "last.pt").is_file()
        run("thyroid_cls", "training", max_epochs=epochs, log_dir=str(folder / "runs"), resume=resume, **common)

    print("3/6  testing on three cameras unseen in training", flush=True)
    run("thyroid_cls", "evaluating", output_dir=str(folder), **common)

    print("4/6  predicting on a folder of NM DICOM files", flush=True)
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
    _generate(folder, str(dataset.root), generator_epochs)
    _print_table(json.loads((folder / "metrics.json").read_text()))
    print(f"\nreport       {folder / 'report.html'}")
    print(f"predictions  {folder / 'predictions' / 'predictions.csv'}")
    print(f"synthetic    {folder / 'synthetic'}")
    print(f"comparison   {folder / 'fidelity' / 'fidelity.html'}")
    print("Simulated data. Research use only; not a medical device.")


def _generate(folder: Path, dataset: str, epochs: int) -> None:
    """Train fm_generator, draw synthetic scintigrams and compare them with the real ones."""
    models = folder / "generator"
    common: dict[str, Any] = {"dataset_dir": dataset, "ckpt_dir": str(models)}
    print("5/6  training fm_generator: a few minutes, so its pictures are a first impression", flush=True)
    if (models / "generation.pt").is_file():  # the last thing that training writes
        print("     already trained")
    else:
        resume = (models / "last.pt").is_file()
        logs = str(folder / "runs" / "generator")
        run("fm_generator", "training", overlay="fast", max_epochs=epochs, log_dir=logs, resume=resume, **common)
    print("6/6  synthetic scintigrams of every class, as NM DICOM, next to real ones", flush=True)
    synthetic = folder / "synthetic"
    run("fm_generator", "generating", per_class=PER_CLASS, output_dir=str(synthetic), **common)
    fidelity(dataset, str(synthetic), ckpt_dir=str(folder / "models"), output=str(folder / "fidelity"))


def _fingerprint(dataset_sha256: str, epochs: int, generator_epochs: int) -> dict[str, Any]:
    """Return what decides the trained weights: data, settings and the code of the bundles and the library."""
    digest = hashlib.sha256()
    code = [*(Path(__file__).resolve().parent.parent / "scintikit").rglob("*.py")]
    for name in ("thyroid_cls", "fm_generator"):
        code += [*find_bundle(name).glob("configs/*.json"), *find_bundle(name).glob("scripts/*.py")]
    for path in sorted(code):
        digest.update(path.read_bytes())
    settings = {"epochs": epochs, "generator_epochs": generator_epochs}
    return {"dataset": dataset_sha256, **settings, "code": digest.hexdigest()}


def _start_anew_if_changed(folder: Path, state: dict[str, Any]) -> None:
    """Forget the training that an earlier run began with other data, settings or code."""
    stamp = folder / "training.json"
    made = [folder / name for name in ("models", "runs", "dicom", "generator", "synthetic")]
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
