"""Make a dataset from a tree of files as they come from the cameras.

Phase one reads headers only and finds each file's label; phase two writes a copy of every picture taken that holds
the counts and technical facts and nothing about the patient.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import scintikit
from scintikit.data.contract import Item
from scintikit.data.copying import Entry, copy_entry
from scintikit.data.labels import Row, match_rows, number_labels, read_labels
from scintikit.data.pairing import group_views
from scintikit.data.pseudonyms import pseudonym, read_key
from scintikit.data.splits import check_shares, classes_of, split_patients
from scintikit.data.tree import PICTURE_SUFFIXES, Picture, in_parallel, list_files, scan_tree
from scintikit.data.writer import DatasetWriter
from scintikit.errors import DatasetError


@dataclass
class IndexResult:
    """What `index_folder` took and what it refused.

    Attributes
    ----------
    folder : Path or None
        The dataset; None if nothing was usable.
    classes : list of str
        Class names by number.
    taken : dict
        For each split, how many pictures each class has.
    centres : dict
        How many pictures each centre has.
    patients : int
        How many patients there are.
    refused : dict
        For each reason, the paths (relative to the tree) of the files refused for it.
    unmatched : list of str
        Rows of the table that belong to no usable file.
    notes : list of str
        What deserves a look.
    """

    folder: Path | None = None
    classes: list[str] = field(default_factory=list)
    taken: dict[str, dict[str, int]] = field(default_factory=dict)
    centres: dict[str, int] = field(default_factory=dict)
    patients: int = 0
    refused: dict[str, list[str]] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return the result for a JSON file: counts, without the names of the user's files."""
        return {
            "taken": self.taken,
            "centres": self.centres,
            "patients": self.patients,
            "refused": {reason: len(paths) for reason, paths in self.refused.items()},
            "unmatched_rows": len(self.unmatched),
            "notes": self.notes,
        }

    def refuse(self, files: Iterable[tuple[str, str]]) -> None:
        """Note files (paths relative to the tree) with the reason why they are refused."""
        for relative, reason in files:
            self.refused.setdefault(reason, []).append(relative)


def index_folder(
    tree: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    external: Sequence[str] = (),
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    classes: Sequence[str] = (),
    multi_label: bool = False,
    negative: Sequence[str] = (),
    patient_pattern: str | None = None,
    pair_views: bool = False,
    assumed_spacing_mm: float | None = None,
    key: bytes | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> IndexResult:
    """Make a dataset from a tree of NM DICOM, NIfTI, PNG or JPEG files.

    Parameters
    ----------
    tree : path
        Folder of any shape.
    output : path
        New folder outside the tree. A run that was stopped goes on there.
    labels : path, optional
        CSV table, see `scintikit.data.labels.read_labels`. Without it the pictures (not DICOM) in the folders directly
        under the tree get the folder's name as class.
    external : sequence of str
        Centres that serve as test only. Without them a share of the patients does.
    validation : float
        Share of the patients, without those of test, for validation.
    test : float
        Share of the patients for test where there is no external centre.
    seed : int
        Decides which patient goes where.
    classes : sequence of str
        Class names in the order of their numbers. Default: those found, in alphabetical order.
    multi_label : bool
        Labels are several classes separated by `|`, or none.
    negative : sequence of str
        Labels that mean none of the classes, such as `normal`; with `multi_label`.
    patient_pattern : str, optional
        Regular expression for the path (from the tree's top) of NIfTI, PNG and JPEG files, whose first group, or else
        the whole match, is the patient, by which the table can name them too. Default: the table's column `patient`,
        or else each file (each pair with `pair_views`) is one patient.
    pair_views : bool
        Put the anterior and the posterior view of a study that lie in two files into one, as
        `scintikit.data.pairing` finds them. A row may name either file. A view without its partner stays alone.
    assumed_spacing_mm : float, optional
        Pixel spacing of files that do not state it. Without it such PNG and JPEG files keep theirs unknown and such
        DICOM and NIfTI files are refused.
    key : bytes, optional
        Secret for the pseudonyms; default `read_key()`.
    workers : int, optional
        Processes; default one for each CPU.
    progress : bool
        Show progress bars.

    Returns
    -------
    IndexResult
        With `folder` None if nothing was usable.

    Raises
    ------
    DatasetError
        If a folder, the table or an option is wrong.

    Notes
    -----
    The patient of a DICOM file is its PatientID, or the table's `patient` where the row names the file by another
    column. Its centre is the table's `centre`, or else a pseudonym of InstitutionName or StationName. Identifiers
    enter the dataset only as keyed hashes.
    """
    root, folder = _folders(tree, output)
    check_shares(validation, test, seed)
    key = key or read_key()
    result = IndexResult()
    files, left_out = list_files(root)
    result.refuse(left_out)
    rows, files = _listed(root, files, Path(labels).absolute()) if labels else _class_folders(files, result)
    pictures, refused = scan_tree(root, files, workers=workers, progress=progress)
    result.refuse(refused)
    pictures = [_with_patient(picture, patient_pattern) for picture in pictures]
    entries = _entries(_labelled(pictures, rows, pair_views, result), patient_pattern, key, result)
    if not entries:
        return result
    labelled = [entry.row for entry in entries]
    result.classes, number_of = number_labels(labelled, classes, multi_label=multi_label, negative=negative)
    external = _external(external, entries, key)
    test = 0.0 if external else test
    shares: dict[str, Any] = {"validation": validation, "test": test, "external": external, "seed": seed}
    fingerprint = _fingerprint(root, entries, (assumed_spacing_mm, pair_views), key)
    writer = _writer(folder, result.classes, {"input": fingerprint} | shares)
    copy = partial(copy_entry, root=root, writer=writer, assumed_spacing_mm=assumed_spacing_mm, named_views=pair_views)
    copied = in_parallel(copy, entries, "copying", workers, progress)
    items = list(_items(zip(entries, copied, strict=True), number_of, result))
    if items:
        items.sort(key=lambda item: item["image"])
        splits = split_patients(items, **shares)
        result.folder = writer.finish(**splits).parent
        _count(result, splits)
    return result


def _writer(folder: Path, classes: Sequence[str], recipe: dict[str, Any]) -> DatasetWriter:
    return DatasetWriter(
        folder,
        name=folder.name,
        description="Acquired scintigrams. Patients are pseudonyms and headers hold technical facts only.",
        labels=classes,
        licence="Not stated: ask whoever made this dataset.",
        recipe={"command": "index", "version": scintikit.__version__} | recipe,
    )


def _folders(tree: str | os.PathLike[str], output: str | os.PathLike[str]) -> tuple[Path, Path]:
    root, folder = Path(tree).expanduser().absolute(), Path(output).expanduser().absolute()
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; name the folder that holds the pictures")
    if folder.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{folder} lies in {root}; name an output folder outside the tree")
    return root, folder


def _listed(root: Path, files: Sequence[str], table: Path) -> tuple[list[Row], list[str]]:
    """Return the table's rows and the files that could be pictures: neither the table itself nor masks."""
    rows = read_labels(table)
    others = {table}
    for row in rows:
        if row.mask and not (root / row.mask).is_file():
            raise DatasetError(f"{row.where}: there is no such mask in {root}; write its path from the tree's top")
        others |= {root / row.mask} if row.mask else set()
    return rows, [name for name in files if root / name not in others]


def _class_folders(files: Sequence[str], result: IndexResult) -> tuple[list[Row], list[str]]:
    """Return a row for each picture that lies in a folder of the tree, which names its class."""
    rows = []
    for name in files:
        if not name.lower().endswith(PICTURE_SUFFIXES):
            result.refuse([(name, "without a table of labels only PNG, JPEG and NIfTI files are taken; give --labels")])
        elif "/" not in name:
            result.refuse([(name, "it lies in no class folder; put it in one or give --labels")])
        else:
            rows.append(Row(where=f"class folder {name.split('/')[0]!r}", label=name.split("/")[0], file=name))
    return rows, [row.file for row in rows]


def _labelled(
    pictures: Sequence[Picture], rows: Sequence[Row], pair_views: bool, result: IndexResult
) -> list[tuple[tuple[Picture, ...], Row]]:
    """Return the studies that have a row: single pictures or, with `pair_views`, both views of a study."""
    row_of, unmatched = match_rows(rows, pictures)
    result.unmatched = [row.where for row in unmatched]
    pictures = _without_copies(pictures, row_of, result)
    labelled = []
    for study in group_views(pictures) if pair_views else [(picture,) for picture in pictures]:
        found = [row_of[picture] for picture in study if picture in row_of]
        if not found:
            result.refuse((picture.relative, "no row of the table names it") for picture in study)
        elif len(study) > 2:
            reason = "its study has several pictures of one view, and nothing tells which two belong together"
            result.refuse((picture.relative, reason) for picture in study)
        elif not (found[0].says_the_same(found[-1]) and found[0].patient == found[-1].patient):
            raise DatasetError(f"{found[-1].where} contradicts {found[0].where} about the other view of its study")
        else:
            labelled.append((study, found[0]))
    return labelled


def _without_copies(pictures: Sequence[Picture], row_of: Mapping[Picture, Row], result: IndexResult) -> list[Picture]:
    """Return the pictures with each SOPInstanceUID once: the first that has a row, if any has."""
    first: dict[str, Picture] = {}
    kept = []
    for picture in sorted(pictures, key=lambda picture: picture not in row_of):
        before = first.setdefault(picture.uid or picture.relative, picture)
        if before is picture:
            kept.append(picture)
        elif picture not in row_of:
            result.refuse([(picture.relative, "no row of the table names it")])
        else:
            if not row_of[picture].says_the_same(row_of[before]):
                where = (row_of[picture].where, row_of[before].where)
                raise DatasetError(f"{where[0]} contradicts {where[1]} about a copy of its picture")
            result.refuse([(picture.relative, "it is a copy of a file taken (same SOPInstanceUID)")])
    return sorted(kept, key=lambda picture: picture.relative)


def _entries(
    labelled: Sequence[tuple[tuple[Picture, ...], Row]], pattern: str | None, key: bytes, result: IndexResult
) -> list[Entry]:
    """Give every study its pseudonyms; refuse those whose patient is not known."""
    numbers: Counter[str] = Counter()
    entries = []
    for study, row in labelled:
        picture = study[0]
        alone = pattern is None and picture.relative.lower().endswith(PICTURE_SUFFIXES)
        identifier = row.patient or picture.patient or (f"file {picture.relative}" if alone else "")
        if not identifier:
            reason = "its patient is not known; give a column `patient` or, for PNG, JPEG and NIfTI, --patient_pattern"
            result.refuse((picture.relative, reason) for picture in study)
            continue
        patient = "P" + pseudonym(key, "patient", identifier)
        centre = row.centre or (_centre(picture.institution, key) if picture.institution else "unknown")
        numbers[patient] += 1
        uid_seed = pseudonym(key, "picture", picture.uid or picture.relative)
        entries.append(Entry(study, row, patient, centre, f"{patient}_{numbers[patient]:02d}", uid_seed))
    return entries


def _with_patient(picture: Picture, pattern: str | None) -> Picture:
    """Return the picture with the patient that the pattern finds in its path, if its format has no field for one."""
    if pattern is None or not picture.relative.lower().endswith(PICTURE_SUFFIXES):
        return picture
    try:
        match = re.search(pattern, picture.relative)
    except re.error as error:
        raise DatasetError(f"the patient pattern {pattern!r} is not a regular expression: {error}") from error
    found = (match[1] if match.re.groups else match[0]) if match else ""
    return replace(picture, patient=found or "")


def _centre(institution: str, key: bytes) -> str:
    return "C" + pseudonym(key, "centre", institution)[:8]


def _external(external: Sequence[str], entries: Sequence[Entry], key: bytes) -> list[str]:
    """Return the names that the external centres have in the dataset; an institution may be given by its own name."""
    centres = {entry.centre for entry in entries}
    names = [name if name in centres else _centre(name, key) for name in external]
    for given, name in zip(external, names, strict=True):
        if name not in centres:
            raise DatasetError(
                f"no picture comes from the external centre {given!r}; there are {sorted(centres)}. Give one of "
                "these, or the institution's name as it stands in the files"
            )
    return sorted(names)


def _fingerprint(root: Path, entries: Sequence[Entry], options: tuple[Any, ...], key: bytes) -> str:
    """Return a keyed hash of all input: it tells whether a run may go on, and nothing else."""
    facts: list[Any] = [options]
    for entry in entries:
        row = entry.row
        for picture in entry.pictures:
            size = (root / picture.relative).stat().st_size
            facts.append((picture.relative, size, entry.name, entry.centre, row.label, row.mask, row.prompt))
    return pseudonym(key, "input", repr(facts))


def _items(
    copied: Iterable[tuple[Entry, dict[str, str] | str]], number_of: Mapping[str, int | list[int]], result: IndexResult
) -> Iterator[Item]:
    """Yield the items of what was copied; refuse what could not be."""
    for entry, files in copied:
        if isinstance(files, str):
            result.refuse((picture.relative, files) for picture in entry.pictures)
            continue
        prompt = {"prompt": entry.row.prompt} if entry.row.prompt else {}
        label = number_of[entry.row.label]
        item = {"label": label, "patient": entry.patient, "centre": entry.centre, "origin": {"kind": "acquired"}}
        yield files | prompt | item


def _count(result: IndexResult, splits: dict[str, list[Item]]) -> None:
    items = [item for part in splits.values() for item in part]
    for split, part in splits.items():
        found = Counter(number for item in part for number in classes_of(item))
        result.taken[split] = {name: found[number] for number, name in enumerate(result.classes)}
    result.centres = dict(sorted(Counter(item["centre"] for item in items).items()))
    result.patients = len({item["patient"] for item in items})
    for split, counts in result.taken.items():
        missing = [name for name, count in counts.items() if not count]
        if missing:
            result.notes.append(f"{split} has no picture of {', '.join(missing)}")
    pairs = {(item["patient"], item["centre"]) for item in items}
    shared = sum(count > 1 for count in Counter(patient for patient, _ in pairs).values())
    if shared:
        result.notes.append(
            f"{shared} patients occur at several centres and count as one each; if centres merely use the same "
            "numbers for different people, give a column `patient` that tells them apart"
        )
