"""`tools run`: MONAI's bundle runner, friendlier.

The same as `python -m monai.bundle run`, but it finds the bundle and the config files by name, refuses an override that
no config item has, and says which config item failed.
"""

from __future__ import annotations

import json
import traceback
import warnings
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFns
from monai.bundle import ConfigParser, ConfigWorkflow

from scintikit.bundles import enter
from scintikit.errors import ConfigError, did_you_mean, find_cause

BUNDLES = Path(__file__).resolve().parent.parent / "bundles"

#: Options whose default is made by a component.
COMPONENT_DEFAULTS = ("dataset_dir", "class_names")
#: Those of them that are lists, which the config does not show.
LISTS = ("class_names",)
#: Lists of things to do and of components.
MACHINERY = ("imports", "initialize", "finalize", "handlers")
#: Options whose value is a name or words, also if it looks like a number or a list.
VERBATIM = ("prompt", "only", "dataset_dir", "output_dir", "ckpt_dir", "log_dir")
#: Configs that are no overlay.
MAIN_CONFIGS = ("train", "evaluate", "inference", "metadata")


def _verbatim(text: str) -> str | bool | None:
    """Return words as they are typed, where Fire would make a list of "cold nodule,scan" or a number of "3"."""
    return {"True": True, "None": None}.get(text, text)


@SetParseFns(**dict.fromkeys(VERBATIM, _verbatim))
def run(bundle: str, task: str, overlay: str | tuple[str, ...] = (), **overrides: Any) -> None:
    """Run a task of a bundle.

    Parameters
    ----------
    bundle
        Name of a folder under `bundles/`, or the path of a bundle anywhere.
    task
        A run id such as `training` or `evaluating`, or the name of a whole config such as `inference`.
    overlay
        Names of further configs laid over it, for instance `multi_gpu_train`.
    overrides
        Config items to replace: `--max_epochs 3`, `--validate#dataloader#batch_size 8`.

    Raises
    ------
    ConfigError
        If the bundle, task, overlay or an override is unknown, or a config item fails; names it.
    """
    # MONAI announces an optional GPU decoder that it does not find; our reader does not use it.
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    root = find_bundle(bundle)
    enter(root)
    overlays = (overlay,) if isinstance(overlay, str) else tuple(overlay)
    files, run_id = find_configs(root, task, overlays)
    kind = "train" if files[0].stem == "train" else "infer"
    workflow = ConfigWorkflow(config_file=[str(file) for file in files], run_id=run_id, workflow_type=kind)
    check_overrides(workflow.parser, overrides)
    workflow.parser.update(pairs=as_lists(workflow, overrides))
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        cause = find_cause(error)
        if cause is not None:
            raise cause from error
        root_cause = _root_cause(error)
        raise ConfigError(
            f"config item {failing_id(error)!r} of {', '.join(file.name for file in files)} failed: "
            f"{type(root_cause).__name__}: {root_cause}"
        ) from error


def check_run(bundle: str, task: str, overlays: tuple[str, ...], overrides: dict[str, Any]) -> None:
    """Raise `ConfigError` as `run` would for an unknown bundle, task, overlay or option, and run nothing."""
    root = find_bundle(bundle)
    files, _ = find_configs(root, task, overlays)
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.read_meta(str(root / "configs" / "metadata.json"))
    check_overrides(parser, overrides)


def find_bundle(name: str) -> Path:
    """Return a bundle's folder by its name or path; `ConfigError` lists the known ones."""
    for folder in (BUNDLES / name, Path(name).expanduser()):
        if (folder / "configs" / "metadata.json").is_file():
            return folder.resolve()
    known = sorted(path.parent.parent.name for path in BUNDLES.glob("*/configs/metadata.json"))
    raise ConfigError(f"there is no bundle {name!r}{did_you_mean(name, known)}; known are {', '.join(known)}")


def find_configs(root: Path, task: str, overlays: tuple[str, ...] = ()) -> tuple[list[Path], str]:
    """Return the config files that make up a task, and its run id.

    A config with `bundle_root` is whole; the others are overlays of `train.json`.

    Raises
    ------
    ConfigError
        If no config has the task, or an overlay does not exist.
    """
    configs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (root / "configs").glob("*.json")}
    del configs["metadata"]
    whole = [name for name, config in configs.items() if "bundle_root" in config]
    having = sorted((name for name, config in configs.items() if _is_task(config, task)), key=lambda n: n not in whole)
    if task in whole:
        names = [task]
    elif having:
        names = having[:1] if having[0] in whole else ["train", having[0]]
    else:
        known = tasks(root)
        raise ConfigError(f"{root.name} has no task {task!r}{did_you_mean(task, known)}; known are {', '.join(known)}")
    for overlay in overlays:
        if overlay not in configs:
            known = overlays_of(root)
            raise ConfigError(
                f"{root.name} has no overlay {overlay!r}{did_you_mean(overlay, known)}; known are {', '.join(known)}"
            )
        names.append(overlay)
    run_id = task if any(task in configs[name] for name in names) else "run"
    return [root / "configs" / f"{name}.json" for name in names], run_id


def tasks(root: Path) -> list[str]:
    """Return what can be run in a bundle: the run ids of its configs, and `inference` and the like by their file."""
    configs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (root / "configs").glob("*.json")}
    ids = {key for config in configs.values() for key in config if _is_task(config, key)}
    return sorted(ids - {"run"} | {name for name, config in configs.items() if "bundle_root" in config} - {"train"})


def overlays_of(root: Path) -> list[str]:
    """Return what can be laid over a bundle's configs with `--overlay`: what is not whole itself."""
    configs = [path for path in (root / "configs").glob("*.json") if path.stem not in MAIN_CONFIGS]
    return sorted(path.stem for path in configs if "bundle_root" not in json.loads(path.read_text(encoding="utf-8")))


def _is_task(config: dict[str, Any], key: str) -> bool:
    """Tell a list of things to run, all expressions or references, from a list of values."""
    value = config.get(key)
    return (
        isinstance(value, list)
        and bool(value)
        and key not in ("imports", "initialize", "finalize")
        and all(isinstance(step, str) and step[0] in "$@" for step in value)
    )


def check_overrides(parser: ConfigParser, overrides: dict[str, Any]) -> None:
    """Raise `ConfigError` for an option that no config item has, with the nearest name, or for a value of another type.

    Only what the config states as a plain number is checked for its type; an expression may become anything.
    """
    config = parser.get()
    for key, value in overrides.items():
        if key not in parser:
            raise ConfigError(
                f"unknown option --{key}{did_you_mean(key, config)}; known are {', '.join(options(config))}, and every "
                "other item of the config by its id, such as --validate#dataloader#batch_size"
            )
        default = parser[key]
        if value is True and not isinstance(default, bool):
            example = "" if default is None else f", such as --{key} {default}"
            raise ConfigError(f"--{key} needs a value{example}")
        if value is None:  # turns some things off; what cannot do without its number says so itself
            continue
        if type(default) in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ConfigError(f"--{key} is {value!r}; expected a number, such as {default}")


def options(config: dict[str, Any]) -> list[str]:
    """Return the items of a config that are made to be changed: values, not the machinery made of them."""
    return [
        key
        for key, value in config.items()
        if key in COMPONENT_DEFAULTS
        or not (isinstance(value, dict) or key in MACHINERY or key.startswith("_") or _is_task(config, key))
    ]


def as_lists(workflow: ConfigWorkflow, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the overrides with lists where the config expects lists: "hot nodule,normal" would fall into letters."""
    return {
        key: _as_list(value) if key in LISTS or isinstance(workflow.parser[key], list) else value
        for key, value in overrides.items()
    }


def _as_list(value: Any) -> Any:
    """Return a list of text parted by commas, or of a tuple, which is what Fire makes of "a,b"."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, str) and not value.startswith(("$", "@")):
        return [part.strip() for part in value.split(",")]
    return value


def _root_cause(error: BaseException) -> BaseException:
    """Return what a component raised, under the exceptions in which MONAI wrapped it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def failing_id(error: BaseException) -> str:
    """Return the id of the innermost config item that was being resolved when the error arose."""
    ids = [
        frame.f_locals["id"]
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "_resolve_one_item" and "id" in frame.f_locals
    ]
    return str(ids[-1]).replace("::", "#") if ids else "?"
