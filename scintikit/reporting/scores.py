"""Scores as a reader wants them: estimates with intervals as text, and which test images to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

EN_DASH = "\u2013"


def interval_text(entry: Mapping[str, Any], digits: int = 2) -> str:
    """Return the value with its interval in brackets if there is one, or "n/a" if it could not be measured."""
    if entry["value"] is None:
        return "n/a"
    return f"{entry['value']:.{digits}f}" + (f" ({interval_range(entry, digits)})" if entry["low"] is not None else "")


def interval_range(entry: Mapping[str, Any], digits: int = 2) -> str:
    """Return the interval without its value, "" if there is none."""
    return "" if entry["low"] is None else f"{entry['low']:.{digits}f}{EN_DASH}{entry['high']:.{digits}f}"


def headline(entries: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return name, value and interval of each estimate, for the top of a report."""
    return [(name, interval_text({**entry, "low": None}), interval_range(entry)) for name, entry in entries.items()]


def counted(metrics: Mapping[str, Any]) -> str:
    """Return how much was measured, such as "90 images of 45 patients from 1 centre"."""
    numbers = {"image": metrics["n"], "patient": metrics["patients"], "centre": len(metrics["per_centre"])}
    images, patients, centres = (f"{count} {what}{'' if count == 1 else 's'}" for what, count in numbers.items())
    return f"{images} of {patients} from {centres}"


def how_measured(how: Mapping[str, Any]) -> str:
    """Return the note about intervals from the metrics' section of this name."""
    return f"In brackets: {how['level']:.0%} intervals, {how['method']}, {how['resamples']} resamples."


def spread(members: np.ndarray, score: np.ndarray, count: int = 6) -> np.ndarray:
    """Return up to `count` members spread evenly from the highest to the lowest score."""
    ordered = members[np.argsort(-score[members], kind="stable")]
    return ordered[np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))]
