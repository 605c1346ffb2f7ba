"""The report of a study: pages, tables and figures from results that were made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

CLASSES = ("diffuse goiter", "nodular goiter", "normal", "thyroiditis")
SOURCES = {"SD1": (21.0, 9.1), "SD2": (34.0, 17.5), "SD3": (26.0, 12.2), "SD4": (29.5, 13.0), "FM": (8.5, 2.4)}
PAPER = ("O", "CA", *SOURCES, "O+CA", *(f"O+{s}" for s in SOURCES), *(f"O+CA+{s}" for s in SOURCES))
BEYOND = ("FM>O", "O+FM(audited)", "O+FM(250)", "O+FM(500)", "O+FM(1000)", "O+FM(2000)")
AVERAGED = [
    f"{kind}_{metric}" for kind in ("micro", "macro", "weighted") for metric in ("precision", "recall", "f1", "auc")
]


def study_results(
    names: Sequence[str] = (*PAPER, *BEYOND), seeds: int = 3, classes: Sequence[str] = CLASSES
) -> dict[str, Any]:
    """Return results as a study writes them, with scores that are plausible and drawn from a fixed seed."""
    rng = np.random.default_rng(0)
    averaged, per_class = [*AVERAGED, "balanced_accuracy"], ["precision", "recall", "f1", "auc"]
    scenarios = {name: _scenario(rng, name, seeds, classes, averaged, per_class) for name in names}
    bases = [base for base in ("O", "O+CA") if base in names]
    return {
        "study": {
            "name": "thyroid augmentation", "profile": "paper", "classifier": "thyroid_cls",
            "class_names": list(classes), "several_diseases": False, "simulated": True, "seeds": list(range(seeds)),
            "optimiser_steps": 819, "command": "python -m tools study bundles/thyroid_cls/study.yaml --profile paper",
            "test": {"items": 399, "patients": 399, "centres": {"F": 170, "H": 102, "I": 127}, "sha256": "ab" * 32},
            "dataset": {"name": "paper", "sha256": "cd" * 32}, "minutes": 754.2, "file_sha256": "ef" * 32,
        },
        "metrics": {"averaged": averaged, "per_class": per_class, "primary": "macro_f1"},
        "scenarios": scenarios,
        "comparisons": {base: _comparisons(scenarios, base, averaged) for base in bases},
        "sentences": [
            "O+CA+FM has the highest macro F1, 0.77 (0.73 to 0.81).",
            "Against O, 3 of 23 differences survive Holm's correction; against O+CA none does.",
        ],
        "generators": {
            name: {
                "fid": _estimate(fid, 0.06 * fid), "kid": _estimate(kid / 1000, 0.1 * kid / 1000), "fid_floor": 4.1,
                "kid_floor": 0.0003, "flagged": 2, "pictures": 4000,
            }
            for name, (fid, kid) in SOURCES.items()
        },
        "failed": [],
        "environment": {
            "machine": {"processor": "A processor, 16 cores", "gpu": "A GPU", "system": "Linux x86_64"},
            "versions": {"scintikit": "0.1.0", "monai": "1.5.0", "torch": "2.7.0"},
        },
    }  # fmt: skip


def _scenario(
    rng: np.random.Generator,
    name: str,
    seeds: int,
    classes: Sequence[str],
    averaged: Sequence[str],
    per_class: Sequence[str],
) -> dict[str, Any]:
    training = _training(name)
    level = 0.55 + 0.16 * ("original" in training) + 0.012 * ("CA" in name) + 0.03 * ("FM" in name)
    level += 0.015 * np.log10(1 + sum(training.values()) / 2555) + rng.normal(0, 0.008)
    each = {metric: _shift(metric, level) + rng.normal(0, 0.012, seeds) for metric in averaged}
    shift = rng.normal(0, 0.08, len(classes))
    confidence = np.linspace(1 / 30, 29 / 30, 15)
    return {
        "training": training,
        "scores": {metric: _estimate(float(values.mean())) for metric, values in each.items()},
        "per_seed": {metric: values.tolist() for metric, values in each.items()},
        "per_class": {
            label: {metric: _estimate(min(0.98, _shift(metric, level + off)), 0.06) for metric in per_class}
            for label, off in zip(classes, shift, strict=True)
        },
        "per_centre": {
            centre: {metric: _estimate(_shift(metric, level + off), 0.07) for metric in ("macro_f1", "macro_auc")}
            for centre, off in (("F", 0.03), ("H", -0.02), ("I", rng.normal(0, 0.03)))
        },
        "calibration": {
            "ece": float(0.16 - 0.1 * level),
            "brier": _estimate(1 - 0.8 * level),
            "reliability": {
                "edges": np.linspace(0, 1, 16).tolist(),
                "count": [0, 0, 0, 0, 12, 31, 40, 61, 77, 82, 100, 121, 160, 210, 303],
                "confidence": [None] * 4 + confidence[4:].tolist(),
                "accuracy": [None] * 4 + (confidence[4:] ** 1.3 + rng.normal(0, 0.03, 11)).clip(0, 1).tolist(),
            },
        },
    }


def _training(name: str) -> dict[str, int]:
    """Return how many images of each kind a scenario trains on."""
    counts = {"O": ("original", 2555), "CA": ("augmented", 2555)} | {s: (s.lower(), 4000) for s in SOURCES}
    dose = {"250": 1000, "500": 2000, "1000": 4000, "2000": 8000, "audited": 3961}
    training = {}
    for term in name.replace(">", "+").split("+"):
        source, _, detail = term.rstrip(")").partition("(")
        kind, count = counts[source]
        training[kind] = dose.get(detail, count)
    return training


def _shift(metric: str, level: float) -> float:
    return 1 - 0.25 * (1 - level) if metric.endswith("auc") else level


def _estimate(value: float, half: float = 0.035) -> dict[str, float | None]:
    return {"value": value, "low": value - half, "high": min(1.0, value + 0.9 * half) if value < 1 else value + half}


def _comparisons(scenarios: Mapping[str, Any], base: str, metrics: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {name: {} for name in scenarios if name != base}
    for name, metric in product(result, metrics):
        pair = (np.array(scenarios[side]["per_seed"][metric]) for side in (name, base))
        difference = float(np.subtract(*pair).mean())
        p = float(np.exp(-((difference / 0.018) ** 2)))
        result[name][metric] = {
            "difference": _estimate(difference, 0.03), "p": p, "p_holm": min(1.0, 12 * p), "p_wilcoxon": p / 2,
            "p_wilcoxon_holm": min(1.0, 6 * p), "effect": difference / 0.02, "survives": 12 * p < 0.05,
        }  # fmt: skip
    return result
