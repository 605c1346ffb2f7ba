"""Do options of a generator's training help? The same short training with each, on equal steps.

    python -m benchmarks.generator_options fm_generator --dataset D --output docs/results/fm_generator/options.json
    python -m benchmarks.generator_options sd_generator --dataset D --ckpt-dir M --output FILE.json

Measured on the validation split after the last epoch: the loss at uniform times with independent noise (what the first
option is trained for; the others are not, so it is no fair judge of them), and the KID of scintigrams drawn for
held-out classes, masks and prompts, on features of a random network. sd_generator needs a trained autoencoder, M.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.common import machine, versions
from scintikit.data import load_dataset
from scintikit.files import write_json
from tools.run import run

OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "fm_generator": {
        "as published": {},
        "logit-normal times": {"time": "logit_normal"},
        "optimal transport": {"optimal_transport": True},
    },
    "sd_generator": {"as published": {}, "min-SNR 5": {"snr_gamma": 5.0}},
}


def train(given: argparse.Namespace, options: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once and return the last validation loss and KID."""
    with tempfile.TemporaryDirectory() as folder:
        if given.ckpt_dir:
            shutil.copy(Path(given.ckpt_dir) / "autoencoder.pt", folder)
        run(
            given.bundle,
            "training",
            overlay="fast",
            dataset_dir=given.dataset,
            ckpt_dir=folder,
            log_dir=folder,
            seed=seed,
            max_epochs=given.epochs,
            val_interval=given.epochs,
            preview_interval=given.epochs,
            **{"train#preview#count": given.count},
            **options,
        )
        events = EventAccumulator(folder)
        events.Reload()
        names = {"val_loss": "val_loss", "kid": "samples/kid_random_features"}
        return {name: events.Scalars(tag)[-1].value for name, tag in names.items()}


def main() -> None:
    """Train with every option and seed; write all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=OPTIONS)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--ckpt-dir", help="with a trained autoencoder, for sd_generator")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--count", type=int, default=500, help="pictures behind the KID")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    options = OPTIONS[given.bundle]
    results: dict[str, Any] = {name: [] for name in options}
    for seed in range(given.seeds):
        for name in options:
            results[name].append(train(given, options[name], seed))
            print(f"{name}, seed {seed}: {results[name][-1]}", flush=True)
            settings = {key: getattr(given, key) for key in ("bundle", "epochs", "seeds", "count")}
            settings["dataset_sha256"] = load_dataset(given.dataset).sha256
            content = {"results": results, "settings": settings, "machine": machine(), "versions": versions()}
            write_json(given.output, content)


if __name__ == "__main__":
    main()
