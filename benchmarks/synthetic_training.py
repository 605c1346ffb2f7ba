"""Does synthetic training data help? thyroid_cls trained with and without it, on equal budgets.

    python -m benchmarks.synthetic_training --original D --synthetic D2 --output docs/results/fm_generator/training.json

Scenarios: O (original), O+CA (and on-the-fly flips, rotations, shifts, scaling), O+FM (and the synthetic dataset),
O+CA+FM. All take the same number of optimiser steps, the same seeds and validation split, and are tested on the
external centres once, at the end. What a run finished is kept in `--folder`, so a stopped one goes on.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.common import machine, versions
from benchmarks.comparing import claim, compare, evaluate, show, train
from scintikit.data import compose, load_dataset
from scintikit.files import write_json

SCENARIOS = {"O": (False, False), "O+CA": (True, False), "O+FM": (False, True), "O+CA+FM": (True, True)}
DATA = ("original", "synthetic")
METRICS = ("macro_f1", "macro_auc", "balanced_accuracy")


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
    parser.add_argument("--output", help="JSON file for the comparison")
    arguments = parser.parse_args()
    folder = Path(arguments.folder).resolve()
    merged = folder / "merged"
    sources = {name: load_dataset(path).sha256 for name in DATA if (path := getattr(arguments, name))}
    claim(folder, "thyroid_cls", {"epochs": arguments.epochs, "steps": arguments.steps, **sources})
    if arguments.synthetic and not (merged / "dataset.json").is_file():
        compose([arguments.original, arguments.synthetic], str(merged))

    def work(job: tuple[int, str]) -> Path:
        seed, scenario = job
        augment, synthetic = SCENARIOS[scenario]
        dataset = str(merged) if synthetic else arguments.original
        options = {"seed": seed, "augment": augment, "max_epochs": arguments.epochs, "epoch_length": arguments.steps}
        train("thyroid_cls", folder / scenario / str(seed), dataset, options)
        print(f"{scenario} seed {seed} done", flush=True)
        return folder / scenario / str(seed)

    jobs = [(seed, scenario) for seed in range(arguments.seeds) for scenario in arguments.scenarios]
    with ThreadPoolExecutor(arguments.workers) as pool:
        trained = dict(zip(jobs, pool.map(work, jobs), strict=True))
    if arguments.output:
        outputs = {
            scenario: [
                evaluate("thyroid_cls", trained[seed, scenario], arguments.original, "test")
                for seed in range(arguments.seeds)
            ]
            for scenario in arguments.scenarios
        }
        bases = [base for base in ("O", "O+CA") if base in outputs]
        result = compare(outputs, arguments.original, bases, METRICS[0])
        settings = {key: getattr(arguments, key) for key in ("seeds", "epochs", "steps")} | {"batch_size": 32}
        write_json(arguments.output, {**result, "settings": settings, "machine": machine(), "versions": versions()})
        show(result, METRICS)


if __name__ == "__main__":
    main()
