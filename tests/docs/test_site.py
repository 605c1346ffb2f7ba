"""The site: built without a warning, asks no other host for anything, and links to nothing that is not there."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.docs, pytest.mark.slow]

#: What a browser fetches by itself, as opposed to what a reader may follow.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}


class Page(HTMLParser):
    """What a page fetches, what it links to, and what in it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.targets.add(given.get("id") or "")
        if tag in FETCHED and (address := given.get(FETCHED[tag])):
            self.fetched.append(address)
        if tag == "a" and (address := given.get("href")):
            self.links.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: any warning is an error."""
    pytest.importorskip("sphinx", reason="the site is built by Sphinx, of the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "docs", ".", str(folder / "html")]
    assert f"$(BIN)/python {' '.join(command[:-1])} build/site" in (ROOT / "Makefile").read_text()
    done = subprocess.run(
        [sys.executable, *command, "-d", str(folder / "doctrees")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_nothing_is_asked_of_another_host(site: Path, pages: dict[Path, Page]) -> None:
    fetched = [address for page in pages.values() for address in page.fetched]
    assert any("furo" in address for address in fetched)
    foreign = {address for address in fetched if urlsplit(address).netloc}
    for path in site.rglob("*.css"):
        addresses = re.findall(r"""(?:url\(|@import\s+)["']?([^"')\s]+)""", path.read_text(encoding="utf-8"))
        foreign |= {address for address in addresses if urlsplit(address).netloc}
    assert foreign == set()


def test_links_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    broken = set()
    for path, page in pages.items():
        for address in page.links:
            parts = urlsplit(address)
            if parts.netloc or parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            fragment = unquote(parts.fragment)
            if not target.is_file() or (target in pages and fragment and fragment not in pages[target].targets):
                broken.add((path.relative_to(site).as_posix(), address))
    assert broken == set()


def test_a_newcomer_finds_what_matters_from_the_first_page(site: Path, pages: dict[Path, Page]) -> None:
    assert 'url=docs/index.html"' in (site / "index.html").read_text()
    links = {link.partition("#")[0] for link in pages[site / "docs/index.html"].links}
    cards = {f"../bundles/{path.parent.parent.name}/docs/README.html" for path in ROOT.glob("bundles/*/docs/README.md")}
    assert cards
    assert {"tutorial.html", "explanation/limits.html", "reference/command_line.html"} | cards <= links


def test_reference_tells_every_verb_and_task(site: Path) -> None:
    from tools.__main__ import VERBS
    from tools.run import BUNDLES, tasks

    text = re.sub(r"<[^>]+>", "", (site / "docs/reference/command_line.html").read_text(encoding="utf-8"))
    assert [verb for verb in VERBS if f"scintikit {verb} " not in text] == []
    found = [f"scintikit run {root.name} {task}" for root in BUNDLES.iterdir() if root.is_dir() for task in tasks(root)]
    assert [command for command in found if command not in text] == []
    assert "--external EXTERNAL" in text
    assert "Centres that serve as test only" in text
    assert "max_epochs (40)" in text


def test_reference_tells_the_python_interface(site: Path) -> None:
    page = Page((site / "docs/reference/python.html").read_text(encoding="utf-8"))
    for name in ("dicom.read_scintigram", "data.load_dataset", "metrics.evaluate_classifier", "errors.ScintikitError"):
        assert f"scintikit.{name}" in page.targets
