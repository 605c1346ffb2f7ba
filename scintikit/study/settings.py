"""The file that describes a study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from jsonschema.exceptions import best_match

from scintikit.errors import ConfigError, did_you_mean
from scintikit.study.scenarios import ORIGINAL, Scenario, parse

PROFILES = "profiles"


@dataclass(frozen=True)
class Study:
    """A study file with one of its profiles.

    Attributes
    ----------
    name, profile
        For people.
    sha256
        Of the file.
    dataset
        A folder, or options of `tools simulate`.
    classifier
        `bundle` and `options` of its training.
    generators
        By name: `bundle`, `overlay`, `training` (its tasks with their options, in order) or `trained`.
    sources
        By name: `augment` options, or `generator`, `task` and `options`.
    scenarios
        What is compared.
    compare_with
        Scenarios that all others are compared with.
    primary_metric
        What decides which scenario wins.
    per_class
        Scintigrams of each class that a source adds.
    epochs, steps
        Of every training; the product is the same for all scenarios.
    seeds
        Trainings of each scenario.
    measure
        What is measured of each generator's scintigrams: "fidelity", "audit".
    shards
        Pieces that each generation is divided into, which can be done at once.
    """

    name: str
    profile: str | None
    sha256: str
    dataset: str | dict[str, Any]
    classifier: dict[str, Any]
    generators: dict[str, dict[str, Any]]
    sources: dict[str, dict[str, Any]]
    scenarios: tuple[Scenario, ...]
    compare_with: tuple[str, ...]
    primary_metric: str
    per_class: int
    epochs: int
    steps: int
    seeds: int
    measure: tuple[str, ...]
    shards: int


def load_study(path: str | Path, profile: str | None = None) -> Study:
    """Read a study file.

    Parameters
    ----------
    path
        YAML, see `study.schema.json`.
    profile
        Name of an entry of `profiles`, which replaces what it names; None: the file as it stands.

    Raises
    ------
    ConfigError
        If the file, the profile, an entry or a scenario is wrong; the message names it.
    """
    content = _read(Path(path))
    profiles = content.pop(PROFILES, {})
    if profile is not None:
        if profile not in profiles:
            raise ConfigError(
                f"{path} has no profile {profile!r}{did_you_mean(profile, profiles)}; known are {', '.join(profiles)}"
            )
        content = _merged(content, profiles[profile])
    _check_schema(path, content)
    sources, generators = content["sources"], content.get("generators", {})
    for name, source in sources.items():
        _check_source(path, name, source, generators)
    scenarios = tuple(parse(expression, sources) for expression in content["scenarios"])
    names = [scenario.name for scenario in scenarios]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"{path}: scenarios are named twice: {', '.join(sorted(twice))}")
    return Study(
        name=content["name"],
        profile=profile,
        sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        dataset=content["dataset"],
        classifier={"options": {}, **content["classifier"]},
        generators=generators,
        sources=sources,
        scenarios=scenarios,
        compare_with=tuple(name for name in content.get("compare_with", [ORIGINAL]) if name in names),
        primary_metric=content.get("primary_metric", "macro_f1"),
        per_class=content["per_class"],
        epochs=content["epochs"],
        steps=content["steps"],
        seeds=content["seeds"],
        measure=tuple(content.get("measure", ("fidelity", "audit"))),
        shards=content.get("shards", 1),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no study file {path}; the bundles have one, such as bundles/thyroid_cls/study.yaml"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} has no entries; expected those of docs/study.md")
    return content


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with what `over` names replaced, entry by entry; an entry that is None in `over` goes away."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _check_schema(path: str | Path, content: Any) -> None:
    schema = json.loads(files("scintikit.study").joinpath("study.schema.json").read_text(encoding="utf-8"))
    fault = best_match(jsonschema.Draft202012Validator(schema).iter_errors(content))
    if fault is not None:
        raise ConfigError(f"{path}: {'/'.join(map(str, fault.absolute_path)) or 'the file'}: {fault.message}")


def _check_source(path: str | Path, name: str, source: Mapping[str, Any], generators: Mapping[str, Any]) -> None:
    if ("augment" in source) == ("generator" in source):
        raise ConfigError(f"{path}: source {name} needs either `augment` or `generator`")
    generator = source.get("generator")
    if generator is not None and generator not in generators:
        raise ConfigError(
            f"{path}: source {name}: there is no generator {generator!r}{did_you_mean(generator, generators)}; known "
            f"are {', '.join(generators)}"
        )
