"""A page of scintigrams: a row for each class, a column for each dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fire.decorators import SetParseFns

from scintikit.data import BatchAugmentation, Dataset, Item, TwoViewAugmentation, load_datalist, load_dataset
from scintikit.data.contract import SYNTHETIC_KINDS
from scintikit.data.splits import classes_of
from scintikit.errors import ConfigError, DatasetError
from scintikit.reporting.figures import sample_grid, save_figure
from tools.pictures import classifier, load_pictures

#: The column of conventionally augmented copies, as the classifiers see them in training.
AUGMENTED = "CA"
REAL, SYNTHETIC = "#0072B2", "#D55E00"
DPI = 110  # grain does not compress, and a page is looked at on a screen


@SetParseFns(output=str, bundle=str)
def gallery(
    *columns: str, output: str, bundle: str = "thyroid_cls", per_class: int = 1, seed: int = 0, **options: Any
) -> None:
    """Draw scintigrams of several datasets side by side: `tools gallery O=D CA SD1=D1 FM=D2 --output FILE.png`.

    Rows are classes, columns datasets, views lie beside each other; which pictures are shown, the seed decides. Blue
    frames: as acquired or simulated; orange: synthetic.

    Parameters
    ----------
    columns : str
        NAME=DATASET, the original one first; `CA` alone is a column of other pictures of it, flipped, rotated, shifted
        and scaled as in the classifier's training. Training items are shown.
    output : str
        PNG file to write.
    bundle : str
        Classification bundle whose preprocessing the pictures get.
    per_class : int
        Rows of each class.
    seed : int
        Of the choice of pictures.
    options
        Items of the bundle's `inference.json` to replace, as `--image_size "[64,64]" --spacing_mm 4`.
    """
    if not columns:
        raise ConfigError("no column is given; say which datasets to show, such as O=D FM=D2")
    if isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 1:
        raise ConfigError(f"--per_class is {per_class!r}; give a whole number of at least 1")
    datasets = [_dataset(column, number) for number, column in enumerate(columns)]
    classes = _class_names([(name, dataset) for name, dataset in datasets if dataset is not None])
    preprocessing = classifier(bundle, own_model=False, **options).preprocessing
    drawn = []
    for number, (name, dataset) in enumerate(datasets):
        # Copies are shown beside other pictures than those that they are copies of.
        rng = np.random.default_rng([seed, number])
        items = _choose(dataset or datasets[0][1], len(classes), per_class, rng)
        pictures = load_pictures(items, preprocessing, label=name)
        drawn.append(pictures if dataset is not None else _augmented(pictures, seed))
    titles = [f"{name}\n{label}" for label in np.repeat(classes, per_class) for name, _ in datasets]
    frames = [_frame(dataset) for _ in range(len(classes) * per_class) for _, dataset in datasets]
    pictures = np.stack(drawn, axis=1).reshape(-1, *drawn[0].shape[1:])
    pictures = np.concatenate(list(pictures.swapaxes(0, 1)), axis=-1)  # views beside each other
    save_figure(sample_grid(pictures, titles, columns=len(datasets), accents=frames), output, dpi=DPI)
    print(f"gallery: {Path(output).expanduser()}")


def _dataset(column: str, number: int) -> tuple[str, Dataset | None]:
    """Return name and dataset of a column, None for the augmented copies."""
    name, equals, folder = str(column).partition("=")
    if not equals and name == AUGMENTED and number > 0:
        return name, None
    if not (name and folder):
        raise ConfigError(f"column {column!r} is not NAME=DATASET; {AUGMENTED} alone may follow the first one")
    return name, load_dataset(folder)


def _class_names(datasets: Sequence[tuple[str, Dataset]]) -> list[str]:
    """Return the classes that all datasets have in common; raises `DatasetError` if they differ."""
    (first, original), *others = datasets
    for name, dataset in others:
        if dataset.labels != original.labels:
            raise DatasetError(f"{name} has the classes {dataset.labels}, {first} {original.labels}; expected the same")
    return list(original.labels.values())


def _choose(dataset: Dataset | None, classes: int, per_class: int, rng: np.random.Generator) -> list[Item]:
    """Return training items in the order of their classes; raises `DatasetError` if a class has too few."""
    assert dataset is not None  # the first column is never CA
    items = load_datalist(dataset.root, "training")
    chosen: list[Item] = []
    for label in range(classes):
        found = [item for item in items if label in classes_of(item)]
        if len(found) < per_class:
            raise DatasetError(
                f"{dataset.root} has {len(found)} training items of {list(dataset.labels.values())[label]!r}; "
                f"{per_class} are needed"
            )
        chosen += [found[index] for index in rng.choice(len(found), per_class, replace=False)]
    return chosen


def _augmented(pictures: np.ndarray, seed: int) -> np.ndarray:
    augmentation = TwoViewAugmentation() if pictures.shape[1] == 2 else BatchAugmentation()
    augmentation.reseed(seed)
    return augmentation(torch.from_numpy(pictures)).numpy()


def _frame(dataset: Dataset | None) -> str:
    kinds: set[Any] = {item["origin"]["kind"] for item in dataset.splits["training"]} if dataset else {"augmented"}
    return SYNTHETIC if kinds & SYNTHETIC_KINDS else REAL
