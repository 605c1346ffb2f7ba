"""How sd_generator is best sampled: solver and evaluations, guidance, and how far a picture may stay from its source.

    python -m benchmarks.diffusion_sampling --dataset D --ckpt-dir M --folder F --output FILE.json [--per-class 60]

Every setting draws the same number of scintigrams from the same noise and sources. Measured are what `tools fidelity`
measures against the validation split, on features of a random network, and the distance to the nearest training picture
as in `tools audit`. Generated datasets stay in F; a run that was stopped goes on. A figure FILE_strength.png shows how
near to training pictures the strengths lead.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import machine, versions
from scintikit.data import Item, load_datalist, load_dataset
from scintikit.files import file_sha256, write_json
from scintikit.metrics import Sample, fidelity_metrics
from scintikit.metrics.memorisation import TrainingPictures
from scintikit.reporting import save_figure
from tools.pictures import classifier, load_pictures, pick_extractor
from tools.run import run

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "evaluations": [
        {"mode": "sd2", "solver": "dpm", "steps": 10},
        {"mode": "sd2", "solver": "dpm", "steps": 25},
        {"mode": "sd2", "solver": "dpm", "steps": 50},
        {"mode": "sd2", "solver": "ddim", "steps": 25},
        {"mode": "sd2", "solver": "ddim", "steps": 50},
    ],
    "guidance": [{"mode": mode, "guidance": scale} for mode in ("sd2", "sd4") for scale in (1.0, 1.5, 2.0, 3.0)],
    "strength": [{"mode": mode, "strength": share} for mode in ("sd1", "sd3") for share in (0.2, 0.4, 0.6, 0.8, 1.0)],
}
SCORES = ("kid", "fid", "auc_features", "auc_spectrum", "spectrum_distance", "grain_ratio", "recall", "coverage")


class Measurement:
    """The real pictures, read once."""

    def __init__(self, dataset: str) -> None:
        self.names = list(load_dataset(dataset).labels.values())
        self.source = classifier("thyroid_cls")
        self.embed = pick_extractor("random", self.source)
        training, validation = (load_datalist(dataset, split) for split in ("training", "validation"))
        self.patients = {item["id"]: item["patient"] for item in training}
        self.training = [item["id"] for item in training]
        pictures = self._read(validation)
        self.real = self._sample(pictures, validation)
        self.bank = TrainingPictures(self._read(training))
        self.held_out = _quantiles(self.bank.nearest(pictures).distance)

    def __call__(self, folder: Path) -> dict[str, Any]:
        """Return fidelity and nearness of a generated dataset."""
        items = load_datalist(str(folder), "training")
        pictures = self._read(items)
        scores = fidelity_metrics(self.real, self._sample(pictures, items), self.names, bootstrap=100)["overall"][
            "scores"
        ]
        near = self.bank.nearest(pictures)
        own = [self.training[index] == item["origin"]["source"] for index, item in zip(near.index, items, strict=True)]
        return {
            "images": len(items),
            "scores": {key: scores[key] for key in SCORES},
            "distance": {"synthetic": _quantiles(near.distance), "held_out": self.held_out},
            "nearest_is_source": sum(own),
        }

    def _read(self, items: list[Item]) -> np.ndarray:
        return load_pictures(items, self.source.preprocessing)

    def _sample(self, pictures: np.ndarray, items: list[Item]) -> Sample:
        labels = np.eye(len(self.names), dtype=bool)[[item["label"] for item in items]]
        patients = [self.patients.get(item["origin"].get("source", ""), item["patient"]) for item in items]
        return Sample.of(pictures, self.embed(pictures, "features"), labels, patients)


def _quantiles(distance: np.ndarray) -> dict[str, float]:
    return {f"{share:g}": float(np.quantile(distance, share)) for share in (0.01, 0.1, 0.5)}


def measured(given: argparse.Namespace, setting: dict[str, Any], measure: Measurement) -> dict[str, Any]:
    """Generate with one setting, unless that was done, and return speed, fidelity and nearness."""
    name = "_".join(str(value) for value in setting.values())
    folder, scores = Path(given.folder) / name, Path(given.folder) / f"{name}_scores.json"
    if scores.exists():
        return json.loads(scores.read_text())
    start = time.perf_counter()
    run(
        "sd_generator",
        "generating",
        dataset_dir=given.dataset,
        ckpt_dir=given.ckpt_dir,
        output_dir=str(folder),
        per_class=given.per_class,
        **setting,
    )
    seconds = time.perf_counter() - start
    found = {**setting, "seconds": seconds, **measure(folder)}
    write_json(scores, found)
    return found


def draw_strength(found: list[dict[str, Any]], path: Path) -> None:
    """Draw the distance to the nearest training picture against the strength, with that of held-out pictures."""
    figure = Figure(figsize=(5.6, 5.0), layout="constrained")
    axes = figure.subplots()
    for mode, colour in (("sd1", "#D55E00"), ("sd3", "#009E73")):
        curve = [item for item in found if item["mode"] == mode]
        strengths = [item["strength"] for item in curve]
        nearest, middle = ([item["distance"]["synthetic"][share] for item in curve] for share in ("0.01", "0.5"))
        axes.plot(strengths, middle, "o-", color=colour, label=f"{mode}, median")
        axes.plot(strengths, nearest, "o:", color=colour, label=f"{mode}, nearest 1 %")
    held_out = found[0]["distance"]["held_out"]
    axes.axhline(held_out["0.5"], color="#0072B2", label="patients not trained on, median")
    axes.axhline(held_out["0.01"], color="#0072B2", linestyle=":", label="patients not trained on, nearest 1 %")
    axes.set(xlabel="strength", ylabel="distance to the nearest training picture", ylim=(0, None))
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=8)
    save_figure(figure, path)


def main() -> None:
    """Measure every setting; write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="that the generator was trained on")
    parser.add_argument("--ckpt-dir", required=True)
    parser.add_argument("--folder", required=True, help="for what is generated")
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--only", choices=SETTINGS, nargs="+", default=list(SETTINGS))
    parser.add_argument("--output", required=True)
    given = parser.parse_args()
    settings = {
        "per_class": given.per_class,
        "dataset_sha256": load_dataset(given.dataset).sha256,
        "model_sha256": file_sha256(Path(given.ckpt_dir) / "model.pt"),
    }
    measure = Measurement(given.dataset)
    results: dict[str, list[dict[str, Any]]] = {}
    for group in given.only:
        results[group] = []
        for setting in SETTINGS[group]:
            results[group].append(measured(given, setting, measure))
            content = {"results": results, "settings": settings, "machine": machine(), "versions": versions()}
            write_json(given.output, content)
    if "strength" in results:
        draw_strength(results["strength"], Path(given.output).with_name(f"{Path(given.output).stem}_strength.png"))


if __name__ == "__main__":
    main()
