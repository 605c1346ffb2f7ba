"""Write a dataset so that a run killed at any moment can be run again and ends in the same bytes."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scintikit.data.contract import FILE_NAME, Item, check
from scintikit.errors import DatasetError
from scintikit.files import write_json

RECIPE_NAME = "recipe.json"


class DatasetWriter:
    """Fill a folder with a dataset: files first, `dataset.json` last.

    The folder gets a `recipe.json` before anything else; it tells a later run whether it may go on here. Write the
    files themselves atomically (`scintikit.files.write_atomic`, `scintikit.dicom.write_scintigram`), so that a file
    that is there is whole. One run at a time may fill a folder, with as many workers as it likes, unless `shared`.

    Parameters
    ----------
    folder : path
        Where to write: absent, empty, begun by the same recipe, or by another one that has not written a file.
    name, description, licence, modality : str
        As in `dataset.json`.
    labels : sequence of str
        Class names in the order of their numbers.
    recipe : dict
        JSON-able; everything that decides the dataset's bytes (settings, seed, version of the code).
    shared : bool
        Other runs may be filling the folder now: leave their temporary files alone. Call `tidy` when it is complete.

    Raises
    ------
    DatasetError
        If the folder holds anything else than an unfinished or finished dataset of this recipe.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str,
        description: str,
        labels: Sequence[str],
        licence: str,
        recipe: Mapping[str, Any],
        modality: str = "NM",
        shared: bool = False,
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self._header = {
            "name": name,
            "description": description,
            "labels": {str(number): label for number, label in enumerate(labels)},
            "modality": modality,
            "licence": licence,
            "recipe": dict(recipe),
        }
        self._begin(shared)
        if not shared:
            self.tidy()

    @property
    def complete(self) -> bool:
        """Whether the dataset is finished, so that there is nothing to do."""
        return (self.folder / FILE_NAME).is_file()

    def has(self, relative: str) -> bool:
        """Whether a file (path relative to the folder) is there already."""
        return (self.folder / relative).is_file()

    def tidy(self) -> None:
        """Remove what killed runs were writing, under the names that write_atomic gives."""
        for folder, _, names in os.walk(self.folder):  # rglob fails where another run removes a folder meanwhile
            for name in fnmatch.filter(names, ".*.tmp"):
                Path(folder, name).unlink(missing_ok=True)

    def finish(
        self,
        *,
        training: Iterable[Item],
        validation: Iterable[Item] = (),
        test: Iterable[Item] = (),
        report: Any = None,
    ) -> Path:
        """Check all rules of the contract and write `dataset.json`; a dict of what was counted becomes its `report`.

        Returns
        -------
        Path
            Of `dataset.json`.

        Raises
        ------
        DatasetError
            If the items or their files break the contract; nothing is written then.
        """
        content = self._header | {"training": list(training), "validation": list(validation), "test": list(test)}
        if report is not None:
            content["report"] = report
        check(self.folder, content)
        write_json(self.folder / FILE_NAME, content)
        return self.folder / FILE_NAME

    def _begin(self, shared: bool) -> None:
        """Claim the folder for this recipe, or make sure that it was claimed for it before.

        A claim with nothing behind it, of a run that was refused before its first file, gives way to a new one; not in
        a shared folder, where it may be that of a run that is about to write.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise DatasetError(f"{self.folder} is a file; name a folder for the dataset")
        claim = self.folder / RECIPE_NAME
        untouched = not self.folder.is_dir() or all(_may_be_claim(path) for path in self.folder.iterdir())
        if claim.is_file() and (shared or not untouched):
            if _read(claim) != json.loads(json.dumps(self._header)):
                raise DatasetError(
                    f"{self.folder} holds a dataset made with other settings or another version of the code "
                    f"(see its {RECIPE_NAME}); name another folder, or delete this one"
                )
        elif not untouched:
            raise DatasetError(
                f"{self.folder} is not empty and was not begun by this command; name a new folder for the dataset"
            )
        else:
            write_json(claim, self._header)


def _may_be_claim(path: Path) -> bool:
    """Whether it is a recipe, perhaps unfinished: another run may be claiming the folder at this moment."""
    return path.name == RECIPE_NAME or path.match(f".{RECIPE_NAME}.*.tmp")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
