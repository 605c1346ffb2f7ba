"""`generation.pt` holds what the training pictures are like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from scintikit.files import file_sha256
from scintikit.generation import QualityGate, TrainingStatistics, load_generation, measure_training
from scintikit.generation.quality import Diversity
from scintikit.generation.statistics import label_key, patient_hash

SETTINGS = {"class_names": ["a", "b"], "spacing_mm": 2.4, "views": ["ANT"]}


def _items(label: Any = int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, 64, 64)
    mask[0, :, 32:] = 0
    return [
        {
            "image": torch.rand(1, 64, 64, generator=generator) * (1 + k / 20),
            "mask": mask * torch.tensor([k % 3 > 0, 1])[:, None, None],
            "level": 100.0 + k,
            "label": label(k % 2),
            "centre": "AAB"[k % 3],
            "patient": f"P{k // 2}",
        }
        for k in range(12)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "model.pt").write_bytes(b"weights")
    return str(tmp_path)


def test_levels_limits_and_diversity_of_each_class(folder: str) -> None:
    items = _items()
    assert measure_training(folder, items, SETTINGS) == Path(folder) / "generation.pt"
    content = load_generation(folder, SETTINGS)
    assert content["model_sha256"] == file_sha256(Path(folder) / "model.pt")
    assert content["levels"] == {
        "0": {"A": [100.0, 104.0, 106.0, 110.0], "B": [102.0, 108.0]},
        "1": {"A": [101.0, 103.0, 107.0, 109.0], "B": [105.0, 111.0]},
    }
    for label in (0, 1):
        real = Diversity.of(torch.stack([item["image"] for item in items if item["label"] == label]))
        assert content["diversity"][str(label)] == pytest.approx(real.distance)
    statistics = TrainingStatistics(folder, SETTINGS)
    pictures, masks = (torch.stack([item[key] for item in items]) for key in ("image", "mask"))
    assert QualityGate(statistics)(pictures, masks) == [""] * 12
    assert QualityGate(statistics)(pictures * 3, masks) != [""] * 12
    assert statistics.levels(1, "B") == [105.0, 111.0]
    assert statistics.patients == {patient_hash(f"P{number}") for number in range(6)}
    assert statistics.levels(1, "Z") == []


def test_order_and_gaps_of_a_loader_are_no_matter(folder: str) -> None:
    measure_training(folder, _items(), SETTINGS)
    once = load_generation(folder, SETTINGS)
    measure_training(folder, DataLoader(_items(), batch_size=5, shuffle=True, drop_last=True), SETTINGS)
    assert load_generation(folder, SETTINGS) == once


def test_label_vectors_have_keys_of_their_own(folder: str) -> None:
    measure_training(folder, _items(lambda k: [k, 0, 1]), SETTINGS)
    assert set(load_generation(folder, SETTINGS)["levels"]) == {"001", "101"}
    assert label_key(torch.tensor([1, 0, 1])) == label_key((1, 0, 1)) == "101"
    assert label_key(torch.tensor(3)) == label_key(3) == "3"


def test_other_ranks_write_nothing(folder: str) -> None:
    measure_training(folder, _items(), SETTINGS, rank=1)
    assert not (Path(folder) / "generation.pt").exists()


def test_a_file_is_read_only_when_it_is_needed(tmp_path: Path) -> None:
    statistics = TrainingStatistics(str(tmp_path), SETTINGS)
    with pytest.raises(Exception, match="there is no trained model"):
        _ = statistics.gate
