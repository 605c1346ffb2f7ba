"""`generation.pt`: what generating needs besides the weights, measured on the training split."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from scintikit.engines.calibration import load_measured
from scintikit.engines.saving import save_atomic
from scintikit.errors import ConfigError
from scintikit.files import file_sha256
from scintikit.generation.fields import CameraFields, field_of
from scintikit.generation.quality import Diversity, picture_statistics, plausible_limits

logger = logging.getLogger(__name__)

FILE_NAME = "generation.pt"


def label_key(label: int | Sequence[int] | torch.Tensor) -> str:
    """Return a label as text: "2" for a class number, "0110" for a list of 0/1."""
    value: Any = label.tolist() if isinstance(label, torch.Tensor) else label
    return "".join(str(int(v)) for v in value) if isinstance(value, list | tuple) else str(int(value))


def patient_hash(patient: str) -> str:
    """Return what stands for a patient's pseudonym in `generation.pt`."""
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def check_trained(weights: Path) -> None:
    """Raise `ConfigError` if there are no weights that could be measured."""
    if not weights.is_file():
        raise ConfigError(
            f"there is no {weights}: no epoch was trained and validated; run `training` first, with --max_epochs of at "
            "least 1"
        )


def measure_training(
    ckpt_dir: str,
    training: Iterable[Mapping[str, Any]],
    settings: dict[str, Any],
    fields: CameraFields | None = None,
    rank: int = 0,
    further: Mapping[str, Any] | None = None,
) -> Path:
    """Measure the training pictures that `model.pt` has seen; write `generation.pt` beside it and return its path.

    It holds the count levels of each class at each centre, the limits of the quality gate, the diversity of each class,
    and hashes of the patients' pseudonyms.

    Parameters
    ----------
    ckpt_dir
        Folder with `model.pt`.
    training
        Preprocessed items without augmentation, or a DataLoader whose dataset has them.
    settings
        What generation must do as training did (class names, preprocessing); kept and compared when it is read.
    fields
        The cameras' fields of view; None: every camera sees its whole matrix.
    rank
        Process rank in distributed training; only rank 0 works.
    further
        What else the generation needs to know.

    Raises
    ------
    ConfigError
        If there is no `model.pt`.
    """
    path = Path(ckpt_dir) / FILE_NAME
    if rank != 0:
        return path
    weights = path.with_name("model.pt")
    check_trained(weights)
    items: Any = training.dataset if isinstance(training, DataLoader) else training
    levels: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    statistics: dict[str, list[torch.Tensor]] = defaultdict(list)
    diversity: dict[str, Diversity] = defaultdict(Diversity)
    patients: set[str] = set()
    for item in tqdm(items, desc="measuring", leave=False):
        key, picture = label_key(item["label"]), item["image"][None]
        patients.add(patient_hash(item["patient"]))
        levels[key][item["centre"]].append(float(item["level"]))
        diversity[key] += Diversity.of(picture)
        for name, value in picture_statistics(picture, item["mask"][None]).items():
            statistics[name].append(value)
    content = {
        "model_sha256": file_sha256(weights),
        "settings": settings,
        "levels": {key: dict(centres) for key, centres in levels.items()},
        "gate": plausible_limits({name: torch.cat(values) for name, values in statistics.items()}),
        "diversity": {key: value.distance for key, value in diversity.items()},
        "fields": {} if fields is None else fields.by_centre,
        "patients": sorted(patients),
        **(further or {}),
    }
    save_atomic(path, content)
    logger.info("wrote %s", path)
    return path


def load_generation(ckpt_dir: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Read `generation.pt` and check that it was measured for the `model.pt` beside it and for these settings.

    Raises
    ------
    ConfigError
        If it is missing, belongs to other weights, or the model was trained with other class names or preprocessing.
    """
    return load_measured(Path(ckpt_dir) / FILE_NAME, settings, task="measuring")


class TrainingStatistics:
    """The content of `generation.pt`, read and checked on first use, so that a config resolves without a model.

    Parameters
    ----------
    ckpt_dir
        Folder of `model.pt` and `generation.pt`.
    settings
        As of `load_generation`.
    """

    def __init__(self, ckpt_dir: str, settings: dict[str, Any]) -> None:
        self.ckpt_dir = ckpt_dir
        self.settings = settings

    @cached_property
    def content(self) -> dict[str, Any]:
        """All of it; raises the `ConfigError` of `load_generation`."""
        return load_generation(self.ckpt_dir, self.settings)

    @property
    def model_sha256(self) -> str:
        """Which weights it was measured for."""
        return self.content["model_sha256"]

    @property
    def gate(self) -> dict[str, list[float]]:
        """Lowest and highest plausible value of each statistic of a picture."""
        return self.content["gate"]

    @property
    def diversity(self) -> dict[str, float]:
        """Root mean square distance between the training pictures of each label."""
        return self.content["diversity"]

    @property
    def vocabulary(self) -> list[str]:
        """The words of the prompts that the model was trained with."""
        return self.content["vocabulary"]

    def field(self, centre: str, matrix: Sequence[int]) -> torch.Tensor:
        """Return the field of view of a centre's camera, `(rows, columns)`, 1 inside."""
        return field_of(self.content["fields"], centre, matrix)

    @property
    def centres(self) -> set[str]:
        """Where the pictures come from that it was measured on: those of the model's training."""
        return {centre for centres in self.content["levels"].values() for centre in centres}

    @property
    def patients(self) -> set[str]:
        """Hashes of the patients whom the model has seen; none of a model of before they were kept."""
        return set(self.content.get("patients", ()))

    def levels(self, label: int | Sequence[int], centre: str) -> list[float]:
        """Return the count levels of a label's training pictures at a centre; empty if there are none."""
        return self.content["levels"].get(label_key(label), {}).get(centre, [])
