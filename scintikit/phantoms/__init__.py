"""Simulated scintigrams: patients (`patients`), their bodies (`body`), nine cameras (`cameras`), findings and prompts.

Everything made here is simulated and not for clinical use.
"""

from scintikit.phantoms.cameras import Camera, Exposure, expose, load_cameras
from scintikit.phantoms.findings import findings, prompt
from scintikit.phantoms.patients import CLASSES, Patient, draw_patient
from scintikit.phantoms.profiles import PROFILES, Case, cases, class_mix
from scintikit.phantoms.simulation import generator, simulate, simulate_case, simulated_dataset

__all__ = [
    "CLASSES",
    "PROFILES",
    "Camera",
    "Case",
    "Exposure",
    "Patient",
    "cases",
    "class_mix",
    "draw_patient",
    "expose",
    "findings",
    "generator",
    "load_cameras",
    "prompt",
    "simulate",
    "simulate_case",
    "simulated_dataset",
]
