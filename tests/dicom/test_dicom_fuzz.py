"""Damaged files end in an error of ours or in a picture, never in anything else."""

from __future__ import annotations

import numpy as np
import pytest

from scintikit.dicom import HeaderSummary, read_scintigram, scan_header, write_scintigram
from scintikit.errors import ScintikitError

CASES = 60


def damaged(whole, index):
    random = np.random.default_rng((5, index))
    data = bytearray(whole)
    if index % 4 == 0:
        return bytes(data[: random.integers(0, len(data))])
    for position in random.integers(0, len(data), random.integers(1, 6)):
        data[position] ^= 1 << int(random.integers(0, 8))
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("suffix", "transfer_syntax"),
    [(".dcm", "explicit"), (".dcm", "deflated"), (".dcm", "rle"), (".nii", ""), (".nii.gz", ""), (".png", "")],
)
def test_damaged_files(tmp_path, suffix, transfer_syntax):
    path = tmp_path / f"a{suffix}"
    options = {"transfer_syntax": transfer_syntax} if transfer_syntax else {}
    picture = np.random.default_rng(0).poisson(20, (1, 16, 12))
    write_scintigram(path, picture, spacing_mm=(2, 2), views=("ANT",), uid_seed="1", **options)
    whole = path.read_bytes()
    outcomes = set()
    for index in range(CASES):
        path.write_bytes(damaged(whole, index))
        try:
            scan = read_scintigram(path)
        except ScintikitError:
            outcomes.add("refused")
        else:
            assert scan.counts.ndim == 3
            assert scan.counts.dtype == np.float32
            assert np.isfinite(scan.counts).all()
            assert len(scan.views) == len(scan.counts)
            outcomes.add("read")
        assert isinstance(scan_header(path), HeaderSummary)
    assert "refused" in outcomes
