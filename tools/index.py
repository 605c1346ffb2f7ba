"""Make a dataset from a folder of files as they come from the cameras."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fire.decorators import SetParseFns

from scintikit.data import IndexResult, index_folder, load_dataset
from scintikit.data.pseudonyms import read_key
from scintikit.data.tree import printable
from scintikit.files import write_json

EXAMPLES = 5


@SetParseFns(tree=str, output=str, labels=str, patient_pattern=str, key_file=str, report=str)
def index(
    tree: str,
    output: str,
    labels: str | None = None,
    external: str | Sequence[str] = (),
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    classes: str | Sequence[str] = (),
    multi_label: bool = False,
    negative: str | Sequence[str] = (),
    patient_pattern: str | None = None,
    pair_views: bool = False,
    assumed_spacing_mm: float | None = None,
    key_file: str | None = None,
    report: str | None = None,
    workers: int | None = None,
) -> None:
    """Make a dataset from a folder of NM DICOM files and a CSV table of labels, or from class folders of PNG or JPEG.

    Prints what was taken, and what was refused and why. Exit code 1 if nothing was usable. See docs/dataset.md.

    Parameters
    ----------
    tree : str
        Folder of any shape.
    output : str
        New folder for the dataset, outside the tree.
    labels : str, optional
        CSV table: a column file, SOPInstanceUID or patient; label; if wanted centre, mask, prompt.
    external : str
        Centres that serve as test only, as in F,H,I.
    validation, test : float
        Shares of the patients; test counts only where no centre is external.
    seed : int
        Decides which patient goes where.
    classes : str
        Class names in their order, as in 'diffuse goiter,nodular goiter'. Default: in alphabetical order.
    multi_label : bool
        Labels are several classes separated by a vertical bar, or none.
    negative : str
        Labels that mean none of the classes, as in 'normal'; with --multi_label.
    patient_pattern : str, optional
        Regular expression that finds the patient in the path of a PNG, JPEG or NIfTI file.
    pair_views : bool
        Anterior and posterior views of a study in two files become one picture of two views.
    assumed_spacing_mm : float, optional
        Pixel spacing of files that do not state it.
    key_file : str, optional
        Secret key for the pseudonyms; made on first use. Default: in SCINTIKIT_HOME.
    report : str, optional
        JSON file to write the counts to.
    workers : int, optional
        Processes; default one for each CPU.
    """
    result = index_folder(
        tree,
        output,
        labels=labels,
        external=_names(external),
        validation=validation,
        test=test,
        seed=seed,
        classes=_names(classes),
        multi_label=multi_label,
        negative=_names(negative),
        patient_pattern=patient_pattern,
        pair_views=pair_views,
        assumed_spacing_mm=assumed_spacing_mm,
        key=read_key(key_file),
        workers=workers,
    )
    _print(result)
    if report:
        dataset = {"sha256": load_dataset(result.folder).sha256} if result.folder else None
        write_json(report, {"dataset": dataset} | result.report())
    if result.folder is None:
        print("error: nothing was usable, so there is no dataset", file=sys.stderr)
        sys.exit(1)


def _names(value: str | Sequence[str]) -> list[str]:
    """Return names that Fire hands over as text, as one number or as a tuple."""
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def _print(result: IndexResult) -> None:
    if result.taken:
        width = max(map(len, result.classes)) + 2
        print(f"{'taken':<12}" + "".join(f"{name:>{width}}" for name in result.classes))
        for split, found in result.taken.items():
            print(f"{split:<12}" + "".join(f"{count:>{width},}" for count in found.values()))
        centres = ", ".join(f"{name} {count:,}" for name, count in result.centres.items())
        print(f"{result.patients:,} patients; centres: {centres}")
    for reason, paths in sorted(result.refused.items(), key=lambda pair: -len(pair[1])):
        print(f"refused {len(paths):,}: {reason}\n    {_some(paths)}")
    if result.unmatched:
        print(f"{len(result.unmatched):,} rows belong to no usable file: {_some(result.unmatched)}")
    for note in result.notes:
        print(f"note: {note}")
    if result.folder:
        print(f"dataset: {result.folder}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:EXAMPLES])) + (", ..." if len(names) > EXAMPLES else "")
