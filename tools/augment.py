"""Make a dataset of augmented copies."""

from __future__ import annotations

from collections import Counter

from fire.decorators import SetParseFns

from scintikit.data import augment as make
from scintikit.data import load_dataset
from scintikit.data.splits import classes_of


@SetParseFns(dataset=str, output=str)
def augment(
    dataset: str,
    *,
    output: str,
    per_class: int | None = None,
    copies: int | None = None,
    seed: int = 0,
    flip: float | None = None,
    rotate_deg: float | None = None,
    shift: float | None = None,
    scale: float | None = None,
    workers: int | None = None,
) -> None:
    """Copy training scintigrams, flipped, rotated, shifted and scaled: `tools augment D --output CA --per_class 1000`.

    Validation and test are never copied. `tools compose D CA --output MERGED` adds the copies. See docs/dataset.md.

    Parameters
    ----------
    dataset : str
        Folder of a dataset.
    output : str
        New folder; it gets the copies alone. A run that was stopped goes on there.
    per_class : int, optional
        Copies of each class.
    copies : int, optional
        Copies of each scintigram instead; default 1.
    seed : int
        Another seed gives other copies.
    flip : float, optional
        Probability of a left-right flip; default 0.5.
    rotate_deg : float, optional
        Largest rotation in degrees, either way; default 15, for whole-body scans 3.
    shift : float, optional
        Largest shift as a share of the picture's sides, either way; default 0.08, for whole-body scans 0.04.
    scale : float, optional
        Largest relative change of size, either way; default 0.15, for whole-body scans 0.06.
    workers : int, optional
        Threads; default one for each CPU core. The bytes do not depend on it.
    """
    wanted = {"flip": flip, "rotate_deg": rotate_deg, "shift": shift, "scale": scale}
    geometry = {name: value for name, value in wanted.items() if value is not None}
    folder = make(dataset, output, per_class=per_class, copies=copies, seed=seed, geometry=geometry, workers=workers)
    made = load_dataset(folder)
    items = made.splits["training"]
    for classes, count in sorted(Counter(tuple(sorted(classes_of(item))) for item in items).items()):
        print(f"{' + '.join(made.labels[number] for number in classes) or 'neither':<24}{count:>8,}")
    sources = {item["origin"]["source"] for item in items}
    mirrored = sum(item["origin"]["settings"]["flip"] for item in items)
    print(f"{len(items):,} copies of {len(sources):,} training items, {mirrored:,} of them mirrored: {made.root}")
