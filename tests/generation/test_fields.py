"""The field of view of a camera is where any of its pictures holds counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from scintikit.dicom import write_scintigram
from scintikit.generation import CameraFields


def _items(folder: Path, centre: str, fields: list[np.ndarray]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    items = []
    for number, field in enumerate(fields):
        counts = rng.poisson(0.4 * field).astype(np.uint16)
        path = folder / f"{centre}_{number}.dcm"
        write_scintigram(path, counts[None], spacing_mm=(2.0, 2.0), views=("ANT",), uid_seed=path.name)
        items.append({"image": str(path), "centre": centre})
    return items


def _disc(size: int) -> np.ndarray:
    axis = np.arange(size) - (size - 1) / 2
    return (np.hypot(axis[:, None], axis[None]) < size / 2 - 2).astype(float)


def test_round_field_is_found_and_full_one_left_whole(tmp_path: Path) -> None:
    items = _items(tmp_path, "R", [_disc(32)] * 12) + _items(tmp_path, "F", [np.ones((24, 32))] * 12)
    fields = CameraFields(items, ["ANT"])
    assert (fields.field("R", (32, 32)).numpy() != _disc(32)).mean() < 0.02
    assert float(fields.field("F", (24, 32)).mean()) > 0.99


def test_unknown_camera_matrix_or_too_few_pictures_give_the_whole_matrix(tmp_path: Path) -> None:
    fields = CameraFields(_items(tmp_path, "R", [_disc(32)] * 12) + _items(tmp_path, "S", [_disc(32)] * 9), ["ANT"])
    for centre, matrix in (("R", (64, 64)), ("S", (32, 32)), ("T", (32, 32))):
        assert torch.equal(fields.field(centre, matrix), torch.ones(*matrix))


def test_the_usual_matrix_of_a_centre_counts(tmp_path: Path) -> None:
    few, many = _items(tmp_path, "R", [np.ones((16, 16))] * 3), _items(tmp_path, "Q", [_disc(32)] * 12)
    for item in many:
        item["centre"] = "R"
    fields = CameraFields(few + many, ["ANT"])
    assert set(fields.by_centre) == {"R"}
    assert tuple(fields.by_centre["R"].shape) == (32, 32)


def test_field_of_two_views_is_that_of_the_body(tmp_path: Path) -> None:
    items = _items(tmp_path, "R", [np.ones((16, 16))] * 12)
    for item in items:
        counts = np.zeros((2, 16, 16), np.uint16)
        counts[0, :, :10] = counts[1, :, 6:] = 3  # the same strip, from behind at the other side
        write_scintigram(item["image"], counts, spacing_mm=(2.0, 2.0), views=("ANT", "POST"), uid_seed=item["image"])
    field = CameraFields(items, ["ANT", "POST"]).field("R", (16, 16))
    assert field.any(dim=0).nonzero().flatten().tolist() == list(range(10))
