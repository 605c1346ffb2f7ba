"""Scenarios of training data, written as expressions: `O+CA+FM(500)`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from scintikit.errors import ConfigError, did_you_mean

ORIGINAL = "O"
AUDITED = "audited"
_TERM = re.compile(r"(?P<source>\w+)(\((?P<option>\w+)\))?")


@dataclass(frozen=True)
class Term:
    """One source of training scintigrams in a scenario.

    Attributes
    ----------
    source
        `O`, the original data, or the name of a source in the study file.
    per_class
        At most so many scintigrams of each class; None: as many as the study says.
    audited
        Without those that the audit flags as copies.
    """

    source: str
    per_class: int | None = None
    audited: bool = False

    def __str__(self) -> str:
        """Return the term as it is written."""
        option = AUDITED if self.audited else self.per_class
        return self.source if option is None else f"{self.source}({option})"


@dataclass(frozen=True)
class Scenario:
    """What a classifier is trained on, one training set after the other.

    Attributes
    ----------
    name
        The expression.
    stages
        The terms of each stage; of all but one scenarios, `FM>O` for instance, there is one.
    """

    name: str
    stages: tuple[tuple[Term, ...], ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms of all stages."""
        return tuple(term for stage in self.stages for term in stage)


def parse(expression: str, sources: Collection[str]) -> Scenario:
    """Read a scenario.

    Parameters
    ----------
    expression
        Terms joined by `+`, stages by `>` (trained on one after the other, each on its share of the steps). A term is
        `O` or a source, with a number of scintigrams per class, `FM(500)`, or without copies, `FM(audited)`.
    sources
        Names that may stand beside `O`.

    Raises
    ------
    ConfigError
        If the expression cannot be read or names an unknown source.
    """
    name = re.sub(r"\s", "", expression)
    stages = tuple(tuple(_term(text, expression, sources) for text in stage.split("+")) for stage in name.split(">"))
    for stage in stages:
        if len({term.source for term in stage}) < len(stage):
            raise ConfigError(f"scenario {expression!r} names a source twice; expected each once in a stage")
    return Scenario(name, stages)


def _term(text: str, expression: str, sources: Collection[str]) -> Term:
    match = _TERM.fullmatch(text)
    known = (ORIGINAL, *sources)
    if match is None:
        raise ConfigError(
            f"scenario {expression!r}: {text!r} is no source; expected for instance {ORIGINAL}+FM, FM(500), "
            "FM(audited) or FM>O"
        )
    source, option = match["source"], match["option"]
    if source not in known:
        raise ConfigError(
            f"scenario {expression!r}: there is no source {source!r}{did_you_mean(source, known)}; known are "
            f"{', '.join(known)}"
        )
    if option is None:
        return Term(source)
    if source == ORIGINAL:
        raise ConfigError(f"scenario {expression!r}: {ORIGINAL} is always whole; expected it without {option!r}")
    if option == AUDITED:
        return Term(source, audited=True)
    if not option.isdecimal() or int(option) < 1:
        raise ConfigError(
            f"scenario {expression!r}: {option!r} of {source} is neither a number of scintigrams per class nor "
            f"{AUDITED!r}"
        )
    return Term(source, per_class=int(option))
