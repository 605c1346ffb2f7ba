"""From a study file to pieces of work: datasets, generators, trainings, tests and what is measured beside them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scintikit.data import Dataset, load_dataset
from scintikit.data.contract import SYNTHETIC_KINDS
from scintikit.data.splits import classes_of
from scintikit.errors import ConfigError, DatasetError, did_you_mean
from scintikit.files import file_sha256
from scintikit.metrics.comparison import AVERAGED, AVERAGED_DISEASES, compare_scenarios
from scintikit.phantoms.skeleton import BONE_PROFILES
from scintikit.study.scenarios import ORIGINAL, Scenario, Term
from scintikit.study.settings import Study
from scintikit.study.work import ROOT, Argument, Command, Given, Made, Work, code_sha256

DATA = "data"
MODELS = "models"
SAMPLES = "samples.png"
TEST = "test"
WEIGHTS = (".pt", ".safetensors", ".ts")

# What of the checkout decides the results of a kind of work.
_DATA = ("scintikit/data", "scintikit/dicom")
_RUN = ("scintikit/bundles.py", "tools/run.py")
_PHANTOMS = ("scintikit/phantoms", *_DATA)
_TRAINING = (
    *(*_RUN, *_DATA, "scintikit/engines"),
    # conformal sets and thresholds
    *("scintikit/metrics/conformal.py", "scintikit/metrics/ood.py", "scintikit/metrics/diseases.py"),
)
_TESTING = (*_TRAINING, "scintikit/metrics/calibration.py", "scintikit/reporting/predictions.py")
_FEATURES = ("scintikit/metrics/features.py", "scintikit/metrics/fidelity.py", "scintikit/metrics/spectrum.py")
_GENERATING = (*_RUN, *_DATA, "scintikit/engines", "scintikit/generation", *_FEATURES)
_MEASURING = (*_RUN, *_DATA, *_FEATURES, "scintikit/metrics/intervals.py", "tools/fidelity.py", "tools/pictures.py")
_AUDITING = (*_MEASURING, "scintikit/metrics/memorisation.py", "tools/audit.py")


@dataclass
class Plan:
    """The pieces of a study.

    Attributes
    ----------
    study
        The settings.
    original
        The dataset.
    sets
        Training sets of each scenario's stages, by the scenario's name.
    trainings, tests
        By the scenario's name, one for each seed.
    fidelity, audits
        By the name of the source; none for augmented copies.
    samples
        The page of samples.
    wanted
        Scintigrams per class that are needed of each source.
    """

    study: Study
    original: Given | Made
    sets: dict[str, list[Given | Made]] = field(default_factory=dict)
    trainings: dict[str, list[Work]] = field(default_factory=dict)
    tests: dict[str, list[Work]] = field(default_factory=dict)
    fidelity: dict[str, Work] = field(default_factory=dict)
    audits: dict[str, Work] = field(default_factory=dict)
    samples: Work | None = None
    wanted: dict[str, int] = field(default_factory=dict)

    @property
    def preparing(self) -> list[Work]:
        """All that comes before the external centres are looked at."""
        trainings = [work for works in self.trainings.values() for work in works]
        further = [*self.fidelity.values(), *self.audits.values(), *([self.samples] if self.samples else [])]
        return [*trainings, *further]

    @property
    def testing(self) -> list[Work]:
        """The tests on the external centres."""
        return [work for works in self.tests.values() for work in works]


def make_plan(study: Study) -> Plan:
    """Return the pieces of a study.

    Raises
    ------
    DatasetError
        If the dataset breaks the contract.
    ConfigError
        If a bundle or a trained model is missing.
    """
    _check_bundles(study)
    planner = _Planner(study)
    if study.primary_metric is not None:
        _check_metric(study.primary_metric, planner.several)
    if planner.own is not None:
        _check_test(planner.own, study.primary_metric)
    plan = Plan(study, planner.original, wanted=planner.wanted)
    for seed in range(study.seeds):  # all scenarios with the first seed, then the next
        for scenario in study.scenarios:
            plan.trainings.setdefault(scenario.name, []).append(planner.training(scenario, seed))
            plan.tests.setdefault(scenario.name, []).append(planner.test(scenario, seed))
    _check_different(plan.trainings)
    for scenario in study.scenarios:
        plan.sets[scenario.name] = [planner.training_set(stage) for stage in scenario.stages]
    drawn = [name for name in study.sources if name in planner.wanted]
    for name in drawn:
        if "generator" not in study.sources[name]:
            continue
        if "fidelity" in study.measure:
            plan.fidelity[name] = planner.fidelity(name)
        if "audit" in study.measure:
            plan.audits[name] = planner.audit(name)
    if drawn:
        plan.samples = planner.samples(drawn)
    return plan


def reading_options(study: Study) -> dict[str, Any]:
    """Return those options of the study's classifier that decide how it reads a picture."""
    config = json.loads((ROOT / "bundles" / study.classifier["bundle"] / "configs" / "inference.json").read_text())
    named = {*config["settings"], *re.findall(r'"@(\w+)"', json.dumps(config["preprocessing"]))}
    return {name: value for name, value in study.classifier["options"].items() if name in named}


class _Planner:
    """Makes each piece of work once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.made: dict[Any, Work] = {}
        self.given: dict[str, Given] = {}
        #: What the classifier is told of the classes: those of an own dataset may be others than the bundle's.
        self.classes: dict[str, Any] = {}
        #: Whether a scintigram can show several diseases.
        self.several = False
        #: The dataset, if it was not simulated for the study.
        self.own: Dataset | None = None
        self.original = self._original()
        self.bundle: str = study.classifier["bundle"]
        terms = [term for scenario in study.scenarios for term in scenario.terms if term.source != ORIGINAL]
        #: Scintigrams per class that are needed of each source.
        self.wanted: dict[str, int] = {}
        for term in terms:
            self.wanted[term.source] = max(self.wanted.get(term.source, 0), term.per_class or study.per_class)

    def _original(self) -> Given | Made:
        dataset = self.study.dataset
        if isinstance(dataset, str):
            own = load_dataset(dataset)
            _check_original(own)
            self.several = own.multi_label
            if own.multi_label:
                _check_diseases(own)
            self.own = own
            self.classes = {"class_names": list(own.labels.values())}
            return Given(str(Path(dataset).expanduser().resolve()), own.sha256)
        self.several = dataset.get("profile") in BONE_PROFILES
        arguments: tuple[Argument, ...] = ("simulate", *_options(dataset), "--output", Made(path=DATA))
        name = f"{dataset['profile']}, seed {dataset.get('seed', 0)}"
        return Made(self._once("simulate", name, Command(arguments, (*_PHANTOMS, "tools/simulate.py"))), DATA)

    def _once(
        self, kind: str, name: str, *commands: Command, gpu: bool = False, inputs: tuple[Argument, ...] = ()
    ) -> Work:
        work = Work(kind, name, commands, gpu, inputs)
        return self.made.setdefault(work.key, work)

    def source(self, name: str) -> Made:
        """Return the dataset of a source."""
        source = self.study.sources[name]
        if "augment" in source:
            options = _options({"per_class": self.wanted[name], **source["augment"]})
            arguments = ("augment", self.original, "--output", Made(path=DATA), *options)
            return Made(self._once("augment", name, Command(arguments, (*_DATA, "tools/augment.py"))), DATA)
        return self._generated(name, source)

    def _generated(self, name: str, source: Mapping[str, Any]) -> Made:
        generator = self.study.generators[source["generator"]]
        bundle = generator["bundle"]
        options = {"per_class": self.wanted[name], **generator.get("options", {}), **source.get("options", {})}
        arguments = (
            *("run", bundle, source.get("task", "generating"), *_overlay(generator)),
            *("--dataset_dir", self.original, "--ckpt_dir", self._trained(source["generator"])),
            *self._options(options),
        )
        code = (*_GENERATING, f"bundles/{bundle}/configs", f"bundles/{bundle}/scripts")
        # All shards fill one folder, which is a piece of its own with nothing to do.
        folder = self._once("dataset", name, inputs=(*arguments, *map(code_sha256, code)))
        shards = self.study.shards
        parts = tuple(
            self._once(
                "generate", f"{name}, part {shard + 1} of {shards}", Command((*arguments, *part), code), gpu=True
            )
            for shard in range(shards)
            for part in [("--output_dir", Made(folder, DATA), "--shard", shard, "--shards", shards)]
        )
        return Made(folder, DATA, fillers=parts)

    def _trained(self, name: str) -> Argument:
        generator = self.study.generators[name]
        if generator.get("trained"):
            return self._given_model(generator["trained"])
        bundle = generator["bundle"]
        code = (*_GENERATING, f"bundles/{bundle}/configs", f"bundles/{bundle}/scripts")
        commands = []
        for step in generator["training"]:
            options = {**generator.get("options", {}), **step.get("options", {})}
            arguments = (
                *("run", bundle, step.get("task", "training"), *_overlay(generator, step)),
                *("--dataset_dir", self.original, "--ckpt_dir", Made(path=MODELS), "--log_dir", Made(path="runs")),
                *self._options(options),
            )
            checkpoint = f"{MODELS}/{step.get('checkpoint', 'last.pt')}"
            commands.append(Command(arguments, code, ("--resume", "True"), checkpoint))
        return Made(self._once("generator", name, *commands, gpu=True), MODELS)

    def _given_model(self, path: str) -> Given:
        folder = Path(path).expanduser().resolve()
        if not any(file.suffix in WEIGHTS for file in folder.rglob("*")):
            raise ConfigError(f"there is no trained generator in {folder}; train it or leave `trained` out")
        return self._given(folder)

    def _given(self, place: Path) -> Given:
        """Return a file or folder from outside, by its content."""
        if str(place) not in self.given:
            files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
            digest = hashlib.sha256()
            for file in files:
                digest.update(file.relative_to(place).as_posix().encode() + b"\0" + file_sha256(file).encode())
            self.given[str(place)] = Given(str(place), digest.hexdigest())
        return self.given[str(place)]

    def _options(self, options: Mapping[str, Any]) -> tuple[Argument, ...]:
        """Return options as `_options` does, those that name a file or folder, such as weights, by its content."""
        words: list[Argument] = list(_options(options))
        for place, value in enumerate(value for _, value in sorted(options.items())):
            path = (ROOT / Path(value).expanduser()).resolve() if isinstance(value, str) and value else None
            if path is not None and path.exists():
                words[2 * place + 1] = self._given(path)
        return tuple(words)

    def _term(self, term: Term) -> Given | Made:
        if term.source == ORIGINAL:
            return self.original
        data: Given | Made = self.source(term.source)
        count = term.per_class or self.study.per_class
        name = f"{term.source}({count})"
        if count < self.wanted[term.source]:
            arguments: tuple[Argument, ...] = ("compose", data, "--output", Made(path=DATA), "--per_class", count)
            data = Made(self._once("subset", name, Command(arguments, (*_DATA, "tools/compose.py"))), DATA)
        if term.audited:
            copying = Command(("compose", data, "--output", Made(path=DATA)), (*_DATA, "tools/compose.py"))
            arguments = ("audit", self.original, Made(path=DATA), *self._extractor(), "--drop", "True")
            dropping = Command(arguments, (*_AUDITING, *self._pictures()))
            data = Made(self._once("audited", name, copying, dropping), DATA)
        return data

    def training_set(self, stage: tuple[Term, ...]) -> Given | Made:
        """Return the dataset of a stage: its terms' training items, validation and test of the original."""
        terms = [self._term(term) for term in stage]
        alone = [] if any(term.source == ORIGINAL for term in stage) else ["--synthetic_only", "True"]
        if len(terms) == 1 and not alone:
            return terms[0]
        originals = [self.original] if alone else []
        arguments = ("compose", *originals, *terms, "--output", Made(path=DATA), *alone)
        name = "+".join(map(str, stage))
        return Made(self._once("compose", name, Command(arguments, (*_DATA, "tools/compose.py"))), DATA)

    def training(self, scenario: Scenario, seed: int) -> Work:
        """Return the training of a classifier: all stages together take the study's steps."""
        stages = len(scenario.stages)
        commands, before = [], 0
        for number, stage in enumerate(scenario.stages):
            until = self.study.epochs * (number + 1) // stages
            models = MODELS if number == stages - 1 else f"stage{number}"
            start = () if number == 0 else ("--load_pretrained", Made(path=f"stage{number - 1}/model.pt"))
            options = {
                **{"seed": seed, "max_epochs": until - before, "epoch_length": self.study.steps, "patience": 0},
                **self.classes,
                **self.study.classifier["options"],
            }
            arguments = (
                *("run", self.bundle, "training", "--dataset_dir", self.training_set(stage)),
                *("--ckpt_dir", Made(path=models), "--log_dir", Made(path=f"runs{number}"), *start),
                *self._options(options),
            )
            commands.append(
                Command(arguments, self._classifier_code(_TRAINING), ("--resume", "True"), f"{models}/last.pt")
            )
            before = until
        return self._once("train", f"{scenario.name}, seed {seed}", *commands, gpu=True)

    def test(self, scenario: Scenario, seed: int) -> Work:
        """Return the test of a classifier on the external centres."""
        options = {**self.classes, **self.study.classifier["options"]}
        arguments = (
            *("run", self.bundle, "evaluating", "--dataset_dir", self.original),
            *("--ckpt_dir", Made(self.training(scenario, seed), MODELS), "--output_dir", Made(path=TEST)),
            *self._options(options),
        )
        return self._once(
            "test", f"{scenario.name}, seed {seed}", Command(arguments, self._classifier_code(_TESTING)), gpu=True
        )

    def fidelity(self, name: str) -> Work:
        """Return the measurement of how close a source comes to the validation split."""
        arguments = ("fidelity", self.original, self.source(name), "--split", "validation", *self._extractor())
        output = ("--output", Made(path="fidelity.json"))
        return self._once("fidelity", name, Command((*arguments, *output), (*_MEASURING, *self._pictures())))

    def audit(self, name: str) -> Work:
        """Return the search for copies of training scintigrams."""
        arguments = ("audit", self.original, self.source(name), *self._extractor(), "--output", Made(path="audit.json"))
        return self._once("audit", name, Command(arguments, (*_AUDITING, *self._pictures())))

    def samples(self, names: list[str]) -> Work:
        """Return the page of samples."""
        datasets = {ORIGINAL: self.original} | {name: self.source(name) for name in names}
        columns = tuple(replace(dataset, prefix=f"{name}=") for name, dataset in datasets.items())
        arguments = ("gallery", *columns, *self._reading(), "--output", Made(path=SAMPLES))
        code = (
            *_RUN,
            *_DATA,
            "scintikit/metrics/features.py",
            "tools/gallery.py",
            "tools/pictures.py",
            *self._pictures(),
        )
        return self._once("samples", "page", Command(arguments, code))

    def _extractor(self) -> tuple[str, ...]:
        # Features of a random network: the same for every study, and not of a classifier that is compared.
        return ("--extractor", "random", *self._reading())

    def _reading(self) -> tuple[str, ...]:
        # Pictures are measured and shown as the study's classifier sees them.
        return ("--bundle", self.bundle, *_options(reading_options(self.study)))

    def _pictures(self) -> tuple[str, ...]:
        return (f"bundles/{self.bundle}/configs",)

    def _classifier_code(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        return (*parts, f"bundles/{self.bundle}/configs", f"bundles/{self.bundle}/scripts")


def _overlay(*settings: Mapping[str, Any]) -> tuple[str, ...]:
    names = [setting["overlay"] for setting in settings if "overlay" in setting]
    return tuple(word for name in names for word in ("--overlay", name))


def _options(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return options as Fire reads them, in an order that is not that of the file."""
    return tuple(word for name, value in sorted(options.items()) for word in (f"--{name}", str(value)))


def _check_bundles(study: Study) -> None:
    known = sorted(path.parent.parent.name for path in (ROOT / "bundles").glob("*/configs/metadata.json"))
    named = {"classifier": study.classifier} | {f"generator {name}": of for name, of in study.generators.items()}
    for place, settings in named.items():
        bundle = settings["bundle"]
        if bundle not in known:
            raise ConfigError(
                f"{place}: there is no bundle {bundle!r}{did_you_mean(bundle, known)}; known are {', '.join(known)}"
            )


def _check_metric(name: str, several: bool) -> None:
    """Make sure that the dataset's tests have the primary metric: the last test would be late to find out."""
    known = AVERAGED_DISEASES if several else AVERAGED
    if name not in known:
        of = "several diseases at once" if several else "one class each"
        raise ConfigError(f"primary_metric {name!r} is not measured on scintigrams of {of}; take {', '.join(known)}")


def _check_different(trainings: Mapping[str, Sequence[Work]]) -> None:
    """Make sure that no training stands under two names, where it would count as two results."""
    names: dict[str, str] = {}
    for name, works in trainings.items():
        other = names.setdefault(works[0].key, name)
        if other != name:
            raise ConfigError(f"scenarios: {other} and {name} are the same training; leave one of them out")


def _check_diseases(dataset: Dataset) -> None:
    """Make sure that every disease can be told from its absence in the test, else no average over them exists."""
    labels = [item["label"] for item in dataset.splits["test"]]
    for number, name in dataset.labels.items():
        if len({label[number] for label in labels}) < 2:
            raise DatasetError(
                f"{dataset.root}: the test has no items both with and without {name!r}, so it has no average over the "
                "diseases; give it centres with both, or leave the disease out"
            )


def _check_test(dataset: Dataset, primary: str | None) -> None:
    """Make sure that the best classifier there can be has a primary metric in the test."""
    truth = np.array([item["label"] for item in dataset.splits["test"]])
    several, classes = dataset.multi_label, len(dataset.labels)
    compared = compare_scenarios(
        {"truth": {0: truth if several else np.eye(classes)[truth]}},
        truth,
        [item["patient"] for item in dataset.splits["test"]],
        [item["centre"] for item in dataset.splits["test"]],
        list(dataset.labels.values()),
        thresholds={"truth": {0: [0.5] * classes}} if several else None,
        primary=primary,
        bootstrap=1,
    )
    name = compared["metrics"]["primary"]
    if compared["scenarios"]["truth"]["scores"][name]["value"] is None:
        raise DatasetError(
            f"{dataset.root}: the test has no {name}, which needs items of every class"
            f"{' and items without any disease' if several else ''}; take another primary_metric, or give it centres "
            "that have them"
        )


def _check_original(dataset: Dataset) -> None:
    """Make sure that a study of an own dataset means what it says."""
    for split, why in (("validation", "chooses the epoch"), ("test", "is what scenarios are compared on")):
        if not dataset.splits[split]:
            raise DatasetError(
                f"{dataset.root} has no {split} items; a study needs some, for that split {why}. Make it again with "
                "`python -m tools index`, which has options for external centres"
            )
    for split in ("training", "validation"):
        shown = {number for item in dataset.splits[split] for number in classes_of(item)}
        absent = [name for number, name in dataset.labels.items() if number not in shown]
        if absent:
            raise DatasetError(
                f"{dataset.root}: no {split} item shows {', '.join(map(repr, absent))}; every class has to occur in "
                "training and validation. Add patients, or leave the class out"
            )
    made = [item["image"] for item in dataset.splits["training"] if item["origin"]["kind"] in SYNTHETIC_KINDS]
    if made:
        raise DatasetError(
            f"{dataset.root}: {len(made)} training items are synthetic, first {made[0]!r}; give the original dataset, "
            "the study adds to it itself"
        )
