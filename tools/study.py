"""Train one classifier on many sets of scintigrams, and tell which differences are real."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from fire.parser import DefaultParseValue

from scintikit.data import load_datalist
from scintikit.errors import ConfigError, ScintikitError, did_you_mean
from scintikit.study import (
    Executor,
    Given,
    LocalExecutor,
    Made,
    Outcome,
    Plan,
    Progress,
    RayExecutor,
    Work,
    collect,
    load_study,
    make_plan,
    read_status,
    reading_options,
    run_all,
    write_plan,
)
from scintikit.study.work import in_order
from tools.augment import augment
from tools.pictures import check_pictures, classifier
from tools.run import check_run

STATUS = "status"


def study(
    file: str,
    folder: str | None = None,
    *,
    profile: str | None = None,
    output: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> None:
    """Run a study, or go on with it: `tools study bundles/thyroid_cls/study.yaml --profile quick --output S`.

    `tools study status S` tells what is done, running, failed and left, at any time.

    Parameters
    ----------
    file : str
        Study file, see docs/study.md; or `status`.
    folder : str, optional
        With `status`: the folder of the study.
    profile : str, optional
        Entry of the file's `profiles`.
    output : str
        Folder of all work, results and the report. What is done there already is used again.
    workers : int, optional
        Pieces of work at once; default: as many as processors and memory allow.
    address : str, optional
        Of a Ray cluster (`auto`: the one this machine belongs to; `local`: one is started here). Default: without Ray.

    Raises
    ------
    ConfigError
        If the file, an option or the folder is wrong.
    ScintikitError
        If pieces of work failed; everything else is done and reported.
    """
    if file == STATUS:
        if folder is None:
            raise ConfigError("`study status` needs the folder of the study: tools study status S")
        show_status(Path(folder).expanduser())
        return
    if folder is not None or output is None:
        raise ConfigError("expected: tools study FILE --output S, or: tools study status S")
    root = Path(output).expanduser().resolve()
    plan = make_plan(load_study(file, profile))
    check_commands([*plan.preparing, *plan.testing])
    check_test(plan)
    try:
        write_plan([*plan.preparing, *plan.testing], root)
        executor = LocalExecutor(workers) if address is None else RayExecutor(address, workers)
        failed = run_plan(plan, root, executor)
        results = collect(plan, root, failed, command=_command(file, profile))
    except KeyboardInterrupt:
        raise ScintikitError("stopped; the same command goes on") from None
    except OSError as error:
        raise ScintikitError(
            f"the study stopped: {error}. If {root} is meant, make room there or name another folder; the same command "
            "goes on"
        ) from error
    print(f"\n{results.sentences}\n\nreport: {results.report}")
    if failed:
        raise ScintikitError(
            f"{len(failed)} pieces of work failed or could not be begun, see the report or `study status`; "
            "the same command tries them again"
        )


def _command(file: str, profile: str | None) -> str:
    """Return what makes this study, without where it was made: that is nobody's business."""
    path = Path(file)
    name = path.name if path.is_absolute() else path.as_posix()
    return f"python -m tools study {name}{f' --profile {profile}' if profile else ''} --output S"


def check_commands(works: Sequence[Work]) -> None:
    """Find misspelt tasks, overlays and options before the first piece is begun, not hours later.

    Raises
    ------
    ConfigError
        Names the piece of work.
    """
    for work in in_order(works):
        for command in work.commands:
            verb, *arguments = command.arguments
            try:
                if verb == "run":
                    _check_run(["PATH" if isinstance(a, (Given, Made)) else str(a) for a in arguments])
                elif verb == "augment":
                    _check_augment([a[2:] for a in arguments if isinstance(a, str) and a.startswith("--")])
            except ConfigError as error:
                raise ConfigError(f"{work.kind} {work.name}: {error}") from error


def _check_run(words: Sequence[str]) -> None:
    bundle, task, *rest = words
    pairs = [(name.removeprefix("--"), value) for name, value in zip(rest[::2], rest[1::2], strict=True)]
    overlays = tuple(value for name, value in pairs if name == "overlay")
    check_run(bundle, task, overlays, {name: DefaultParseValue(value) for name, value in pairs if name != "overlay"})


def _check_augment(names: Sequence[str]) -> None:
    known = inspect.signature(augment).parameters
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown option {name}{did_you_mean(name, known)}; known are {', '.join(known)}")


def check_test(plan: Plan) -> None:
    """Read the pictures of a given dataset's test, which nothing else does before the last training has ended.

    Raises
    ------
    ImageReadError
        If one cannot be read, or the classifier refuses it; names the file.
    """
    if isinstance(plan.original, Given):
        reading = classifier(plan.study.classifier["bundle"], own_model=False, **reading_options(plan.study))
        check_pictures(load_datalist(plan.original.path, "test"), reading.preprocessing, "reading the test")


def run_plan(plan: Plan, root: Path, executor: Executor) -> dict[str, str]:
    """Prepare and train everything, then test; return what failed and why."""
    outcomes: list[Outcome] = []
    try:
        # No look at the external centres before the last training has ended.
        for works in (plan.preparing, plan.testing):
            progress = Progress(len({work.key for work in in_order(works)} - {o.work.key for o in outcomes}))
            outcomes += run_all(works, root, executor, progress, before=outcomes)
            progress.close()
    finally:
        executor.close()
    return {f"{o.work.kind} {o.work.name}": o.error for o in outcomes if o.error is not None}


def show_status(root: Path) -> None:
    """Print how far a study is."""
    status = read_status(root)
    for entry in status["works"]:
        if entry["state"] in ("running", "failed"):
            print(f"{entry['state']:<8} {entry['kind']} {entry['name']}   {root / entry['folder'] / 'log.txt'}")
            if entry["error"]:
                print(f"         {entry['error'].splitlines()[0]}")
    print(", ".join(f"{count} {state}" for state, count in status["counts"].items()))
    left = status["seconds_left"]
    print("time left: not known yet" if left is None else f"time left on one worker: about {left / 60:.0f} min")
