"""The directive `optional-pages`: a table of contents of those pages that exist, none of which has to."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.matching import patfilter


class OptionalPages(SphinxDirective):
    """Patterns, one a line, relative to the root of the repository; Sphinx's own `:glob:` warns where nothing fits."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return a toctree, or nothing."""
        self.env.note_reread()  # which pages exist may change while this one does not
        found = [f"/{name}" for pattern in self.content for name in sorted(patfilter(self.env.found_docs, pattern))]
        if not found:
            return []
        return self.parse_text_to_nodes("\n".join(["```{toctree}", *found, "```"]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("optional-pages", OptionalPages)
    return {"parallel_read_safe": True}
