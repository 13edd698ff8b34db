"""How Sphinx builds these pages: `sphinx-build -W docs site`.

The front page is the README, and three other files beside docs/ are pages, too. Links between all
of them work where the files are read as they are, and here.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import deepfocus_live

project = "deepfocus-live"
author = "the deepfocus-live developers"
version = release = deepfocus_live.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"deepfocus-live {release}"
html_show_sourcelink = False
html_copy_source = False

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
# Types are prose: "path or None" is no link to whatever is called `path`.
napoleon_use_param = False
napoleon_use_rtype = False
default_role = "code"
# Sphinx has everything printed that any library says while it is imported.
logging.disable(logging.DEBUG)

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = {
    ROOT / "README.md": "index",
    ROOT / "CONTRIBUTING.md": "contributing",
    ROOT / "CHANGELOG.md": "changelog",
    ROOT / "examples/README.md": "examples",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)([^)\s]*)\)")


def read_page(_: Any, name: str, source: list[str]) -> None:
    """Put the file that is shown as a page before what the page adds; mend the links of both."""
    page = DOCS / f"{name}.md"
    shown = next((file for file, shown_as in PAGES.items() if shown_as == name), None)
    text = _with_links(source[0], page, page)
    if shown is not None:
        text = f"{_with_links(shown.read_text(encoding='utf-8'), shown, page)}\n{text}"
    source[0] = text


def _with_links(text: str, file: Path, page: Path) -> str:
    """Return what stands in `file` with its links as they are to be on `page`."""

    def mended(found: re.Match[str]) -> str:
        picture, words, target, anchor = found.groups()
        there = Path(os.path.normpath(file.parent / target))
        there = there / "README.md" if there.is_dir() else there
        if there in PAGES:
            there = DOCS / f"{PAGES[there]}.md"
        if there.exists() and DOCS not in there.parents:
            return words  # a file that is no page: it is named
        to = os.path.relpath(there, page.parent).replace(os.sep, "/")
        return f"{picture}[{words}]({to}{anchor})"

    return _LINK.sub(mended, text)


def setup(app: Any) -> None:
    """Have every page read by `read_page`."""
    app.connect("source-read", read_page)
