"""Make a simulated dataset."""

from __future__ import annotations

from collections import Counter

from fire.decorators import SetParseFns

from scintikit.data import load_dataset
from scintikit.data.splits import classes_of
from scintikit.errors import ConfigError
from scintikit.phantoms import PROFILES, skeleton
from scintikit.phantoms import simulate as make_thyroid


@SetParseFns(profile=str, output=str)
def simulate(profile: str = "demo", seed: int = 0, output: str | None = None, workers: int | None = None) -> None:
    """Make a dataset of simulated scintigrams of nine cameras and print how many of each class it has.

    Parameters
    ----------
    profile : str
        Thyroid scintigrams: "tiny" (72 patients), "demo" (1,000) or "paper" (2,954, as many of each class as
        arXiv 2503.00366). Whole-body bone scans, of which one can show several diseases: "bone_tiny" (27),
        "bone_demo" (90) or "bone_paper" (1,500).
    seed : int
        Another seed gives other patients.
    output : str, optional
        New folder; default: one in scintikit's cache (`SCINTIKIT_HOME`).
    workers : int, optional
        Processes; default one for each CPU core. The bytes do not depend on it.
    """
    if profile not in (*PROFILES, *skeleton.BONE_PROFILES):
        known = ", ".join((*PROFILES, *skeleton.BONE_PROFILES))
        raise ConfigError(f"there is no simulation profile {profile!r}; choose one of {known}")
    make = skeleton.simulate_bone if profile in skeleton.BONE_PROFILES else make_thyroid
    dataset = load_dataset(make(profile, seed, output, workers=workers))
    columns = {name: {number} for number, name in dataset.labels.items()}
    if dataset.multi_label:
        columns = {"neither": set()} | columns | {"both": set(dataset.labels)}
    print(f"{'':<10}" + "".join(f"{name:>17}" for name in (*columns, "total")))
    for split, items in dataset.splits.items():
        found = Counter(frozenset(classes_of(item)) for item in items)
        counts = [found[frozenset(classes)] for classes in columns.values()]
        print(f"{split:<10}" + "".join(f"{count:>17,}" for count in (*counts, sum(counts))))
    print(f"Simulated, not for clinical use: {dataset.root}")
