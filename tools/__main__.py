"""One command line for everything around the bundles: `python -m tools VERB ...`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import fire

from scintikit.errors import ScintikitError, did_you_mean, find_cause

#: Verb to the module `tools.VERB`; each has a function of the same name. Imported only when asked for.
VERBS = {
    "run": "run a bundle: tools run thyroid_cls training --max_epochs 3",
    "simulate": "make a dataset of simulated scintigrams",
    "index": "make a dataset from a folder of DICOM files and a table of labels",
    "augment": "make a dataset of flipped, rotated, shifted and scaled copies",
    "compose": "merge datasets",
    "fidelity": "measure how close synthetic scintigrams come to real ones",
    "audit": "find synthetic scintigrams that are copies of training images",
    "gallery": "draw scintigrams of several datasets side by side",
    "study": "train on many sets of original and synthetic scintigrams, and tell which differences are real",
    "pack": "put a trained bundle into a zip that runs alone",
    "verify": "check a packed bundle, as the model zoo does and further",
    "demo": "simulate, train, evaluate, predict and generate in one go",
}


def main() -> None:
    """Run the verb that the command line names; errors raised on purpose end in one clear line and exit code 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m tools VERB [ARGUMENTS]     (VERB --help tells its arguments)\n")
        print("\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items()))
        return
    if arguments[0] == "run" and (len(arguments) < 3 or {"-h", "--help"} & set(arguments)):
        _explain_run()
        return
    try:
        fire.Fire(_checked(_function(arguments[0]), arguments[1:]), command=arguments[1:], name=f"tools {arguments[0]}")
    except Exception as error:
        cause = find_cause(error)
        if cause is None or os.environ.get("SCINTIKIT_DEBUG"):
            raise
        print(f"error: {cause}", file=sys.stderr)
        sys.exit(2)


def _explain_run() -> None:
    """Print how `run` is used and what there is to run; Fire would only list three names."""
    from tools.run import BUNDLES, overlays_of, tasks

    print("usage: python -m tools run BUNDLE TASK [--overlay NAME] [--OPTION VALUE ...]\n")
    for folder in sorted(path.parent.parent for path in BUNDLES.glob("*/configs/metadata.json")):
        print(f"  {folder.name:16} {', '.join(tasks(folder))}")
        print(f"  {'':16} overlays: {', '.join(overlays_of(folder))}")
    print("\nOptions are the items of the bundle's configs, such as --max_epochs 3; a wrong one lists them all.")


def _function(verb: str) -> Callable[..., Any]:
    if verb not in VERBS:
        raise ScintikitError(f"unknown verb {verb!r}{did_you_mean(verb, VERBS)}; known are {', '.join(VERBS)}")
    return getattr(importlib.import_module(f"tools.{verb}"), verb)


def _checked(function: Callable[..., Any], arguments: list[str]) -> Callable[..., Any]:
    """Refuse unknown flags before the function does anything; Fire would complain only afterwards."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return function
    for argument in arguments:
        name = argument.lstrip("-").split("=")[0].replace("-", "_")
        if argument.startswith("--") and name and name not in parameters and name not in ("help", "h"):
            hint = did_you_mean(name, parameters)
            raise ScintikitError(f"unknown option --{name}{hint}; known are {', '.join(parameters)}")
    return function


if __name__ == "__main__":
    main()
