"""Networks, augmentations and sizes of spect_bone_cls on equal budgets, several seeds, tested on the external cameras.

    python -m benchmarks.bone_comparison networks --dataset B --folder F --output FILE.json
    python -m benchmarks.bone_comparison augmentation --dataset B --folder F --gan G --fm S --output FILE.json
    python -m benchmarks.bone_comparison masks --dataset B --folder F --fm S --output FILE.json
    python -m benchmarks.bone_comparison size --dataset B --folder F --output FILE.json

networks: our own, with lesion masks and from labels alone, and the three baselines from labels.
augmentation: our own network from labels alone, since scans of the GAN have no masks: none, geometric, and geometric
with the synthetic scans of a generator, whose datasets G and S, of one number of scans, are merged into the training
split.
masks: our own network with lesion masks: geometric, and geometric with the scans and masks of flow matching.
size: our own network with masks on pictures of several sizes.

Networks and augmentations are compared at 256 x 64 pixels, where a training takes a quarter of the time. All take the
same number of optimiser steps, the same validation split and the same seeds. Of several learning rates a network takes
the one whose first seed has the best macro AUC on validation. The external cameras are tested once, when every training
has ended. A figure FILE.png is drawn beside the numbers. What a run finished is kept in `--folder`, so a stopped one
goes on.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import machine, versions
from benchmarks.comparing import claim, compare, evaluate, show, train
from scintikit.data import Dataset, compose, load_datalist, load_dataset
from scintikit.errors import ScintikitError
from scintikit.files import write_json
from scintikit.reporting import save_figure
from scintikit.reporting.study_figures import scenario_forest

BUNDLE = "spect_bone_cls"
SOURCES = ("gan", "fm")
BATCH = 8
#: Learning rates to choose from. AlexNet, which normalises nothing, may want less. For ResNet18 and our own network
#: 5e-4 did better than 2e-3 on validation; DenseNet121, the slowest, takes what they take.
RATES = {"AlexNet": (1e-4, 5e-4)}
RATE = 5e-4
SMALL = {"image_size": "[256,64]", "spacing_mm": 9.2}
LABELS = {"lesion_weight": 0.0}
NETWORKS: dict[str, dict[str, Any]] = {
    "own, labels and masks": {},
    "own, labels": LABELS,
    "AlexNet": {"architecture": "alexnet"},
    "ResNet18": {"architecture": "resnet18"},
    "DenseNet121": {"architecture": "densenet121"},
}
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {**LABELS, "augment": False},
    "geometric": LABELS,
    "geometric + GAN": {**LABELS, "source": "gan"},
    "geometric + FM": {**LABELS, "source": "fm"},
}
MASKS: dict[str, dict[str, Any]] = {"geometric": {}, "geometric + FM": {"source": "fm"}}
SIZES: dict[str, dict[str, Any]] = {
    "256 x 64": SMALL,
    "512 x 128": {},
    "1024 x 256": {"image_size": "[1024,256]", "spacing_mm": 2.3},
}
COMPARISONS = {
    "networks": {name: SMALL | options for name, options in NETWORKS.items()},
    "augmentation": {name: SMALL | options for name, options in AUGMENTATIONS.items()},
    "masks": {name: SMALL | options for name, options in MASKS.items()},
    "size": SIZES,
}
#: What the others of a comparison are compared with.
BASES = ("own, labels and masks", "own, labels", "none", "geometric", "512 x 128")
ASKED_AGAIN = ("architecture", "image_size", "spacing_mm")  # what evaluation must be told as training was
METRICS = ("macro_auc", "macro_auprc", "macro_f1", "exact_match")


class Trainings:
    """The trainings of one comparison, each in a folder."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.folder = Path(given.folder).resolve()
        steps = max(1, len(load_datalist(given.dataset, "training")) // BATCH)
        self.budget = {"max_epochs": given.epochs, "epoch_length": steps, "batch_size": BATCH, "val_interval": 2}
        self.rates: dict[str, float] = {}
        datasets = {name: load_dataset(path) for name in ("dataset", *SOURCES) if (path := getattr(given, name))}
        _check_sizes([datasets[name] for name in SOURCES if name in datasets])
        hashes = {name: dataset.sha256 for name, dataset in datasets.items()}
        claim(self.folder, BUNDLE, {**self.budget, **hashes})

    def run(self, name: str, options: dict[str, Any], seed: int) -> Path:
        """Train one and return its folder."""
        return self._train(name, options, self.pick_rate(name, options), seed)

    def pick_rate(self, name: str, options: dict[str, Any]) -> float:
        """Return the learning rate at which the first seed does best on validation."""
        rates = RATES.get(name, (RATE,))
        if len(rates) == 1 or name in self.rates:
            return self.rates.setdefault(name, rates[0])
        scores = {}
        for rate in rates:
            folder = self._train(name, options, rate, 0)
            metrics = json.loads((self.evaluate(options, folder, "validation") / "metrics.json").read_text())
            scores[rate] = metrics["overall"]["macro_auc"]["value"]
            print(f"{name} at {rate:g}: validation macro AUC {scores[rate]:.3f}", flush=True)
        self.rates[name] = max(scores, key=lambda rate: scores[rate])
        return self.rates[name]

    def _train(self, name: str, options: dict[str, Any], rate: float, seed: int) -> Path:
        # Ways of the same options, such as our own network and its geometric augmentation, are one training.
        settings = {key: value for key, value in options.items() if key != "source"}
        label = " ".join(f"{key}={value}" for key, value in sorted(settings.items())) or "default"
        folder = self.folder / " ".join(filter(None, (label, options.get("source")))) / f"{rate:g}" / str(seed)
        train(BUNDLE, folder, self.dataset(options), {"seed": seed, "learning_rate": rate, **self.budget, **settings})
        print(f"{name} at {rate:g}, seed {seed}: done", flush=True)
        return folder

    def evaluate(self, options: dict[str, Any], folder: Path, split: str) -> Path:
        """Evaluate what `run` trained with these options and return where its results are."""
        again = {key: options[key] for key in ASKED_AGAIN if key in options}
        return evaluate(BUNDLE, folder, self.given.dataset, split, **again)

    def kinds(self, options: dict[str, Any]) -> dict[str, int]:
        """Return how many training scans are of which origin."""
        return Counter(item["origin"]["kind"] for item in load_datalist(self.dataset(options), "training"))

    def dataset(self, options: dict[str, Any]) -> str:
        """Return what is trained on: the dataset, or that with the scans of a generator in its training split."""
        source = options.get("source")
        if not source:
            return str(self.given.dataset)
        folder = self.folder / "merged" / source
        if not (folder / "dataset.json").is_file():
            compose([self.given.dataset, getattr(self.given, source)], str(folder))
        return str(folder)


def _check_sizes(synthetic: Sequence[Dataset]) -> None:
    """Make sure that every generator adds as many scans."""
    sizes = [len(dataset.splits["training"]) for dataset in synthetic]
    if len(set(sizes)) > 1:
        raise ScintikitError(f"the generators drew {sizes} scans; draw as many with each, by --per_class")


def main() -> None:
    """Train every way with every seed, test, and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=COMPARISONS)
    parser.add_argument("--dataset", required=True, help="bone scans with training, validation and external test")
    parser.add_argument("--gan", help="dataset of generate_gan, made from the training split")
    parser.add_argument("--fm", help="dataset of fm_generator, made from the training split")
    parser.add_argument("--folder", default="bone_comparison", help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--ways", nargs="*", help="only these; default: all")
    parser.add_argument("--output", help="JSON file for the comparison; without it nothing is tested")
    given = parser.parse_args()
    ways = COMPARISONS[given.comparison]
    if unknown := sorted(set(given.ways or ()) - set(ways)):
        parser.error(f"{given.comparison} has no {', '.join(map(repr, unknown))}; known are {', '.join(ways)}")
    ways = {name: options for name, options in ways.items() if not given.ways or name in given.ways}
    for name, options in ways.items():
        if "source" in options and not getattr(given, options["source"]):
            parser.error(
                f"{name!r} needs --{options['source']}, a dataset of that generator; or leave it out by --ways"
            )
    trainings = Trainings(given)
    folders = {(name, seed): trainings.run(name, ways[name], seed) for seed in range(given.seeds) for name in ways}
    if not given.output:
        return
    outputs = {
        name: [trainings.evaluate(options, folders[name, seed], "test") for seed in range(given.seeds)]
        for name, options in ways.items()
    }
    result = compare(outputs, given.dataset, [base for base in BASES if base in ways], METRICS[0])
    for name, scenario in result["scenarios"].items():
        scenario["training"] = trainings.kinds(ways[name])
    figure = scenario_forest(result["scenarios"], METRICS[0], result["comparisons"])
    save_figure(figure, Path(given.output).with_suffix(".png"))
    settings = {**trainings.budget, "seeds": given.seeds, "learning_rates": trainings.rates}
    write_json(given.output, {**result, "settings": settings, "machine": machine(), "versions": versions()})
    show(result, METRICS)


if __name__ == "__main__":
    main()
