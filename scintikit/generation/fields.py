"""Where a camera sees anything: round and framed fields of view, measured on its pictures."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from scintikit.data import Item
from scintikit.data.views import body_frame
from scintikit.dicom import read_scintigram

logger = logging.getLogger(__name__)

#: With fewer pictures, what no patient happened to fill could be taken for the edge of the field.
ENOUGH = 10


class CameraFields:
    """The field of view of each centre's camera: the pixels that hold counts in any of its training pictures.

    Several views have one field together, in the frame of the body (`scintikit.data.body_frame`).

    Parameters
    ----------
    items
        Training items with absolute paths, as from `generator_items`.
    views
        Views to read, all of one field.

    Raises
    ------
    ImageReadError
        If a picture cannot be read.
    """

    def __init__(self, items: Sequence[Item], views: Sequence[str]) -> None:
        seen: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}
        count: Counter[tuple[str, tuple[int, ...]]] = Counter()
        for item in tqdm(items, "fields of view", leave=False):
            counts = body_frame(torch.from_numpy(read_scintigram(item["image"], tuple(views)).counts), views)
            hit = (counts > 0).any(dim=0).numpy()
            key = (item["centre"], hit.shape)
            seen[key] = np.logical_or(seen.get(key, False), hit)
            count[key] += 1
        usual: dict[str, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
        for (centre, shape), number in count.items():
            usual[centre].append((number, shape))
        self.by_centre = {
            centre: _filled(seen[centre, shape])
            for centre, (number, shape) in ((centre, max(found)) for centre, found in usual.items())
            if number >= ENOUGH
        }

    def field(self, centre: str, matrix: Sequence[int]) -> torch.Tensor:
        """Return the field `(rows, columns)`, 1 inside; the whole matrix if it is another one than the camera's."""
        return field_of(self.by_centre, centre, matrix)


def field_of(by_centre: dict[str, torch.Tensor], centre: str, matrix: Sequence[int]) -> torch.Tensor:
    """Return a centre's field as float `(rows, columns)`, or ones if none is known for this matrix."""
    known = by_centre.get(centre)
    return torch.ones(*matrix) if known is None or tuple(known.shape) != tuple(matrix) else known.float()


def _filled(seen: np.ndarray) -> torch.Tensor:
    """Close the gaps that chance leaves where counts are rare."""
    padded = np.pad(seen, 3, mode="edge")
    closed = ndimage.binary_closing(padded, np.ones((5, 5)))[3:-3, 3:-3]
    return torch.from_numpy(ndimage.binary_fill_holes(closed | seen).astype(np.uint8))
