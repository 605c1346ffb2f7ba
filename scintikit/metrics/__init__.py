"""Measure a classifier: discrimination, intervals, calibration, conformal sets, out-of-distribution score."""

from scintikit.errors import MetricError
from scintikit.metrics.calibration import (
    apply_temperature,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
)
from scintikit.metrics.classification import classification_metrics
from scintikit.metrics.conformal import conformal_sets, conformal_threshold
from scintikit.metrics.evaluate import evaluate_classifier
from scintikit.metrics.intervals import Interval, bootstrap_intervals
from scintikit.metrics.ood import fit_ood, ood_score

__all__ = [
    "Interval",
    "MetricError",
    "apply_temperature",
    "bootstrap_intervals",
    "brier_score",
    "classification_metrics",
    "conformal_sets",
    "conformal_threshold",
    "evaluate_classifier",
    "expected_calibration_error",
    "fit_ood",
    "fit_temperature",
    "ood_score",
    "reliability_curve",
]
