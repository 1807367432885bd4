"""Hooks of MkDocs: pages of the repository outside of `docs/`, and links to files that are no pages."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "CHANGELOG.md": "project/changes.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "contrib/README.md": "project/services.md",
    "README.md": "index.md",
}
"""Pages of the site by their paths in the repository, besides those in `docs/`."""
SOURCES = {site: source for source, site in PAGES.items() if source != "README.md"}
LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    for site, source in SOURCES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, site, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    site = page.file.src_uri
    source = SOURCES.get(site, f"docs/{site}")
    parts = FENCE.split(markdown)
    return "".join(
        part if part.lstrip().startswith("```") else LINK.sub(_rewriter(source, site), part)
        for part in parts
    )


def _rewriter(source: str, site: str) -> Any:
    """Return what replaces a link of a page, whose place in the repository is `source`."""

    def rewrite(link: re.Match[str]) -> str:
        mark, text, target, anchor = link[1], link[2], link[3], link[4] or ""
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = PAGES.get(place) or (
            place.removeprefix("docs/") if place.startswith("docs/") else ""
        )
        if not there:
            return f"{text} (`{place}` in the repository)"
        relative = posixpath.relpath(there, posixpath.dirname(site) or ".")
        return f"{mark}[{text}]({relative}{anchor})"

    return rewrite
