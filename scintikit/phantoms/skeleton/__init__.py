"""Simulated whole-body bone scans: skeleton (`anatomy`), patients and foci (`patients`), projection (`body`), cameras.

Everything made here is simulated and not for clinical use.
"""

from scintikit.phantoms.skeleton.anatomy import BONES, reference
from scintikit.phantoms.skeleton.cameras import WholeBody, scan
from scintikit.phantoms.skeleton.findings import bone_findings, bone_prompt
from scintikit.phantoms.skeleton.patients import CLASSES, DIAGNOSES, BonePatient, Focus, draw_bone_patient
from scintikit.phantoms.skeleton.profiles import BONE_PROFILES, bone_cases, diagnosis_mix
from scintikit.phantoms.skeleton.simulation import (
    bone_generator,
    simulate_bone,
    simulate_bone_case,
    simulated_bone_dataset,
)

__all__ = [
    "BONES",
    "BONE_PROFILES",
    "CLASSES",
    "DIAGNOSES",
    "BonePatient",
    "Focus",
    "WholeBody",
    "bone_cases",
    "bone_findings",
    "bone_generator",
    "bone_prompt",
    "diagnosis_mix",
    "draw_bone_patient",
    "reference",
    "scan",
    "simulate_bone",
    "simulate_bone_case",
    "simulated_bone_dataset",
]
