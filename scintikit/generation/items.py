"""Which items of a dataset a generator learns from, and what they must have."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from scintikit.data import load_datalist
from scintikit.data.contract import SYNTHETIC_KINDS, Item
from scintikit.errors import DatasetError

logger = logging.getLogger(__name__)


def generator_items(
    folder: str, split: str, class_names: Sequence[str], mask_labels: int, prompts: bool = False
) -> list[Item]:
    """Return a split's items (as `scintikit.data.load_datalist`) that are not synthetic.

    Parameters
    ----------
    folder, split, class_names
        As of `load_datalist`.
    mask_labels
        Structures of a mask that the generator knows; 0: it knows no masks.
    prompts
        The generator learns from prompts, so there must be some.

    Raises
    ------
    DatasetError
        If a class has no item, `mask_labels` is above 0 and no item has a mask, or prompts are needed and there are
        none.
    """
    every = load_datalist(folder, split, class_names)
    items = [item for item in every if item["origin"]["kind"] not in SYNTHETIC_KINDS]
    if len(items) < len(every):
        logger.info(
            "%s: left out %d synthetic items; a generator learns from real ones", split, len(every) - len(items)
        )
    missing = [name for number, name in enumerate(class_names) if not any(_shows(item, number) for item in items)]
    if missing:
        raise DatasetError(
            f"{Path(folder).absolute()}: no {split} item shows {', '.join(map(repr, missing))}; a generator needs "
            "examples of every class: add some, or take the class out of the dataset's labels"
        )
    without = sum("mask" not in item for item in items)
    if mask_labels and without == len(items):
        raise DatasetError(
            f"{Path(folder).absolute()}: no {split} item has a mask, but mask_labels is {mask_labels}; "
            "give --mask_labels 0 for a generator without masks, or add masks to the dataset"
        )
    if mask_labels and without:
        logger.warning(
            "%s: %d of %d items have no mask; they teach the flow without structures", split, without, len(items)
        )
    if prompts:
        _check_prompts(folder, split, items)
    return items


def _check_prompts(folder: str, split: str, items: Sequence[Item]) -> None:
    """Warn of items without a prompt; raises `DatasetError` if none has one."""
    where = Path(folder).absolute()
    without = sum(not item.get("prompt", "").strip() for item in items)
    if without == len(items):
        raise DatasetError(
            f"{where}: no {split} item has a prompt, and this generator draws from prompts; make the dataset again "
            "with a column `prompt` in the table given to `python -m tools index`, or train fm_generator, which needs "
            "none"
        )
    if without:
        logger.warning(
            "%s: %d of %d %s items have no prompt; they teach the generator to draw without one. Prompts come from the "
            "column `prompt` of the table given to `python -m tools index`",
            where,
            without,
            len(items),
            split,
        )


def _shows(item: Item, number: int) -> bool:
    label = item["label"]
    return bool(label[number]) if isinstance(label, list) else label == number
