"""Every error that scintikit raises on purpose.

A message says what was wrong, in which file or item, what was expected and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScintikitError(Exception):
    """Base of all errors that scintikit raises on purpose."""


class ImageReadError(ScintikitError, ValueError):
    """A picture cannot be read properly; the message names the file and the reason."""


class ImageWriteError(ScintikitError, ValueError):
    """A picture cannot be written as asked; the message names the file and the reason."""


class MissingDecoderError(ImageReadError):
    """The pixel data is compressed in a way that needs an optional decoder; the message names the package."""


class DatasetError(ScintikitError, ValueError):
    """A dataset folder breaks the contract; the message names the item and the rule."""


class ConfigError(ScintikitError, ValueError):
    """A bundle configuration or an override is wrong; the message names the id."""


class MetricError(ScintikitError, ValueError):
    """Numbers that are to be measured are unusable; the message says which and why."""


class ReportError(ScintikitError, ValueError):
    """The input of a report is unusable; the message says what was expected."""


class PackageError(ScintikitError, ValueError):
    """A bundle cannot be packed, or a package must not be used; the message names the file and the rule."""


class MissingExtraError(ScintikitError, ImportError):
    """An optional dependency is needed; the message names the extra to install."""


def find_cause(error: BaseException | None) -> ScintikitError | None:
    """Return the ScintikitError in a chain of exceptions, or None; MONAI wraps what a component raises."""
    while error is not None and not isinstance(error, ScintikitError):
        error = error.__cause__ or error.__context__
    return error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'NAME'?" with the known name nearest to a mistyped one, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
