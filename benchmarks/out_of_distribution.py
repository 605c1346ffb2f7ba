"""How well thyroid_cls notices images that are not thyroid scintigrams.

    python -m benchmarks.out_of_distribution --dataset D --models MODELS --output FILE.json

Runs the bundle's inference on the dataset's validation and external test items and on images of other kinds, and
compares the out-of-distribution scores: AUROC of each kind against validation items (the cameras trained on) and
against test items (cameras not seen in training), and the share that gets the warning.

- noise: Poisson counts without an object, and with the counts of a flood source.
- bone: overlapping 256 x 256 pieces of two NEMA whole-body pictures, probably of one patient, so that 100 pieces are
  far fewer than 100 independent images.
- organs: kidneys, lungs, liver with spleen, heart: blurred ellipsoids with Poisson counts, cruder than the phantoms.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from pydicom.data import get_testdata_file
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from benchmarks.common import machine, versions
from scintikit.data import load_dataset
from scintikit.dicom import read_scintigram, write_scintigram
from scintikit.files import write_json
from tools.run import run

PIXEL_MM = 2.4
#: Two different pictures, probably of one patient; JPEG2000.dcm is JPEG2000_UNC.dcm in another compression.
BONE_SCANS = ("JPEG2000_UNC.dcm", "JPEG-LL.dcm")
#: Centre (x, y), half axes and angle of each organ's ellipses, as shares of the field of view and in radians.
ORGANS = {
    "kidneys": [(-0.35, 0.0, 0.14, 0.26, 0.25), (0.35, 0.0, 0.14, 0.26, -0.25)],
    "lungs": [(-0.4, 0.0, 0.26, 0.6, 0.08), (0.4, 0.0, 0.24, 0.6, -0.08)],
    "liver": [(-0.25, 0.05, 0.5, 0.35, 0.3), (0.6, 0.1, 0.16, 0.24, 0.4)],
    "heart": [(0.1, 0.1, 0.28, 0.2, 0.6)],
}


def noise(rng: np.random.Generator) -> np.ndarray:
    """Return counts `(H, W)` of no object: flat, or smooth as an uncorrected flood source."""
    level = np.exp(rng.uniform(np.log(1), np.log(300)))
    field = np.ones((128, 128))
    if rng.random() < 0.5:
        field = 1 + 0.3 * gaussian_filter(rng.normal(size=(128, 128)), 16) * 16
    return rng.poisson(level * np.clip(field, 0.05, None))


def organ(rng: np.random.Generator) -> np.ndarray:
    """Return counts `(H, W)` of one of `ORGANS` with random size, place, uptake and background."""
    ellipses = ORGANS[str(rng.choice(list(ORGANS)))]
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    size, shift = rng.uniform(0.75, 1.2), rng.normal(0, 0.06, 2)
    activity = np.full((128, 128), rng.uniform(0.02, 0.15))
    for cx, cy, a, b, angle in ellipses:
        u, v = x - cx * size - shift[0], y - cy * size - shift[1]
        c, s = np.cos(angle), np.sin(angle)
        radius = ((c * u + s * v) / (a * size)) ** 2 + ((c * v - s * u) / (b * size)) ** 2
        activity += rng.uniform(0.7, 1.3) * np.sqrt(np.clip(1 - radius, 0, None))
    return rng.poisson(gaussian_filter(activity, rng.uniform(1.5, 3)) * np.exp(rng.uniform(np.log(20), np.log(400))))


def bone(rng: np.random.Generator) -> np.ndarray:
    """Return a random 256 x 256 piece of a whole-body bone scan, counts `(H, W)`."""
    counts = _bone_scan(BONE_SCANS[rng.integers(len(BONE_SCANS))])
    row = rng.integers(counts.shape[0] - 256 + 1)
    return counts[row : row + 256, :256]


def _bone_scan(name: str) -> np.ndarray:
    counts = read_scintigram(get_testdata_file(name)).counts[0]
    return np.clip(counts, 0, None)


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {"noise": noise, "bone": bone, "organs": organ}


def write_images(folder: Path, dataset: Path, count: int, seed: int) -> Iterator[str]:
    """Fill `folder` with one subfolder a kind and yield their names."""
    loaded = load_dataset(dataset)
    for split in ("validation", "test"):
        (folder / split).mkdir(parents=True)
        for item in loaded.splits[split]:
            shutil.copy(loaded.root / item["image"], folder / split)
        yield split
    for number, (kind, make) in enumerate(KINDS.items()):
        (folder / kind).mkdir()
        for index in range(count):
            counts = np.minimum(make(np.random.default_rng((seed, number, index))), 65535).round()[None]
            path = folder / kind / f"{index}.dcm"
            write_scintigram(path, counts, spacing_mm=(PIXEL_MM,) * 2, views=("ANT",), uid_seed=f"{kind}{index}")
        yield kind


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--models", required=True, help="folder with model.pt and calibration.pt")
    parser.add_argument("--output", required=True)
    parser.add_argument("--count", type=int, default=100, help="images of each other kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        inbox, output = Path(name) / "in", Path(name) / "out"
        kinds = list(write_images(inbox, given.dataset, given.count, given.seed))
        run("thyroid_cls", "inference", dataset_dir=str(inbox), ckpt_dir=given.models, output_dir=str(output))
        table = pd.read_csv(output / "predictions.csv")
    groups = {kind: table[table["id"].str.startswith(f"{kind}/")] for kind in kinds}
    result: dict[str, object] = {
        "flagged": {k: float(rows["unlike_training_data"].mean()) for k, rows in groups.items()}
    }
    for own in ("validation", "test"):
        result[f"auroc_against_{own}"] = {
            kind: float(
                roc_auc_score(
                    [0] * len(groups[own]) + [1] * len(groups[kind]),
                    [*groups[own]["ood_score"], *groups[kind]["ood_score"]],
                )
            )
            for kind in KINDS
        }
    result |= {"settings": {"count": given.count, "seed": given.seed}, "machine": machine(), "versions": versions()}
    write_json(given.output, result)
    print(pd.DataFrame({k: v for k, v in result.items() if k.startswith(("flagged", "auroc"))}).round(3).to_string())


if __name__ == "__main__":
    main()
