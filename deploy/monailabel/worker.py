"""Runs bundles for MONAI Label, in scintikit's own environment: a line of JSON asks, a line of JSON answers.

It ends when its input does, so it never outlives the server.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.monailabel.bridge import OPTIONS
from scintikit.data import find_images
from scintikit.data.tree import printable
from scintikit.errors import ConfigError, DatasetError, ScintikitError
from tools.run import run


def answer(bundle: str, image: str, ckpt_dir: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what inference writes of an image, `{"image": ..., "probabilities": ..., "notice": ...}`.

    Parameters
    ----------
    bundle
        Folder of a classifier's bundle.
    image
        File, or folder with the two views of one study.
    ckpt_dir
        Folder of `model.pt` and `calibration.pt`.
    options
        Items of the bundle's config among `OPTIONS`, as a client sent them.

    Returns
    -------
    dict
        With the reason under `error`, and no prediction, if there is none.
    """
    with TemporaryDirectory() as folder:
        try:
            check(image, options)
            run(bundle, "inference", dataset_dir=image, ckpt_dir=ckpt_dir, output_dir=folder, **options)
        except ScintikitError as error:
            reason = str(error)
        else:
            reason = f"{image} holds two studies; ask for one at a time"
        contents = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder, "images").rglob("*.json")]
    # An unreadable image has a file of its own, which says why.
    content = contents[0] if len(contents) == 1 else {"error": reason}
    if "error" in content:  # a client need not know the server's folders
        for path in (image, printable(image)):
            content["error"] = content["error"].replace(path, Path(image).name)
    return content


def check(image: str, options: dict[str, Any]) -> None:
    """Refuse a folder of more than a study, and options that must not reach a config.

    Raises
    ------
    DatasetError
        If there are more than two pictures, or none.
    ConfigError
        If clients may not set an option, or it is neither a number nor a word: MONAI evaluates a text that begins
        with `$` as Python.
    """
    pictures = len(find_images(image))
    if pictures > 2:
        raise DatasetError(f"{image} holds {pictures} pictures; ask for one study at a time")
    for name, value in options.items():
        if name not in OPTIONS:
            raise ConfigError(f"unknown option {name!r}; known are {', '.join(OPTIONS)}")
        if not (isinstance(value, int | float) or (isinstance(value, str) and value.isidentifier())):
            raise ConfigError(f"{name} is {value!r}; expected a number or a word")


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
