"""Make a simulated dataset."""

from __future__ import annotations

from collections import Counter

from scintikit.data import load_dataset
from scintikit.phantoms import simulate as make


def simulate(profile: str = "demo", seed: int = 0, output: str | None = None, workers: int | None = None) -> None:
    """Make a dataset of simulated thyroid scintigrams of nine cameras and print how many of each class it has.

    Parameters
    ----------
    profile : str
        "tiny" (72 patients), "demo" (1,000) or "paper" (2,954, as many of each class as arXiv 2503.00366).
    seed : int
        Another seed gives other patients.
    output : str, optional
        New folder; default: one in scintikit's cache (`SCINTIKIT_HOME`).
    workers : int, optional
        Processes; default one for each CPU core. The bytes do not depend on it.
    """
    dataset = load_dataset(make(profile, seed, output, workers=workers))
    print(f"{'':<10}" + "".join(f"{name:>17}" for name in (*dataset.labels.values(), "total")))
    for split, items in dataset.splits.items():
        found = Counter(item["label"] for item in items)
        counts = [found[label] for label in dataset.labels]
        print(f"{split:<10}" + "".join(f"{count:>17,}" for count in (*counts, sum(counts))))
    print(f"Simulated, not for clinical use: {dataset.root}")
