"""Do logit-normal times or optimal transport help fm_generator? The same short training with each, on equal steps.

    python -m benchmarks.flow_options --dataset D --output docs/results/fm_generator/options.json

Measured on the validation split after the last epoch: the flow's loss at uniform times with independent noise (what
the first option is trained for; the others are not, so it is no fair judge of them), and the KID of scintigrams drawn
for held-out classes and masks, on features of a random network.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.common import machine, versions
from scintikit.data import load_dataset
from scintikit.files import write_json
from tools.run import run

OPTIONS: dict[str, dict[str, Any]] = {
    "as published": {},
    "logit-normal times": {"time": "logit_normal"},
    "optimal transport": {"optimal_transport": True},
}


def train(dataset: str, options: dict[str, Any], seed: int, epochs: int, count: int) -> dict[str, float]:
    """Train once and return the last validation loss and KID."""
    with tempfile.TemporaryDirectory() as folder:
        run(
            "fm_generator",
            "training",
            overlay="fast",
            dataset_dir=dataset,
            ckpt_dir=folder,
            log_dir=folder,
            seed=seed,
            max_epochs=epochs,
            val_interval=epochs,
            preview_interval=epochs,
            **{"train#preview#count": count},
            **options,
        )
        events = EventAccumulator(folder)
        events.Reload()
        names = {"val_loss": "val_loss", "kid": "samples/kid_random_features"}
        return {name: events.Scalars(tag)[-1].value for name, tag in names.items()}


def main() -> None:
    """Train with every option and seed; write all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--count", type=int, default=500, help="pictures behind the KID")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    results: dict[str, Any] = {name: [] for name in OPTIONS}
    for seed in range(arguments.seeds):
        for name, options in OPTIONS.items():
            results[name].append(train(arguments.dataset, options, seed, arguments.epochs, arguments.count))
            print(f"{name}, seed {seed}: {results[name][-1]}", flush=True)
            settings = {key: getattr(arguments, key) for key in ("epochs", "seeds", "count")}
            settings["dataset_sha256"] = load_dataset(arguments.dataset).sha256
            content = {"results": results, "settings": settings, "machine": machine(), "versions": versions()}
            write_json(arguments.output, content)


if __name__ == "__main__":
    main()
