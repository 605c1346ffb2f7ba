"""Which instances of a study go to which bundle, by the rules of `selection.yaml`."""

from __future__ import annotations

import filecmp
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from scintikit.data.pairing import group_views
from scintikit.data.tree import Picture, bare_reason
from scintikit.dicom import HeaderSummary, scan_header
from scintikit.dicom.elements import Elements
from scintikit.dicom.header import CHARACTER_SET, SECONDARY_CAPTURE, T
from scintikit.dicom.nm import parse_start
from scintikit.dicom.scintigram import check_views, naming
from scintikit.errors import ConfigError, ImageReadError

RULES = Path(__file__).with_name("selection.yaml")
MANUFACTURER = "scintikit"  # of its results
RESULTS = ("SR", "OT")  # their modalities

_MANUFACTURER, _STUDY_DESCRIPTION, _SERIES_DESCRIPTION, _PROTOCOL = 0x00080070, 0x00081030, 0x0008103E, 0x00181030
_DESCRIPTIONS = (_STUDY_DESCRIPTION, _SERIES_DESCRIPTION, _PROTOCOL)
_TAGS = frozenset(
    (CHARACTER_SET, T.SOP_CLASS, T.SOP_INSTANCE, T.MODALITY, T.STUDY, T.SERIES, T.BODY_PART, _MANUFACTURER)
    + _DESCRIPTIONS
)


@dataclass(frozen=True)
class Rule:
    """What an instance must be to go to a bundle; `selection.yaml` says what the fields mean."""

    bundle: str
    modality: tuple[str, ...]
    sop_class: tuple[str, ...]
    image_type: tuple[str, ...]
    frames: tuple[int, int]
    views: tuple[str, ...]
    body_part: tuple[str, ...]
    description: str
    without: str = ""

    def objection(self, instance: Instance) -> str:
        """Return why an instance does not go to the bundle; "" if it does. No text of its header is repeated."""
        header, shown = instance.header, {view for view in instance.header.views if view}
        described = re.search(self.description, instance.descriptions, re.IGNORECASE)
        if instance.modality not in self.modality or instance.sop_class not in self.sop_class:
            return f"its modality or SOP class is not {', '.join(self.modality)} pictures"
        if header.image_type not in self.image_type:
            return f"its Image Type is {header.image_type or 'not stated'}"
        if not self.frames[0] <= header.frames <= self.frames[1]:
            return f"it has {header.frames} frames, not {self.frames[0]} to {self.frames[1]}"
        if instance.body_part not in self.body_part and not described:
            return "neither body part nor descriptions fit"
        if self.without and re.search(self.without, instance.descriptions, re.IGNORECASE):
            return "its descriptions speak against it"
        if shown and not shown & set(self.views):
            return f"it shows {', '.join(sorted(shown))}, not {' or '.join(self.views)}"
        return ""


@dataclass(frozen=True)
class Instance:
    """What the selection looks at of a file. Texts and identifiers of the header are never shown."""

    path: Path
    header: HeaderSummary = field(repr=False)
    modality: str
    sop_class: str
    sop_instance: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    body_part: str = field(repr=False)
    descriptions: str = field(repr=False)
    manufacturer: str = field(repr=False)

    def frames(self, views: Collection[str]) -> list[int] | None:
        """Return the frames, from 1, that a bundle reads of the file: those of these views, else of no stated one.

        None for a Secondary Capture, to whose only frame no number may refer (PS3.3 table 10-3).
        """
        names = self.header.views
        if self.sop_class == SECONDARY_CAPTURE[0]:
            return None
        stated = [frame + 1 for frame in self.header.read_frames if names[frame] in views]
        return stated or [frame + 1 for frame in self.header.read_frames if not names[frame]]


@dataclass(frozen=True)
class Job:
    """Instances that a bundle reads together, in the order of its views."""

    rule: Rule
    instances: tuple[Instance, ...]

    @property
    def id(self) -> str:
        """A name for the job that tells nobody whose it is."""
        return pseudonym(*sorted(instance.sop_instance for instance in self.instances))


@dataclass(frozen=True)
class Selection:
    """The jobs of a study, and why the other series (or files) are not used, without what would identify them."""

    jobs: tuple[Job, ...]
    reasons: tuple[str, ...]


def pseudonym(*identifiers: str) -> str:
    """Return a short name that is always the same for the same identifiers and does not give them away."""
    return hashlib.sha256("\n".join(identifiers).encode()).hexdigest()[:12]


def load_rules(path: str | Path = RULES) -> list[Rule]:
    """Read the rules of a YAML file.

    Raises
    ------
    ConfigError
        If something is missing, unknown or of the wrong kind; names the rule and the field.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the rules {path}: {error}") from error
    rules = content.get("rules") if isinstance(content, dict) else None
    if not isinstance(rules, list) or not rules:
        raise ConfigError(f"{path} has no list `rules`; see the comments in {RULES.name}")
    return [_rule(rule, f"rule {number} of {path}") for number, rule in enumerate(rules, 1)]


def _rule(values: Any, where: str) -> Rule:
    known = {item.name for item in fields(Rule)}
    if not isinstance(values, dict) or set(values) - known or known - {"without"} - set(values):
        raise ConfigError(f"{where} must have {', '.join(sorted(known))} (only `without` may be missing), nothing else")
    lists = {name: values[name] for name in ("modality", "sop_class", "image_type", "frames", "views", "body_part")}
    texts = {name: values[name] for name in values if name not in lists}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise ConfigError(f"{name} in {where} is {value!r}; expected text")
    for name, value in lists.items():
        kind = int if name == "frames" else str
        if not isinstance(value, list) or not all(isinstance(v, kind) for v in value) or not value:
            raise ConfigError(f"{name} in {where} is {value!r}; expected a list")
    if len(lists["frames"]) != 2:
        raise ConfigError(f"frames in {where} is {lists['frames']}; expected [LEAST, MOST]")
    try:
        check_views(lists["views"])
        for name in ("description", "without"):
            re.compile(texts.get(name, ""))
    except (ImageReadError, re.error) as error:
        raise ConfigError(f"{where}: {error}") from error
    arguments: dict[str, Any] = texts | {name: tuple(value) for name, value in lists.items()}
    return Rule(**arguments)


def read_instance(path: Path) -> Instance:
    """Return what the selection looks at.

    Raises
    ------
    ImageReadError
        If the file is not DICOM or damaged; what merely is no scintigram is told by `header.reason`.
    """
    with naming(path):
        elements = parse_start(path, _TAGS, frozenset()).elements
        descriptions = _descriptions(elements)
    return Instance(
        path=path,
        header=scan_header(path),
        modality=elements.text(T.MODALITY),
        sop_class=elements.text(T.SOP_CLASS),
        sop_instance=elements.text(T.SOP_INSTANCE),
        study=elements.text(T.STUDY),
        series=elements.text(T.SERIES),
        body_part=elements.text(T.BODY_PART).upper().replace(" ", ""),
        descriptions=descriptions,
        manufacturer=elements.text(_MANUFACTURER),
    )


def _descriptions(elements: Elements) -> str:
    return "\n".join(elements.international_text(tag) for tag in _DESCRIPTIONS)


def read_instances(files: Sequence[Path]) -> tuple[list[Instance], list[str]]:
    """Return the DICOM instances among files, each once, and why other files are not among them."""
    found: dict[str, Instance] = {}
    reasons: Counter[str] = Counter()
    for path in sorted(files):
        try:
            instance = read_instance(path)
        except ImageReadError as error:
            reasons[bare_reason(str(error), path)] += 1
            continue
        first = found.setdefault(instance.sop_instance or str(path), instance)
        if not filecmp.cmp(first.path, path, shallow=False):
            reasons["another file with the same SOP Instance UID and other content was taken"] += 1
    return list(found.values()), [f"{count} files: {reason}" for reason, count in sorted(reasons.items())]


def select(instances: Sequence[Instance], rules: Sequence[Rule], bundles: Mapping[str, Any]) -> Selection:
    """Return the jobs that the rules make of instances for the bundles at hand, and why the others are not used."""
    taken: dict[Rule, list[Instance]] = {rule: [] for rule in rules}
    reasons: Counter[tuple[str, str]] = Counter()
    for instance in instances:
        reason = _refusal(instance)
        objections = {} if reason else {rule: rule.objection(instance) for rule in rules}
        rule = next((rule for rule, objection in objections.items() if not objection), None)
        if rule is not None and rule.bundle in bundles:
            taken[rule].append(instance)
            continue
        if rule is not None:
            reason = f"there is no bundle {rule.bundle} in the model folder"
        reason = reason or "; ".join(f"not for {rule.bundle}: {objection}" for rule, objection in objections.items())
        reasons[pseudonym(instance.series), reason] += 1
    jobs = [Job(rule, group) for rule, members in taken.items() for group in _groups(rule, members)]
    return Selection(
        tuple(jobs), tuple(f"series {series}, {count} files: {reason}" for (series, reason), count in reasons.items())
    )


def _refusal(instance: Instance) -> str:
    """Return why an instance is not for any bundle."""
    if instance.manufacturer == MANUFACTURER and instance.modality in RESULTS:
        return "it is a result of scintikit itself"
    if not (instance.sop_instance and instance.study and instance.series):
        return "it does not state its SOP Instance, Series or Study Instance UID"
    return "" if instance.header.usable else bare_reason(instance.header.reason, instance.path)


def _groups(rule: Rule, members: Sequence[Instance]) -> list[tuple[Instance, ...]]:
    """Put files of one view each together where the bundle reads several views."""
    if len(rule.views) == 1:
        return [(instance,) for instance in members]
    pictures = {
        Picture(
            str(instance.path),
            uid=instance.sop_instance,
            patient=instance.header.patient_id,
            study=instance.study,
            series=instance.series,
            view=instance.header.lone_view,
            image_type=instance.header.image_type,
        ): instance
        for instance in members
    }
    return [tuple(pictures[picture] for picture in group) for group in group_views(list(pictures))]
