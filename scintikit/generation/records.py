"""What has become of each batch, until the dataset is finished; and whether it is good enough to go on."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scintikit.data.contract import Item
from scintikit.errors import ScintikitError
from scintikit.files import write_json
from scintikit.generation.quality import Diversity

#: Folder of the records, in a dataset that is being made.
RECORDS = "batches"
#: Least diversity of generated pictures, as a share of that of the real ones.
LEAST_DIVERSITY = 0.15
#: Of fewer pictures, diversity and refusals say too little to stop a run.
ENOUGH = 8


@dataclass
class Record:
    """What one batch, or several together, have become.

    Attributes
    ----------
    items
        Of the dataset, in the order of their indices.
    redrawn
        How often a picture was drawn again, by reason.
    left_out
        How many items were given up, by reason.
    diversity
        Of the accepted pictures of each label.
    """

    items: list[Item] = field(default_factory=list)
    redrawn: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    diversity: dict[str, Diversity] = field(default_factory=dict)

    def add(self, other: Record) -> None:
        """Take in another batch."""
        self.items += other.items
        self.redrawn += other.redrawn
        self.left_out += other.left_out
        for label, value in other.diversity.items():
            self.diversity[label] = self.diversity.get(label, Diversity()) + value

    def save(self, folder: Path, number: int) -> None:
        """Write the record of batch `number`: from now on the batch counts as done."""
        diversity = {label: value.to_json() for label, value in self.diversity.items()}
        write_json(record_path(folder, number), {**vars(self), "diversity": diversity})

    @classmethod
    def load(cls, folder: Path, number: int) -> Record:
        """Read the record of batch `number`; `FileNotFoundError` if there is none."""
        content = json.loads(record_path(folder, number).read_text(encoding="utf-8"))
        return cls(
            items=content["items"],
            redrawn=Counter(content["redrawn"]),
            left_out=Counter(content["left_out"]),
            diversity={label: Diversity(**value) for label, value in content["diversity"].items()},
        )

    def check(self, real: Mapping[str, float]) -> None:
        """Make sure that the generator does not draw the same picture, or none, again and again.

        Parameters
        ----------
        real
            Diversity of the training pictures of each label.

        Raises
        ------
        ScintikitError
            If the pictures of a label differ by less than 15 % of what real ones do, or none is plausible.
        """
        refused = self.left_out.total()
        if refused >= ENOUGH and not self.diversity:
            raise ScintikitError(
                f"none of {refused} pictures is plausible, however often they are drawn ({_words(self.left_out)}); "
                "train the generator longer"
            )
        for label, value in self.diversity.items():
            if value.count >= ENOUGH and value.distance < LEAST_DIVERSITY * real[label]:
                raise ScintikitError(
                    f"the pictures of label {label} differ from each other by only {value.distance / real[label]:.0%} "
                    f"of what real ones do (less than {LEAST_DIVERSITY:.0%}): the generator draws nearly one picture. "
                    "Train it longer or with a lower --learning_rate, or generate with less --guidance"
                )

    def report(self, asked: int, real: Mapping[str, float]) -> dict[str, Any]:
        """Return what `dataset.json` tells about the making."""
        return {
            "asked": asked,
            "written": len(self.items),
            "redrawn": dict(sorted(self.redrawn.items())),
            "left_out": dict(sorted(self.left_out.items())),
            "diversity": {
                label: {"synthetic": _rounded(value.distance), "real": _rounded(real[label])}
                for label, value in sorted(self.diversity.items())
            },
        }


def record_path(folder: str | Path, number: int) -> Path:
    """Return the file that tells what batch `number` has become."""
    return Path(folder).expanduser() / RECORDS / f"{number:06d}.json"


def _words(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in counter.most_common(5))


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
