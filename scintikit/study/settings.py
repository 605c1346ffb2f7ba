"""The file that describes a study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from jsonschema.exceptions import best_match

from scintikit.errors import ConfigError, did_you_mean
from scintikit.metrics.comparison import AVERAGED, AVERAGED_DISEASES
from scintikit.study.scenarios import ORIGINAL, Scenario, parse

PROFILES = "profiles"
#: What the study itself decides: equal budgets, paired seeds, and where things are.
_PLACES = ("dataset_dir", "ckpt_dir", "log_dir", "output_dir", "resume")
RESERVED = {
    "classifier": (*_PLACES, "seed", "max_epochs", "epoch_length", "patience", "load_pretrained"),
    "generator": (*_PLACES, "per_class", "only", "shard", "shards"),
    "augment": ("output", "per_class", "copies", "workers"),
}


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
        What decides which scenario wins; None: macro F1, of several diseases macro AUC.
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
    primary_metric: str | None
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
    content = _with_profile(path, _read(Path(path)), profile)
    _check_keys(path, content)
    _check_schema(path, content)
    sources, generators = content["sources"], content.get("generators", {})
    _check_options(path, "classifier", content["classifier"], "classifier")
    for name, generator in generators.items():
        _check_generator(path, name, generator)
    for name, source in sources.items():
        _check_source(path, name, source, generators)
    scenarios = _scenarios(path, content["scenarios"], sources)
    for scenario in scenarios:
        if len(scenario.stages) > content["epochs"]:
            raise ConfigError(
                f"{path}: scenario {scenario.name} has {len(scenario.stages)} stages, which share `epochs`, and there "
                f"are {content['epochs']:g}; give at least as many"
            )
    return Study(
        name=content["name"],
        profile=profile,
        sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        dataset=content["dataset"],
        classifier={"options": {}, **content["classifier"]},
        generators=generators,
        sources=sources,
        scenarios=scenarios,
        compare_with=_bases(path, content, scenarios),
        primary_metric=_primary_metric(path, content.get("primary_metric")),
        # To JSON Schema 3.0 is an integer.
        per_class=int(content["per_class"]),
        epochs=int(content["epochs"]),
        steps=int(content["steps"]),
        seeds=int(content["seeds"]),
        measure=tuple(content.get("measure", ("fidelity", "audit"))),
        shards=int(content.get("shards", 1)),
    )


def _with_profile(path: str | Path, content: dict[str, Any], profile: str | None) -> dict[str, Any]:
    """Return the content with what the profile replaces, and without the profiles."""
    profiles = content.pop(PROFILES, None) or {}
    if not isinstance(profiles, dict) or not all(isinstance(entry or {}, dict) for entry in profiles.values()):
        raise ConfigError(f"{path}: {PROFILES}: expected names, each with the entries that it replaces")
    if profile is None:
        return content
    known = {str(name): entry or {} for name, entry in profiles.items()}
    if str(profile) not in known:
        raise ConfigError(
            f"{path} has no profile {profile!r}{did_you_mean(str(profile), known)}; known are "
            f"{', '.join(known) or 'none'}"
        )
    return _merged(content, known[str(profile)])


def _scenarios(path: str | Path, expressions: Sequence[str], sources: Mapping[str, Any]) -> tuple[Scenario, ...]:
    try:
        scenarios = tuple(parse(expression, sources) for expression in expressions)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    copies = [name for name, source in sources.items() if "augment" in source]
    for scenario in scenarios:
        if any(term.audited and term.source in copies for term in scenario.terms):
            raise ConfigError(
                f"{path}: scenario {scenario.name} audits augmented copies; only what a generator drew is audited"
            )
    names = [scenario.name for scenario in scenarios]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"{path}: scenarios are named twice: {', '.join(sorted(twice))}; name each once")
    return scenarios


def _bases(path: str | Path, content: Mapping[str, Any], scenarios: Sequence[Scenario]) -> tuple[str, ...]:
    """Return the scenarios that others are compared with: O, if nothing else is asked for and it is one of them."""
    names = [scenario.name for scenario in scenarios]
    if "compare_with" not in content:
        return tuple(name for name in names if name == ORIGINAL)
    bases = [base.name for base in _scenarios(path, content["compare_with"], content["sources"])]
    missing = [base for base in bases if base not in names]
    if missing:
        raise ConfigError(
            f"{path}: compare_with names {', '.join(missing)}, which is not among the scenarios ({', '.join(names)}); "
            "add it there, or leave it out"
        )
    return tuple(bases)


def _primary_metric(path: str | Path, name: str | None) -> str | None:
    known = dict.fromkeys([*AVERAGED, *AVERAGED_DISEASES])
    if name is not None and name not in known:
        raise ConfigError(
            f"{path}: there is no primary_metric {name!r}{did_you_mean(name, known)}; known are {', '.join(AVERAGED)}, "
            f"and for several diseases {', '.join(AVERAGED_DISEASES)}"
        )
    return name


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
    """Return `base` with what `over` names replaced, entry by entry."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _check_keys(path: str | Path, content: Any, place: str = "the file") -> None:
    """Make sure that all names are text: to YAML `NO`, `on` and `1` are none."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            if not isinstance(name, str):
                raise ConfigError(f"{path}: {place}: the name {name!r} is not text; give another, or quote it")
            _check_keys(path, value, name)


def _check_schema(path: str | Path, content: Any) -> None:
    schema = json.loads(files("scintikit.study").joinpath("study.schema.json").read_text(encoding="utf-8"))
    fault = best_match(jsonschema.Draft202012Validator(schema).iter_errors(content))
    if fault is not None:
        raise ConfigError(f"{path}: {'/'.join(map(str, fault.absolute_path)) or 'the file'}: {fault.message}")


def _check_options(path: str | Path, place: str, settings: Mapping[str, Any], kind: str) -> None:
    """Make sure that no option overrules what the study decides."""
    options = settings.get("augment" if kind == "augment" else "options", {})
    overruled = [name for name in options if name in RESERVED[kind]]
    if overruled:
        raise ConfigError(
            f"{path}: {place}: {', '.join(overruled)} cannot be an option here, because the study sets it itself; see "
            "`epochs`, `steps`, `seeds`, `per_class` and `shards` of the file"
        )


def _check_generator(path: str | Path, name: str, generator: Mapping[str, Any]) -> None:
    if not generator.get("trained") and "training" not in generator:
        raise ConfigError(
            f"{path}: generator {name} needs `training`, its tasks (`training: [{{}}]`: the usual one), or `trained`, "
            "the folder of its model"
        )
    for step in (generator, *generator.get("training", ())):
        _check_options(path, f"generator {name}", step, "generator")


def _check_source(path: str | Path, name: str, source: Mapping[str, Any], generators: Mapping[str, Any]) -> None:
    if ("augment" in source) == ("generator" in source):
        raise ConfigError(f"{path}: source {name} needs either `augment` or `generator`")
    if "augment" in source and len(source) > 1:
        raise ConfigError(f"{path}: source {name}: give its options under `augment`: {{augment: {{flip: 0}}}}")
    _check_options(path, f"source {name}", source, "augment" if "augment" in source else "generator")
    generator = source.get("generator")
    if generator is not None and generator not in generators:
        raise ConfigError(
            f"{path}: source {name}: there is no generator {generator!r}{did_you_mean(generator, generators)}; known "
            f"are {', '.join(generators)}"
        )
