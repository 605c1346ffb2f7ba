"""Split items by patient."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from scintikit.data.contract import Item
from scintikit.errors import DatasetError


def split_patients(
    items: Sequence[Item],
    *,
    validation: float = 0.2,
    test: float = 0.0,
    external: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, list[Item]]:
    """Split items into training, validation and test so that no patient is in two of them.

    All pictures of a patient who has one from an external centre go to test. The other patients are stratified by
    class, and within a class by centre; a patient with several classes counts for the one that fewest patients have.
    Of `n` patients of a class, `round(n * share)` go to a split, spread evenly over the centres, so a class of one or
    two patients stays in training. The result depends on the patients and the seed only, not on the items' order.

    Parameters
    ----------
    items : sequence of dict
        Items with `patient`, `centre` and `label`.
    validation : float
        Share of the patients, after those of test are taken away.
    test : float
        Share of the patients to put to test besides those of the external centres.
    external : sequence of str
        Centres that serve as test only.
    seed : int
        Decides which patients of a stratum go where.

    Returns
    -------
    dict
        "training", "validation", "test": the items themselves, in the order given.

    Raises
    ------
    DatasetError
        If a share is not in [0, 1), the seed is negative or an external centre has no item.
    """
    check_shares(validation, test, seed)
    centres = {item["centre"] for item in items}
    missing = sorted(set(external) - centres)
    if missing:
        raise DatasetError(f"no item comes from external centre {', '.join(missing)}; there are {sorted(centres)}")
    split_of = {item["patient"]: "test" for item in items if item["centre"] in external}
    rest = [item for item in items if item["patient"] not in split_of]
    for name, share in (("test", test), ("validation", validation)):
        remaining = [item for item in rest if item["patient"] not in split_of]
        split_of |= dict.fromkeys(_draw(remaining, share, np.random.default_rng(seed)), name)
    result: dict[str, list[Item]] = {"training": [], "validation": [], "test": []}
    for item in items:
        result[split_of.get(item["patient"], "training")].append(item)
    return result


def check_shares(validation: float, test: float, seed: int) -> None:
    """Raise `DatasetError` for a share or a seed that `split_patients` cannot use."""
    for name, share in (("validation", validation), ("test", test)):
        if not isinstance(share, Real) or not 0 <= share < 1:
            raise DatasetError(f"the share for {name} is {share}; it must be a number from 0 to less than 1")
    if not isinstance(seed, Integral) or seed < 0:
        raise DatasetError(f"the seed is {seed}; it must be a whole number from 0")


def _draw(items: Sequence[Item], share: float, rng: np.random.Generator) -> list[str]:
    """Draw a share of the patients of each class by systematic sampling along their centres."""
    strata = _strata(items)
    centres = sorted({centre for _, centre in strata.values()})
    order_of_centre = dict(zip(centres, rng.permutation(len(centres)), strict=True))
    classes: dict[int, list[str]] = {}
    for patient in rng.permutation(sorted(strata)).tolist():
        classes.setdefault(strata[patient][0], []).append(patient)
    drawn = []
    for patients in classes.values():
        patients.sort(key=lambda patient: order_of_centre[strata[patient][1]])
        # The k-th is drawn when the rounded number that is due grows at k.
        due = [math.floor(k * share + 0.5) for k in range(len(patients) + 1)]
        drawn += [patient for k, patient in enumerate(patients) if due[k + 1] > due[k]]
    return drawn


def _strata(items: Sequence[Item]) -> dict[str, tuple[int, str]]:
    """Return every patient's class (the rarest of theirs) and centre (the first in the alphabet)."""
    classes: dict[str, set[int]] = {}
    centres: dict[str, str] = {}
    for item in items:
        patient = item["patient"]
        classes.setdefault(patient, set()).update(classes_of(item))
        centres[patient] = min(item["centre"], centres.get(patient, item["centre"]))
    frequency = Counter(number for numbers in classes.values() for number in numbers)
    return {
        patient: (min(numbers, key=lambda number: (frequency[number], number), default=-1), centres[patient])
        for patient, numbers in classes.items()
    }


def classes_of(item: Mapping[str, Any]) -> set[int]:
    """Return the numbers of the classes that an item shows."""
    label = item["label"]
    return {number for number, present in enumerate(label) if present} if isinstance(label, list) else {label}
