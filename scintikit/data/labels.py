"""The table that gives files their labels, and how its rows find their pictures."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scintikit.data.contract import NORMAL
from scintikit.data.tree import Picture, printable
from scintikit.errors import DatasetError

#: Columns that say which picture a row is about; of those filled in, the first counts.
KEYS = ("file", "sopinstanceuid", "patient")
COLUMNS = (*KEYS, "label", "centre", "mask", "prompt")


@dataclass(frozen=True)
class Row:
    """What a row of the table, or a class folder, says of one picture or all of a patient's."""

    where: str
    label: str
    file: str = ""
    sopinstanceuid: str = ""
    patient: str = ""
    centre: str = ""
    mask: str = ""
    prompt: str = ""

    def __repr__(self) -> str:
        """Show the place only: the other fields may identify a patient."""
        return f"Row({self.where!r})"

    def says_the_same(self, other: Row) -> bool:
        """Whether both rows would make the same item of a picture."""
        patients = {self.patient, other.patient} - {""}
        same = (getattr(self, name) == getattr(other, name) for name in ("label", "centre", "mask", "prompt"))
        return len(patients) < 2 and all(same)


def read_labels(path: str | os.PathLike[str]) -> list[Row]:
    """Read a CSV table (comma, semicolon or tab; UTF-8) whose first row names the columns.

    Columns, in any order and case: at least one of `file` (path in the tree, or a file name that occurs once in it),
    `SOPInstanceUID`, `patient` (PatientID); `label`; and if wanted `centre`, `mask` (path in the tree), `prompt`.

    Raises
    ------
    DatasetError
        If the table cannot be read, a needed column is missing or there twice, or a row names no picture.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DatasetError(f"{path} cannot be read: {reason}; give a CSV table saved as UTF-8") from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    records = _strict(reader, path)
    columns = [_column(name) for name in next(records, [])]
    if "label" not in columns or not set(KEYS) & set(columns):
        raise DatasetError(f"{path}: its first row must name a column `label` and one of file, SOPInstanceUID, patient")
    twice = sorted(name for name in COLUMNS if columns.count(name) > 1)
    if twice:
        raise DatasetError(f"{path}: its first row names the column {twice[0]!r} twice; delete one of them")
    rows = []
    for values in records:
        if not any(map(str.strip, values)):
            continue
        where = f"row {reader.line_num} of {path.name}"
        if len(values) != len(columns):
            raise DatasetError(
                f"{where} has {len(values)} columns, the first row {len(columns)}; quote texts with commas"
            )
        fields = dict(zip(columns, map(_composed, values), strict=True))
        row = Row(where, **{name: fields[name] for name in COLUMNS if name in fields})
        if not any(getattr(row, key) for key in KEYS):
            raise DatasetError(f"{row.where} names no file, SOPInstanceUID or patient; fill one in or delete the row")
        rows.append(row)
    return rows


def _strict(reader: Iterable[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise DatasetError(f"{path} is not a proper CSV table: {error}; save it again as CSV (UTF-8)") from None


def _composed(text: str) -> str:
    """Return text without spaces at its ends and with composed accents, which macOS takes apart in file names."""
    return unicodedata.normalize("NFC", text).strip()


def _column(name: str) -> str:
    name = re.sub("[^a-z]", "", name.casefold())
    return {"center": "centre", "patientid": "patient", "filename": "file"}.get(name, name)


def match_rows(rows: Sequence[Row], pictures: Sequence[Picture]) -> tuple[dict[Picture, Row], list[Row]]:
    """Find every row's pictures; return the row of each picture found, and the rows that have none.

    Raises
    ------
    DatasetError
        If a row's file name occurs several times in the tree or rows contradict each other.
    """
    found = _Lookup(pictures)
    row_of: dict[Picture, Row] = {}
    unmatched = []
    for row in rows:
        matches = found.of(row)
        if not matches:
            unmatched.append(row)
        for picture in matches:
            other = row_of.setdefault(picture, row)
            if not other.says_the_same(row):
                raise DatasetError(f"{row.where} contradicts {other.where} about the same picture; correct one of them")
    return row_of, unmatched


class _Lookup:
    """Pictures by each thing that a row can name."""

    def __init__(self, pictures: Iterable[Picture]) -> None:
        self._by: dict[str, dict[str, list[Picture]]] = {name: {} for name in ("path", "name", "uid", "patient")}
        for picture in pictures:
            path = _composed(picture.relative)
            keys = {"path": path, "name": PurePosixPath(path).name, "uid": picture.uid, "patient": picture.patient}
            for kind, value in keys.items():
                self._by[kind].setdefault(value, []).append(picture)

    def of(self, row: Row) -> list[Picture]:
        if row.file:
            path = row.file.replace("\\", "/").removeprefix("./")
            matches = self._by["path"].get(path) or self._by["name"].get(path, [])
            if len(matches) > 1:
                raise DatasetError(
                    f"{row.where}: {len(matches)} files have the name {path!r}; write its path from the tree's top"
                )
            return matches
        if row.sopinstanceuid:
            return self._by["uid"].get(row.sopinstanceuid, [])
        return self._by["patient"].get(row.patient, [])


def number_labels(
    rows: Sequence[Row], classes: Sequence[str] = (), *, multi_label: bool = False, negative: Sequence[str] = ()
) -> tuple[list[str], dict[str, int | list[int]]]:
    """Return the class names and, for each label as written, its number or its list of 0/1.

    Labels are class names (case and the number of spaces do not matter) or, if `classes` says which is which and none
    of those names is a number itself, class numbers from 0. With `multi_label` they are several separated by `|`, or
    nothing or one of `negative` for none. Without `classes` the names found are taken, in alphabetical order.

    Raises
    ------
    DatasetError
        If a label is missing, unknown or a number without a meaning; the message names the row. If `classes` names
        one twice, or there is a `negative` without `multi_label`, or with it a class called `normal`.
    """
    if negative and not multi_label:
        raise DatasetError("a label that means none of the classes makes sense with --multi_label only; give that too")
    parts = {row.label: _parts(row, multi_label, {_class_name(name).casefold() for name in negative}) for row in rows}
    names = _checked([_class_name(name) for name in classes]) or _names_found(rows, parts)
    number_of = {name.casefold(): number for number, name in enumerate(names)}
    if multi_label and NORMAL in number_of:
        raise DatasetError(
            f"with --multi_label {NORMAL!r} is no class but the absence of all of them; give --negative {NORMAL}, and "
            "leave it out of --classes"
        )
    if not any(name.isdecimal() for name in names):
        number_of |= {str(number): number for number in range(len(names))}
    labels: dict[str, int | list[int]] = {}
    for row in rows:
        unknown = [part for part in parts[row.label] if part.casefold() not in number_of]
        if unknown:
            known = ", ".join(f"{number} {name!r}" for number, name in enumerate(names))
            raise DatasetError(f"{row.where} has the unknown label {unknown[0]!r}; known are {known}")
        numbers = {number_of[part.casefold()] for part in parts[row.label]}
        labels[row.label] = [int(n in numbers) for n in range(len(names))] if multi_label else numbers.pop()
    return names, labels


def _parts(row: Row, multi_label: bool, negative: set[str]) -> list[str]:
    if multi_label:
        return [name for name in map(_class_name, row.label.split("|")) if name.casefold() not in {"", *negative}]
    if not row.label:
        raise DatasetError(f"{row.where} has no label; fill it in or delete the row")
    if "|" in row.label:
        raise DatasetError(f"{row.where} has several labels separated by |; give --multi_label if that is meant")
    return [_class_name(row.label)]


def _class_name(text: str) -> str:
    """Return a name of a class with single spaces, so that two ways of typing it do not make two classes."""
    return printable(" ".join(_composed(text).split()))


def _checked(names: list[str]) -> list[str]:
    folded = [name.casefold() for name in names]
    if "" in folded or len(set(folded)) < len(folded):
        raise DatasetError(f"the classes are {names}; give each its own name, different in more than upper case")
    return names


def _names_found(rows: Sequence[Row], parts: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names among the labels, each as it is first spelled."""
    names: dict[str, str] = {}
    for row in rows:
        for part in parts[row.label]:
            if part.isdecimal():
                raise DatasetError(
                    f"{row.where} has the number {part} as label; "
                    "name the classes in their order with --classes 'NAME 0,NAME 1,...'"
                )
            names.setdefault(part.casefold(), part)
    if not names:
        raise DatasetError("no row has a label; name the classes with --classes 'NAME 0,NAME 1,...'")
    return [names[folded] for folded in sorted(names)]
