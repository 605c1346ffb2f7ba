"""Does the text matter? Pairs of scintigrams whose prompts differ in one finding, from the same noise and camera.

    python -m benchmarks.controllability --dataset D --ckpt-dir M --classifier C --output FILE.json [--pairs 100]

sd_generator draws each pair in mode sd2, from prompts alone. A finding counts as controlled in a pair if a measurement
on the two pictures differs the way the words do; for the class, if `thyroid_cls` gives the first class a higher
probability in the first picture than in the second. Chance is one half; intervals are exact binomial ones, 95 %.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser
from scipy.stats import binomtest

from benchmarks.common import machine, versions
from scintikit.bundles import enter
from scintikit.data import load_datalist, load_dataset
from scintikit.files import file_sha256, write_json
from tools.run import find_bundle, run

OPENING = "Anterior thyroid scintigram"


def column(pictures: np.ndarray) -> np.ndarray:
    """Return the mean column (N,) of the uptake above half of the maximum: larger towards the patient's left."""
    bright = np.clip(pictures - 0.5, 0, None)
    return (bright * np.arange(pictures.shape[-1])).sum((1, 2)) / bright.sum((1, 2)).clip(min=1e-9)


def area(pictures: np.ndarray) -> np.ndarray:
    """Return the share (N,) of the picture that is brighter than half of its maximum."""
    return (pictures > 0.5).mean((1, 2))


def background(pictures: np.ndarray) -> np.ndarray:
    """Return how bright (N,) the shoulders, below every gland, are beside the brightest 0.5 % of the picture."""
    height, width = pictures.shape[-2:]
    shoulders = pictures[:, int(0.7 * height) : int(0.86 * height), int(0.27 * width) : int(0.73 * width)]
    brightest = np.quantile(pictures.reshape(len(pictures), -1), 0.995, axis=1)
    return shoulders.mean(axis=(1, 2)) / brightest.clip(min=1e-9)


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ in one finding, and which measurement is larger for the first.

    `labels` are the classes of the two prompts; the first one's training items lend both their cameras.
    """

    first: str
    second: str
    labels: tuple[int, int]
    measure: Callable[[np.ndarray], np.ndarray] | None = None


PAIRS = {
    "hot nodule left / right": Pair(
        "nodular goiter, solitary large hot nodule in the middle of the left lobe, normal uptake",
        "nodular goiter, solitary large hot nodule in the middle of the right lobe, normal uptake",
        (1, 1),
        column,
    ),
    "nodule cold / hot": Pair(
        "nodular goiter, solitary large cold nodule in the middle of the left lobe, normal uptake",
        "nodular goiter, solitary large hot nodule in the middle of the left lobe, normal uptake",
        (1, 1),
        area,
    ),
    "gland enlarged / not": Pair(
        "diffuse goiter, increased uptake, enlarged gland", "diffuse goiter, increased uptake", (0, 0), area
    ),
    "background high / low": Pair(
        "nodular goiter, solitary cold nodule in the middle of the left lobe, normal uptake, high background",
        "nodular goiter, solitary cold nodule in the middle of the left lobe, normal uptake, low background",
        (1, 1),
        background,
    ),
    "diffuse goiter / nodular goiter": Pair(
        "diffuse goiter, increased uptake, enlarged gland",
        "nodular goiter, solitary hot nodule in the middle of the left lobe, increased uptake",
        (0, 1),
    ),
    "normal / thyroiditis": Pair(
        "normal gland, normal uptake, normal size",
        "thyroiditis, reduced uptake, patchy distribution, high background",
        (2, 3),
    ),
}


def draw(given: argparse.Namespace, pair: Pair, prompt: str, folder: Path) -> list[dict[str, Any]]:
    """Generate the pictures of a prompt; return their items in the order of their noise."""
    run(
        "sd_generator",
        "generating",
        dataset_dir=given.dataset,
        ckpt_dir=given.ckpt_dir,
        output_dir=str(folder),
        mode="sd2",
        per_class=given.pairs,
        guidance=given.guidance,
        only=list(load_dataset(given.dataset).labels.values())[pair.labels[0]],
        prompt=f"{OPENING}, {prompt}",
    )
    return sorted(load_datalist(str(folder), "training"), key=lambda item: item["origin"]["settings"]["index"])


def pictures_of(dataset: str, items: list[dict[str, Any]]) -> np.ndarray:
    """Return stabilised pictures (N, H, W) on the model's grid."""
    root = find_bundle("sd_generator")
    enter(root)
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser.update({"dataset_dir": dataset, "fields": None, "mask_labels": 0})
    preprocess = parser.get_parsed_content("preprocessing")
    return torch.stack([preprocess(item)["image"][0] for item in items]).numpy()


def probability(given: argparse.Namespace, items: list[dict[str, Any]], label: int, folder: Path) -> np.ndarray:
    """Return the probability (N,) that the classifier gives a class."""
    run(
        "thyroid_cls",
        "inference",
        dataset_dir=str(Path(items[0]["image"]).parent),
        ckpt_dir=given.classifier,
        output_dir=str(folder),
    )
    name = list(load_dataset(given.dataset).labels.values())[label]
    table = pd.read_csv(folder / "predictions.csv", dtype={"id": str})
    table.index = pd.Index([Path(path).name.removesuffix(".dcm") for path in table["id"]])
    return table.loc[[Path(item["image"]).name.removesuffix(".dcm") for item in items], f"p_{name}"].to_numpy()


def controlled(given: argparse.Namespace, pair: Pair, folder: Path) -> tuple[int, int]:
    """Return in how many pairs the pictures differ as the words do, and how many there are."""
    sides = [draw(given, pair, prompt, folder / str(k)) for k, prompt in enumerate((pair.first, pair.second))]
    both = set.intersection(*({item["origin"]["settings"]["index"] for item in items} for items in sides))
    kept = [[item for item in items if item["origin"]["settings"]["index"] in both] for items in sides]
    if pair.measure is not None:
        one, other = (pair.measure(pictures_of(given.dataset, items)) for items in kept)
    else:
        one, other = (probability(given, items, pair.labels[0], folder / f"table_{k}") for k, items in enumerate(kept))
    return int((one > other).sum()), len(both)


def main() -> None:
    """Draw, measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="that the generator was trained on")
    parser.add_argument("--ckpt-dir", required=True, help="of sd_generator")
    parser.add_argument("--classifier", required=True, help="folder of a trained thyroid_cls")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--only", choices=PAIRS, nargs="+", default=list(PAIRS), help="some findings")
    parser.add_argument("--output", required=True)
    given = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(given.only):
            right, count = controlled(given, PAIRS[name], Path(folder) / str(number))
            interval = binomtest(right, count).proportion_ci()
            result[name] = {"share": right / count, "low": interval.low, "high": interval.high, "pairs": count}
            print(f"{name:<34} {right / count:.2f} ({interval.low:.2f} to {interval.high:.2f})", flush=True)
    settings = {"pairs": given.pairs, "guidance": given.guidance, "dataset_sha256": load_dataset(given.dataset).sha256}
    settings["model_sha256"] = file_sha256(Path(given.ckpt_dir) / "model.pt")
    write_json(given.output, {"findings": result, "settings": settings, "machine": machine(), "versions": versions()})


if __name__ == "__main__":
    main()
