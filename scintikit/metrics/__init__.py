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
from scintikit.metrics.comparison import compare_scenarios
from scintikit.metrics.conformal import conformal_sets, conformal_threshold
from scintikit.metrics.diseases import evaluate_diseases, sensitivity_thresholds
from scintikit.metrics.evaluate import evaluate_classifier
from scintikit.metrics.fidelity import Sample, fid, fidelity_metrics, kid
from scintikit.metrics.intervals import Interval, bootstrap_intervals
from scintikit.metrics.localisation import evaluate_localisation
from scintikit.metrics.ood import fit_ood, ood_score
from scintikit.metrics.spectrum import radial_spectra

__all__ = [
    "Interval",
    "MetricError",
    "Sample",
    "apply_temperature",
    "bootstrap_intervals",
    "brier_score",
    "classification_metrics",
    "compare_scenarios",
    "conformal_sets",
    "conformal_threshold",
    "evaluate_classifier",
    "evaluate_diseases",
    "evaluate_localisation",
    "expected_calibration_error",
    "fid",
    "fidelity_metrics",
    "fit_ood",
    "fit_temperature",
    "kid",
    "ood_score",
    "radial_spectra",
    "reliability_curve",
    "sensitivity_thresholds",
]
