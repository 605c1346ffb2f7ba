"""What can be told of a bundle's configs without evaluating them."""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser

#: Packages whose components and functions a config may name.
PACKAGES = ("scintikit", "scripts", "monai", "torch", "ignite", "operator")
#: Besides those, what an expression may call.
FUNCTIONS = [
    "bool",
    "dict",
    "float",
    "int",
    "len",
    "list",
    "max",
    "min",
    "range",
    "round",
    "set",
    "sorted",
    "str",
    "sum",
    "tuple",
    "zip",
]
#: What reads, writes or runs files, also where a package above offers it.
FORBIDDEN = [
    "load",
    "save",
    "hub",
    "system",
    "popen",
    "open",
    "eval",
    "exec",
    "compile",
    "serialization",
    "package",
    "attrgetter",
    "methodcaller",
    "optional_import",
    "cpp_extension",
    "tofile",
    "dump",
]
FORBIDDEN += ["download_url", "download_and_extract", "load_url", "load_state_dict_from_url"]

REFERENCE = re.compile(r"@([\w#]+(?:::[\w#]+)*)")
#: Python's `logging` evaluates these parts of its file; others than such are refused.
LOGGING = {"class": ("StreamHandler",), "args": ("(sys.stderr,)", "(sys.stdout,)", "()"), "kwargs": ("{}",)}

OUTSIDE = re.compile(r"(^|/)\.\.(/|$)")
ABSOLUTE = re.compile(r"/|~|[A-Za-z]:[\\/]|file:|https?:")


def lint_config(root: Path, config: Path, overlays: bool = False) -> list[str]:
    """Return what is wrong with a config of the bundle at `root`; nothing in it is evaluated.

    Components must be MONAI's, torch's, Ignite's or the bundle's own and exist, references must lead somewhere,
    expressions may compute but not import, read or run anything, and no path is absolute. This keeps configs readable
    and catches mistakes; it is no sandbox for a config of someone you do not trust.

    Parameters
    ----------
    root
        The bundle's folder, with `scintikit` inside if the bundle is packed.
    config
        A JSON file in its `configs`.
    overlays
        The config is laid over `train.json`, to whose items it may refer.
    """
    parser = ConfigParser()
    parser.read_meta(str(root / "configs" / "metadata.json"))
    parser.read_config([str(root / "configs" / "train.json"), str(config)] if overlays else str(config))
    own = ConfigParser.load_config_file(str(config))
    problems = []
    for key, value in _leaves(own):
        last = key.replace("::", "#").split("#")[-1]  # an overlay may name what it changes by its whole id
        if last == "_target_":
            problems += [f"{key}: {problem}" for problem in _target_problems(root, value)]
        elif last == "_mode_" and value not in ("default", "callable", "partial"):
            problems.append(f"{key}: the mode {value!r} is not for use")  # "debug" waits at a prompt
        elif isinstance(value, str):
            problems += [f"{key}: {problem}" for problem in _text_problems(parser, value)]
    return problems


def lint_logging(config: Path) -> list[str]:
    """Return what is wrong with a file for Python's `logging`, which evaluates some of its values."""
    parser = configparser.RawConfigParser()
    parser.read_string(config.read_text(encoding="utf-8"))
    return [
        f"{section}: {key} is {value!r}; it may be {' or '.join(LOGGING[key])}"
        for section in (*parser.sections(), parser.default_section)
        for key, value in parser[section].items()
        if key in LOGGING and value not in LOGGING[key]
    ]


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the id and value of everything that is neither dict nor list."""
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield key, value
        return
    for name, child in items:
        yield from _leaves(child, f"{key}#{name}" if key else str(name))


def _target_problems(root: Path, target: Any) -> Iterator[str]:
    if not isinstance(target, str) or target.startswith("$"):
        yield f"the component {target!r} is not named plainly"
    elif "." not in target:
        if not _locator().get_component_module_name(target):
            yield f"MONAI has no component {target}"
    elif target.split(".")[0] not in PACKAGES or set(target.split(".")) & set(FORBIDDEN):
        yield f"the component {target} is of no package that a config may use ({', '.join(PACKAGES)})"
    elif target.split(".")[0] in ("scintikit", "scripts"):
        if not _is_defined(root, target):
            yield f"the component {target} is not in the bundle"
    elif locate(target) is None:
        yield f"there is no {target}"
    elif foreign := _foreign(target):
        yield f"the component {target} is {foreign}'s"


def _foreign(name: str) -> str:
    """Return the package that a name of MONAI, torch or Ignite belongs to if it is another one, such as `os`, or ""."""
    top, *parts = name.split(".")
    if top in ("scintikit", "scripts"):  # not imported: they are the bundle's
        return next((part for part in parts if part in sys.stdlib_module_names), "")
    thing: Any = importlib.import_module(top)
    for part in parts:
        thing = getattr(thing, part, None)
        home = thing.__name__ if inspect.ismodule(thing) else ""
        home = str(thing.__module__) if inspect.isclass(thing) or inspect.isfunction(thing) else home
        if home and home.split(".")[0] not in PACKAGES:
            return home
    return ""


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()  # looks through all of MONAI


def _is_defined(root: Path, target: str) -> bool:
    """Tell whether a module of the bundle has the name at its top level, from its source alone."""
    *package, name = target.split(".")
    places = [root, root.parent.parent]  # scintikit lies in a packed bundle, or beside `bundles` in a checkout
    for place in places:
        for path in (place.joinpath(*package).with_suffix(".py"), place.joinpath(*package, "__init__.py")):
            if path.is_file():
                return name in _top_names(path)
    return False


def _top_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            names |= set(ast.literal_eval(node.value))  # some are imported when they are first used
    return names


def _text_problems(parser: ConfigParser, text: str) -> Iterator[str]:
    if text.startswith("%") and ConfigParser.split_path_id(text[1:])[0]:
        yield f"{text!r} takes items from another file, which is not looked through"
    if not text.startswith("$") and OUTSIDE.search(text):
        yield f"{text!r} leads out of the folder"
    if ABSOLUTE.match(text):
        yield f"{text!r} is an absolute path or address"
    for reference in REFERENCE.findall(text):
        if reference.replace("::", "#") not in parser:
            yield f"@{reference} leads nowhere"
    if text.startswith("$"):
        yield from _expression_problems(text[1:])


def _expression_problems(expression: str) -> Iterator[str]:
    try:
        tree = ast.parse(REFERENCE.sub("reference", expression).strip())
    except SyntaxError:
        yield f"{expression!r} is no Python expression"
        return
    bound = {"reference"} | {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.comprehension)
        for target in ast.walk(node.target)
        if isinstance(target, ast.Name)
    }
    # What is added to something, as in @bundle_root + '/models', is not absolute.
    added = {id(node.right) for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            absolute = id(node) not in added and ABSOLUTE.match(node.value)
            strange = [node.value] if absolute or OUTSIDE.search(node.value) else []
        elif isinstance(node, ast.Import):
            strange = [alias.name for alias in node.names if alias.name.split(".")[0] not in PACKAGES]
        elif isinstance(node, ast.Name):
            strange = [] if node.id in {*bound, *PACKAGES, *FUNCTIONS} else [node.id]
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            strange = [node.attr] if node.attr.startswith("_") or node.attr in FORBIDDEN else []
            if not strange and re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", name) and _foreign(name):
                strange = [name]
        elif isinstance(node, (ast.Lambda, ast.ImportFrom, ast.NamedExpr, ast.Await, ast.Yield)):
            strange = [type(node).__name__.lower()]
        else:
            strange = []
        yield from (f"the expression {expression!r} uses {part!r}, which a config must not" for part in strange)
