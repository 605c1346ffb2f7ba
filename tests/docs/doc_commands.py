"""The commands of the pages: find them, check them without running, make them small."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fire.parser import DefaultParseValue

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
#: Pages whose commands are run; those of all others are checked.
RUN = [README, *(ROOT / "docs" / name for name in ("index.md", "tutorial.md", "study.md", "scaling.md"))]
RUN += sorted((ROOT / "docs" / "howto").glob("*.md"))
CHECKED = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "bundles/*/docs/*.md", "benchmarks/*.md", "deploy/**/*.md")
    for page in ROOT.glob(pattern)
)
SMALL: Mapping[str, Mapping[str, str]] = yaml.safe_load((Path(__file__).parent / "small.yaml").read_text())

#: A fenced block of commands, and what the comment above it says.
_BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?:bash|console|)\n(?P<text>.*?)^```$", re.M | re.S)
_HEREDOC = re.compile(r"<<'(\w+)'.*?^\1$", re.M | re.S)
_PROGRAMS = ("scintikit", "python", "torchrun", "make")


@dataclass(frozen=True)
class Block:
    """A block of commands and, if it is not run, why."""

    text: str
    why_not: str | None


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page that hold commands."""
    text = re.sub(
        r"^```\w+\n.*?^```$", lambda m: m[0] if m[0].startswith("```bash") else "", page.read_text(), flags=re.M | re.S
    )
    found = [Block(match["text"], match["why"]) for match in _BLOCK.finditer(text)]
    return [block for block in found if any(True for _ in commands(block.text))]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command that starts one of this project's programs."""
    text = _HEREDOC.sub("", text).replace("\\\n", " ")
    for line in text.splitlines():
        line = re.sub(r"\[(--[^]]+)\]", r"\1", line.removeprefix("$ "))  # what a synopsis says may be given
        if line.startswith(_PROGRAMS):
            yield shlex.split(line, comments=True)


def inline(page: Path) -> Iterator[list[str]]:
    """Yield the words of each whole command that stands in a sentence."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for command in re.findall(r"`((?:scintikit|python -m|torchrun) [^`]+)`", text):
        if not re.search(r"\b[A-Z]{4,}\b|\.\.\.", command) and "--" in command:  # not `scintikit VERB`
            yield from commands(" ".join(command.split()))


def runnable(page: Path) -> list[str]:
    """Return what is run of a page, block by block."""
    texts = [block.text for block in blocks(page) if block.why_not is None]
    if page != README:
        return texts
    skipped = tuple(SMALL["not_run_in_readme"])
    return ["".join(line for line in text.splitlines(True) if not line.startswith(skipped)) for text in texts]


def tools_words(words: list[str], bundle: str = "") -> list[str] | None:
    """Return a command as `tools` would be given it, or None if it starts something else.

    `bundle` is the one whose folder relative paths are in.
    """
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    if words[0] == "scintikit":
        return words[1:]
    if words[:3] == ["python", "-m", "tools"]:
        return words[3:]
    if words[:4] != ["python", "-m", "monai.bundle", "run"]:
        return None
    files = [Path(file) for file in re.findall(r"[\w./]+\.json", words[words.index("--config_file") + 1])]
    at = words.index("--config_file")
    rest = words[4:at] + words[at + 2 :]
    task = rest.pop(0) if rest and not rest[0].startswith("--") else files[0].stem
    overlays = [part for file in files[1:] if file.stem != "evaluate" for part in ("--overlay", file.stem)]
    return ["run", *(files[0].parts[-3:-2] or [bundle]), task, *overlays, *rest]


def small(words: list[str]) -> list[str]:
    """Return the options that make a command of `tools` small."""
    line = " ".join(words) + " "
    return [
        option
        for start, options in SMALL["added"].items()
        if line.startswith(start + " ")
        for option in options.split()
    ]


def check(words: list[str], bundle: str = "") -> None:
    """Raise if a command names a verb, task, overlay, option or target that does not exist, or lacks something."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), f"no such target: {words}"
    given = tools_words(words, bundle)
    if given is not None:
        _check_tools(given)
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), f"no such module: {words}"


def _check_tools(words: list[str]) -> None:
    from tools.__main__ import _checked, _function
    from tools.run import check_run

    verb, *rest = words
    if not verb.islower() or rest[:1] == ["..."]:  # `scintikit VERB`
        return
    function = _checked(_function(verb), rest)
    positional, options = _parsed([word for word in rest if word != "..."])
    inspect.signature(function).bind(*positional, **options)
    if verb == "run":
        overlays = options.pop("overlay", ())
        check_run(*positional, (overlays,) if isinstance(overlays, str) else overlays, options)


def _parsed(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Return arguments and options as Fire understands them."""
    positional: list[str] = []
    options: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            positional.append(word)
            continue
        name, _, value = word[2:].partition("=")
        if not value and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        options[name.replace("-", "_")] = DefaultParseValue(value) if value else True
    return positional, options
