"""Measure the simulator: its speed, and how hard its classes are to tell apart by simple means.

    python -m benchmarks.phantoms --profile paper --output FILE.json [--page docs/images/phantoms.png]
    python -m benchmarks.phantoms --profile bone_paper --output FILE.json [--page docs/images/bone.png]

A logistic regression on total, maximum and mean counts, the area above a threshold and the left/right asymmetry is
trained on the internal cameras. Its macro F1 on the external ones must stay below .65: otherwise the classes differ in
what a ruler measures, and a network trained on them would prove nothing.

Of the bone scans it is the hottest pixels that must not suffice: the maximum and the 99.9th percentile of each view,
and both as multiples of the median, give a logistic regression whose AUC for metastasis must stay below .75.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.common import machine, versions
from scintikit.data import load_datalist
from scintikit.dicom import Scintigram, read_scintigram
from scintikit.files import write_atomic, write_json
from scintikit.phantoms import CLASSES, Case, cases, generator, simulate, simulate_case, skeleton

SPEED_TARGET = 60.0  # images/s on one core, both files of each written
F1_LIMIT = 0.65
BONE_SPEED_TARGET = 20.0  # patients/s on one core, both files of each written
AUC_LIMIT = 0.75


def features(scintigram: Scintigram) -> list[float]:
    """Return total, maximum and mean counts, thresholded area in mm2 and left/right asymmetry of the first view."""
    counts, spacing = scintigram.counts[0], scintigram.spacing_mm or (1.0, 1.0)
    area = float((counts > 0.4 * np.percentile(counts, 99.8)).sum()) * spacing[0] * spacing[1]
    middle = counts.shape[1] // 2
    right, left = float(counts[:, :middle].sum()), float(counts[:, middle:].sum())
    return [float(counts.sum()), float(counts.max()), float(counts.mean()), area, (left - right) / max(left + right, 1)]


def simple_classifier(folder: Path) -> dict[str, float]:
    """Train on the internal cameras; return macro F1 on training and external items, for counts and for their logs."""
    table = {}
    for split in ("training", "test"):
        items = load_datalist(folder, split)
        values = np.array([features(read_scintigram(item["image"])) for item in items])
        table[split] = values, [item["label"] for item in items]
    result = {}
    for name, change in (("counts", lambda v: v), ("logarithms", _logarithms)):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
        model.fit(change(table["training"][0]), table["training"][1])
        for split, (values, labels) in table.items():
            result[f"{name}_{split}"] = float(f1_score(labels, model.predict(change(values)), average="macro"))
    return result


def _logarithms(values: np.ndarray) -> np.ndarray:
    return np.column_stack([np.log1p(values[:, :4]), np.abs(values[:, 4])])


def hottest_pixels(scintigram: Scintigram) -> list[float]:
    """Return of each view the maximum, the 99.9th percentile, and both divided by the median of its non-zero pixels."""
    values: list[float] = []
    for counts in scintigram.counts:
        hottest = [float(counts.max()), float(np.percentile(counts, 99.9))]
        values += [*hottest, *(value / float(np.median(counts[counts > 0])) for value in hottest)]
    return values


def hot_pixel_classifier(folder: Path) -> dict[str, float]:
    """Train on the internal cameras; return the AUC of each disease on training and external items."""
    table = {}
    for split in ("training", "test"):
        items = load_datalist(folder, split)
        values = np.log(np.array([hottest_pixels(read_scintigram(item["image"])) for item in items]))
        table[split] = values, np.array([item["label"] for item in items])
    result = {}
    for number, name in enumerate(skeleton.CLASSES):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(table["training"][0], table["training"][1][:, number])
        for split, (values, labels) in table.items():
            result[f"{name}_{split}"] = float(roc_auc_score(labels[:, number], model.predict_proba(values)[:, 1]))
    return result


def bone_page(path: Path, seed: int = 0, centres: str = "AH") -> None:
    """Draw patients of each diagnosis and a superscan, anterior beside posterior, activity dark, as PNG."""
    rows = []
    for number, centre in enumerate(centres):
        row = []
        for diagnosis in range(len(skeleton.DIAGNOSES) + 1):
            counts = _bone_case(100 * number + 10 * diagnosis, diagnosis, centre, seed)[:, 30:990]
            views = counts.reshape(2, 480, 2, 128, 2).sum((2, 4))
            row += [15 * (1 - np.clip(view / np.percentile(view, 99.6), 0, 1) ** 0.85) for view in views]
        rows.append(np.hstack(row))
    buffer = io.BytesIO()
    grey = np.round(np.vstack(rows)).astype(np.uint8) * 17  # sixteen greys
    Image.fromarray(grey).save(buffer, format="PNG", optimize=True)
    write_atomic(path, buffer.getvalue())


def _bone_case(index: int, diagnosis: int, centre: str, seed: int) -> np.ndarray:
    """Return counts of a patient with a diagnosis; one past the last is a superscan."""
    superscan = diagnosis == len(skeleton.DIAGNOSES)
    while True:
        case = Case(index=index, name="", centre=centre, label=1 if superscan else diagnosis)
        patient, body, _, _ = skeleton.simulate_bone_case(case, seed)
        if (patient.superscan > 1) == superscan:
            return body.counts
        index += 1000


def page(path: Path, seed: int = 0, columns: str = "ABCDEGFHI") -> None:
    """Draw one patient of each class under each camera, windowed from zero to the 99.7th percentile, as PNG."""
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(len(CLASSES), len(columns), figsize=(len(columns) * 1.35, len(CLASSES) * 1.5), dpi=100)
    figure.patch.set_facecolor("black")
    for row, name in enumerate(CLASSES):
        for column, centre in enumerate(columns):
            case = Case(index=100 * row + column, name="", centre=centre, label=row)
            counts = simulate_case(case, seed)[1].counts
            axis = axes[row, column]
            axis.imshow(counts, cmap="gray", vmin=0, vmax=np.percentile(counts, 99.7), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(f"camera {centre}", color="white", fontsize=7, pad=3)
        axes[row, 0].set_ylabel(name, color="white", fontsize=8)
    figure.subplots_adjust(0.025, 0.01, 0.995, 0.95, 0.03, 0.03)
    figure.canvas.draw()
    grey = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("L")
    plt.close(figure)
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG", optimize=True)
    write_atomic(path, buffer.getvalue())


def measure(profile: str, seed: int) -> dict[str, Any]:
    """Simulate a profile on one core, then train the simple classifier on it."""
    bone = profile in skeleton.BONE_PROFILES
    number = len(skeleton.bone_cases(profile, seed) if bone else cases(profile, seed))
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        made = (skeleton.simulate_bone if bone else simulate)(profile, seed, Path(folder) / "dataset", workers=1)
        speed = number / (time.perf_counter() - start)
        processor = (time.process_time() - used) / number
        simple = hot_pixel_classifier(made) if bone else simple_classifier(made)
    name = "hot_pixel_classifier_auc" if bone else "simple_classifier_macro_f1"
    targets = {
        "images_per_second_one_core": BONE_SPEED_TARGET if bone else SPEED_TARGET,
        "hot_pixel_classifier_external_metastasis_auc_below"
        if bone
        else "simple_classifier_external_macro_f1_below": AUC_LIMIT if bone else F1_LIMIT,
    }
    return {
        "ours": {"images_per_second_one_core": speed, "processor_seconds_per_image": processor, name: simple},
        "usual": None,  # there is no usual simulator to compare with; the targets stand in for it
        "ratio": None,
        "targets": targets,
        "machine": machine(),
        "versions": versions(),
        "settings": {
            "profile": profile,
            "seed": seed,
            "generator": skeleton.bone_generator() if bone else generator(),
        },
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="demo", help="tiny, demo, paper, bone_tiny, bone_demo or bone_paper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    parser.add_argument("--page", type=Path, help="PNG file for a page of samples")
    arguments = parser.parse_args()
    bone = arguments.profile in skeleton.BONE_PROFILES
    if arguments.page:
        (bone_page if bone else page)(arguments.page, arguments.seed)
    result = measure(arguments.profile, arguments.seed)
    ours, targets = result["ours"], result["targets"]
    print(
        f"{ours['images_per_second_one_core']:.0f}/s on one core (target {targets['images_per_second_one_core']:.0f})"
    )
    kind = "hot_pixel_classifier_auc" if bone else "simple_classifier_macro_f1"
    for name, value in ours[kind].items():
        print(f"logistic regression, {name.replace('_', ', ')}: {'AUC' if bone else 'macro F1'} {value:.3f}")
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
