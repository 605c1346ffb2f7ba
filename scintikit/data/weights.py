"""Weights that make up for rare classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scintikit.data.contract import load_dataset
from scintikit.errors import DatasetError

Source = str | os.PathLike[str] | Sequence[Mapping[str, Any]]


def class_weights(source: Source, classes: int | None = None) -> torch.Tensor:
    """Return the inverse frequency of every class, scaled to mean 1: float32 `(classes,)`, for cross entropy.

    Parameters
    ----------
    source : path or sequence of dict
        A dataset's folder (its training items count), or items with a class number as label.
    classes : int, optional
        Number of classes; needed with items.

    Raises
    ------
    DatasetError
        If a class has no item, or labels are lists of 0/1 (see `positive_weights`).
    """
    items, classes = _training(source, classes)
    if any(isinstance(item["label"], list) for item in items):
        raise DatasetError("the labels are lists of 0/1; class weights need class numbers, so use positive_weights")
    labels = torch.tensor([item["label"] for item in items], dtype=torch.long)
    inverse = 1.0 / _filled(torch.bincount(labels, minlength=classes))
    return (inverse / inverse.mean()).float()


def positive_weights(source: Source, classes: int | None = None) -> torch.Tensor:
    """Return negatives / positives of every disease: float32 `(classes,)`, the `pos_weight` of BCEWithLogitsLoss.

    Parameters and errors are those of `class_weights`, with lists of 0/1 as labels; a disease that every item has
    is an error as well.
    """
    items, classes = _training(source, classes)
    if not all(isinstance(item["label"], list) for item in items):
        raise DatasetError("the labels are class numbers; positive weights need lists of 0/1, so use class_weights")
    labels = torch.tensor([item["label"] for item in items], dtype=torch.float64).reshape(-1, classes)
    positive = labels.sum(0)
    return (_filled(len(labels) - positive, "negative") / _filled(positive, "positive")).float()


def _training(source: Source, classes: int | None) -> tuple[Sequence[Mapping[str, Any]], int]:
    if isinstance(source, (str, os.PathLike)):
        dataset = load_dataset(source)
        return dataset.splits["training"], len(dataset.labels)
    if classes is None:
        raise DatasetError("say how many classes there are when giving items instead of a dataset's folder")
    return source, classes


def _filled(counts: torch.Tensor, what: str = "training") -> torch.Tensor:
    missing = [number for number, count in enumerate(counts.tolist()) if count == 0]
    if missing:
        raise DatasetError(f"no {what} item for class {missing}: its weight would be infinite; add items of that class")
    return counts.double()
