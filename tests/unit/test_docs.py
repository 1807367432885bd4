"""Links and paths in the documents exist, and so do the code names in the glossary."""

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGES = [
    *REPOSITORY.glob("*.md"),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    REPOSITORY / "contrib" / "README.md",
    REPOSITORY / "tests" / "windows" / "README.md",
]
LINK = re.compile(r"\]\(([^)\s#]+)?(?:#([^)\s]+))?\)")
CODE = re.compile(r"`([^`\n]+)`")
CODE_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
CODE_FOLDERS = ("", "speakeasyd")  # folders that paths may be relative to
SOURCE_ENDINGS = (".py", ".js", ".mako", ".md", ".html")
NOT_OURS = ("NAME.py", "NUMBER_what_it_does.py", ".mp3")  # placeholders and users' files


def _format_page_name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def _list_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub creates for the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=_format_page_name)
def test_targets_of_relative_links_exist(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        linked = page.parent / target if target else page
        if not linked.exists():
            broken.append(target)
        elif anchor and linked.suffix == ".md" and anchor not in _list_anchors(linked):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=_format_page_name)
def test_code_paths_exist(page: Path) -> None:
    missing = [
        path
        for path in CODE.findall(page.read_text(encoding="utf-8"))
        if _is_code_path(path)
        and not any((REPOSITORY / root / path).exists() for root in CODE_FOLDERS)
    ]
    assert missing == []


def _is_code_path(text: str) -> bool:
    """Whether the text names a file or folder of the project, not one of the user."""
    if not CODE_PATH.fullmatch(text) or text.endswith(NOT_OURS):
        return False
    top_folders = {path.name for root in CODE_FOLDERS for path in (REPOSITORY / root).iterdir()}
    in_project = "/" in text and text.split("/", maxsplit=1)[0] in top_folders
    return in_project or text.endswith(SOURCE_ENDINGS)


def test_code_names_of_the_glossary_exist() -> None:
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in (REPOSITORY / "speakeasyd").rglob("*.py")
    )
    glossary = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in glossary.splitlines() if line.startswith("| ")]
    names = {name for row in rows for name in CODE.findall(row[-1])}
    assert len(names) > 50
    missing = {
        name
        for name in names
        for part in re.findall(r"\w{3,}", name)
        if not re.search(rf"\b{part}\b", sources)
    }
    assert missing == set()
