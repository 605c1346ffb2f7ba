"""One self-contained HTML file that shows pictures first."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from matplotlib.figure import Figure

from scintikit.errors import ReportError
from scintikit.files import write_atomic
from scintikit.reporting.figures import figure_png, figure_svg

WARNING = "Simulated data. Research use only; not a medical device."
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """A figure of a report: a matplotlib figure, a PNG file or its bytes."""

    caption: str
    image: Figure | bytes | str | os.PathLike[str]
    alt: str = ""  # what a reader who cannot see the picture should know; the caption if empty
    wide: bool = False  # the whole width of the page instead of half of it


class Cell(NamedTuple):
    """A cell of a table with small print, such as the interval."""

    text: str
    detail: str = ""
    strong: bool = False


class Table(NamedTuple):
    """A table of a report; the first column heads its row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    subtitle: str = "",
    lead: Sequence[str] = (),
    headline: Sequence[tuple[str, ...]] = (),
    figures: Sequence[tuple[Any, ...]] = (),
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
    texts: Mapping[str, Sequence[str]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    warning: str = WARNING,
) -> Path:
    """Write a report that needs no other file and no network: pictures and style are inside.

    Parameters
    ----------
    path : path
        The HTML file; it is written whole or not at all.
    title, subtitle : str
    lead : sequence of str
        What was found, in sentences; the first is the largest.
    headline : sequence of (name, value) or (name, value, detail)
        The few numbers that matter; a detail is small print such as the interval.
    figures : sequence of Picture, pair or Table
        In the order of reading; a pair is a caption and an image, a table takes the whole width.
    tables : sequence of Table
        They follow the figures.
    notes : sequence of str
        How to read it: one sentence or two each.
    texts : mapping
        Paragraphs by their heading, such as the methods.
    provenance : mapping
        Dataset hash, checkpoint, code version and so on; what is nested is shown as JSON.
    warning : str
        Shown at the top.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ReportError
        A picture is not a PNG.
    """
    content = _template().render(
        title=title,
        subtitle=subtitle,
        warning=warning,
        lead=lead,
        headline=[(*entry, "")[:3] for entry in headline],
        shown=[(None, entry) if isinstance(entry, Table) else _embedded(Picture(*entry)) for entry in figures],
        tables=tables,
        notes=notes,
        texts=texts or {},
        provenance={name: _text(value) for name, value in (provenance or {}).items()},
    )
    write_atomic(path, content.encode())
    return Path(path)


def save_pictures(
    folder: str | os.PathLike[str], pictures: Mapping[str, Picture], *, svg: bool = False
) -> list[Picture]:
    """Write every picture as `folder`/<name>.png and return them in their order, as pictures of these files.

    With `svg`, what is a matplotlib figure is written as <name>.svg as well.
    """
    saved = []
    for name, picture in pictures.items():
        file = Path(folder) / f"{name}.png"
        write_atomic(file, picture_png(picture))
        if svg and isinstance(picture.image, Figure):
            write_atomic(file.with_suffix(".svg"), figure_svg(picture.image))
        saved.append(picture._replace(image=file))
    return saved


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("scintikit.reporting", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report_template.html")


def picture_png(picture: Picture) -> bytes:
    """Return the picture as PNG, or raise `ReportError` if it is something else."""
    if isinstance(picture.image, Figure):
        return figure_png(picture.image)
    data = picture.image if isinstance(picture.image, bytes) else Path(picture.image).read_bytes()
    if not data.startswith(PNG_SIGNATURE):
        raise ReportError(f"The picture {picture.caption!r} is not a PNG; expected a figure, a PNG file or its bytes.")
    return data


def _embedded(picture: Picture) -> tuple[str, Picture]:
    """Return the picture as text for the page, and its words."""
    return base64.b64encode(picture_png(picture)).decode(), picture


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
