"""The site: `make docs`. Sphinx reads the repository as it is, so a link that works in a checkout works in the site."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

from scintikit import __version__  # noqa: E402

project = "scintikit"
author = "The scintikit developers"
version = release = __version__
copyright = "The scintikit developers, Apache License 2.0. Research use only; not a medical device"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_line"]

# The source is the whole repository; these are its pages.
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "bundles/*/docs/README.md",
    "benchmarks/README.md",
    "deploy/**.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
exclude_patterns = [".*", "build", "demo", "**/models", "**/eval", "**/runs*", "tests"]

myst_heading_anchors = 4

default_role = "code"  # `name` in docstrings
smartquotes = False  # "" in docstrings is an empty text
autodoc_typehints = "none"  # docstrings tell them in words, with shapes and units
autodoc_member_order = "alphabetical"
napoleon_numpy_docstring = True
napoleon_google_docstring = False

html_theme = "furo"
html_title = "scintikit"
html_extra_path = ["_extra"]  # index.html, which leads to docs/index.html
html_show_sourcelink = False
html_copy_source = False
highlight_language = "text"  # a block that names no language has none
pygments_style = "default"
