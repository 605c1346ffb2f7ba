"""The methods of a study as paragraphs that can stand in a paper, from its results."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from scintikit.reporting.figures import metric_name
from scintikit.reporting.study_figures import generated_kinds


def methods_text(results: Mapping[str, Any]) -> list[str]:
    """Return paragraphs on data and training, on the statistics, and on software and hardware."""
    return [_training(results), _statistics(results), _means(results)]


def listed(texts: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def counted(number: int, what: str) -> str:
    """Return the number with its noun, such as "1 seed" or "2,555 images"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def centres_of(study: Mapping[str, Any]) -> str:
    """Return "external centre", or "centre" if the test's centres have other patients in training."""
    return "external centre" if study["test"]["external"] else "centre"


def _training(results: Mapping[str, Any]) -> str:
    study, test = results["study"], results["study"]["test"]
    sets = [f"{name} ({_made_of(entry['training'])})" for name, entry in results["scenarios"].items()]
    centres = listed([f"{name} ({count:,})" for name, count in test["centres"].items()])
    kinds = {kind for entry in results["scenarios"].values() for kind in entry["training"]}
    sentences = [
        f"The classifier ({study['classifier']}; classes: {listed(study['class_names'])}"
        f"{'; several can be present at once' if study['several_diseases'] else ''}) was trained on "
        f"{counted(len(sets), 'training set')}, called scenarios: {', '.join(sets)}.",
        f"All come from the {'simulated ' if study['simulated'] else ''}dataset {study['dataset']['name']} (sha256 "
        f"{study['dataset']['sha256'][:12]}){_made_from(kinds)}.",
        f"Each scenario was trained with {counted(len(study['seeds']), 'random seed')} "
        f"({', '.join(map(str, study['seeds']))}; the same in all scenarios) for {study['optimiser_steps']:,} "
        "optimiser steps, whatever the size of its training set.",
        "Models were selected on the validation split alone; it held no synthetic images and was the same for all.",
        f"Each trained model was then tested once, on {counted(test['items'], 'image')} of "
        f"{counted(test['patients'], 'patient')} from {centres_of(study)}s, {centres}; these "
        f"{'centres' if test['external'] else 'patients'} had no part in training, selection or generation"
        f"{'.' if test['external'] else ', but other patients of their centres had.'}",
    ]
    if given := study["given_generators"]:
        sentences.append(f"What {listed(given)} was drawn by had been trained before the study.")
    return " ".join(sentences)


def _made_from(kinds: Collection[str]) -> str:
    made = ["augmented copies of its images"] if "augmented" in kinds else []
    made += ["images generated from it"] if generated_kinds(kinds) else []
    return f", or are {listed(made)}" if made else ""


def _made_of(training: Mapping[str, int]) -> str:
    return " + ".join(f"{count:,} {kind}" for kind, count in training.items())


def _statistics(results: Mapping[str, Any]) -> str:
    resamples = f" ({results['statistics']['resamples']:,} resamples)" if "statistics" in results else ""
    sentences = [
        "Scores are means over the seeds, with 95 % percentile intervals from a bootstrap over patients within their "
        f"centre{resamples}; the primary score is {metric_name(results['metrics']['primary'])}."
    ]
    if results["comparisons"]:
        sentences += [
            f"Scenarios were compared with {listed(list(results['comparisons']))}, patients and seeds paired.",
            "Intervals and two-sided p-values of these differences take both the patients (bootstrap) and the training "
            "seeds (Student's t) as samples; p-values were corrected by Holm's method over all comparisons with one "
            "base in one metric, and a difference is said to survive if the corrected p-value is below 0.05.",
            "The effect size is the difference in units of the standard deviation of what one patient contributes to "
            "it (Cohen's d_z).",
            "Wilcoxon signed-rank tests of the probability given to the truth, paired by patient, are reported beside "
            "it; they leave the variation between seeds out.",
        ]
    if results["generators"]:
        sentences.append(
            "Each generator was trained once, so nothing here tells how the scores would vary with other trainings of "
            "it. Synthetic images were compared with real ones by FID and KID; the floor is one half of the real "
            "images against the other."
        )
    return " ".join(sentences)


def _means(results: Mapping[str, Any]) -> str:
    study, environment = results["study"], results["environment"]
    versions = listed([f"{name} {version}" for name, version in environment["versions"].items()])
    sentences = [f"Software: {versions}."]
    if environment["machines"]:
        trained = ", or on ".join(_machine(machine) for machine in environment["machines"])
        sentences.append(f"The classifiers were trained on {trained}.")
    if study["minutes"] is not None:
        sentences.append(f"All pieces of work together took {_duration(study['minutes'])} of computing time.")
    if results["failed"]:
        sentences.append(f"Left out because of an error: {listed([entry['work'] for entry in results['failed']])}.")
    sentences.append(
        f"Command: {study['command']} (profile {study['profile']}; study file sha256 {study['file_sha256'][:12]})."
    )
    return " ".join(sentences)


def _machine(machine: Mapping[str, Any]) -> str:
    return f"({'; '.join(f'{key}: {value}' for key, value in machine.items() if value not in (None, ''))})"


def _duration(minutes: float) -> str:
    return f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.0f} minutes"
