"""Merge datasets."""

from __future__ import annotations

from collections import Counter

from fire.decorators import SetParseFns

from scintikit.data import compose as merge
from scintikit.data import load_dataset


@SetParseFns(output=str)
def compose(
    *sources: str, output: str, copy: bool = False, synthetic_only: bool = False, per_class: int | None = None
) -> None:
    """Merge datasets with the same labels into one: `tools compose ORIGINAL SYNTHETIC --output MERGED`.

    Parameters
    ----------
    sources : str
        Folders of datasets. Every item keeps its split, patient and origin.
    output : str
        New folder.
    copy : bool
        Copy the files. Default: hard links, which take no space, where the file system can.
    synthetic_only : bool
        Train on synthetic items alone: leave the others out of the training split, keep validation and test.
    per_class : int, optional
        At most so many synthetic items of each class from each dataset.
    """
    names = [str(source) for source in sources]
    folder = merge(names, str(output), link=not copy, synthetic_only=synthetic_only, per_class=per_class)
    dataset = load_dataset(folder)
    for split, items in dataset.splits.items():
        kinds = Counter(item["origin"]["kind"] for item in items)
        print(f"{split:<12}{len(items):>8,}   {', '.join(f'{count:,} {kind}' for kind, count in kinds.items())}")
    print(f"dataset: {dataset.root}")
