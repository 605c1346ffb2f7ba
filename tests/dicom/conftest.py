"""Small scintigrams and ways to spoil them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from scintikit.dicom import write_scintigram


def counts(views: int = 2, rows: int = 40, columns: int = 32) -> np.ndarray:
    """Return a picture without any symmetry, `(view, row, column)`."""
    picture = np.random.default_rng(7).poisson(20, (views, rows, columns))
    picture[:, :5, :3] += 200  # bright top left corner
    return picture + 1000 * np.arange(views)[:, None, None]


@pytest.fixture
def nm_file(tmp_path: Path) -> Callable[..., Path]:
    """Write an NM object, let `change` edit its data set, and return the path."""

    def make(change: Callable[[pydicom.Dataset], None] | None = None, name: str = "a.dcm", **options: Any) -> Path:
        path = tmp_path / name
        settings: dict[str, Any] = {"spacing_mm": (2.5, 2.0), "views": ("ANT", "POST"), "uid_seed": name}
        settings |= options
        write_scintigram(path, settings.pop("counts", counts(len(settings["views"]))), **settings)
        if change is not None:
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(path)
        return path

    return make
