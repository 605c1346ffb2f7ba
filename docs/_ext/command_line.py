"""The directive `command-line`: every verb of `python -m tools`, from its docstring, and the bundles' tasks."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from docutils import nodes
from monai.bundle import ConfigParser
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, NumpyDocstring
from sphinx.util.docutils import SphinxDirective

from tools.__main__ import VERBS
from tools.run import BUNDLES, find_configs, options, overlays_of, tasks

STYLE = Config(napoleon_use_param=False, napoleon_use_rtype=False)


class CommandLine(SphinxDirective):
    """Write a section for each verb and a table of options for each task of a bundle."""

    def run(self) -> list[nodes.Node]:
        """Return what the generated Markdown becomes."""
        text = "\n".join([*_verbs(), *_bundles()])
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _verbs() -> Iterator[str]:
    for verb in VERBS:
        function = getattr(importlib.import_module(f"tools.{verb}"), verb)
        docstring = str(NumpyDocstring(inspect.getdoc(function) or "", STYLE))
        docstring = docstring.replace(":raises ", ":Raises ").replace(" -- ", ": ")
        yield f"## {verb}\n\n```text\n{_usage(verb, function)}\n```\n\n````{{eval-rst}}\n{docstring}\n````\n"


def _usage(verb: str, function: Callable[..., Any]) -> str:
    """Return the verb with what it must and, in brackets, may be given."""
    words = [f"scintikit {verb}"]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            words.append("[--OPTION VALUE ...]")
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            words.append(f"{parameter.name.upper()} ...")
        elif parameter.default is inspect.Parameter.empty:
            words.append(parameter.name.upper())
        elif isinstance(parameter.default, bool):
            words.append(f"[--{parameter.name}]")
        else:
            words.append(f"[--{parameter.name} {parameter.name.upper()}]")
    # Options stay whole: what is in brackets is not broken.
    lines = textwrap.wrap(" ".join(word.replace(" ", "\0") for word in words), 84, subsequent_indent="    ")
    return "\n".join(lines).replace("\0", " ")


def _bundles() -> Iterator[str]:
    for root in sorted(path.parent.parent for path in BUNDLES.glob("*/configs/metadata.json")):
        yield f"## Tasks of {root.name}\n\nOverlays: {', '.join(f'`{name}`' for name in overlays_of(root))}.\n"
        for task in tasks(root):
            files, _ = find_configs(root, task)
            parser = ConfigParser()
            parser.read_config([str(file) for file in files])
            config = parser.get()
            found = ", ".join(f"`{key}` {_default(config[key])}" for key in options(config))
            yield f"**`scintikit run {root.name} {task}`**: {found}\n"


def _default(value: Any) -> str:
    """Return a plain default in brackets, and nothing for one that is computed."""
    return "" if isinstance(value, (dict, list)) or str(value)[:1] in "$@" else f"({value})"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
