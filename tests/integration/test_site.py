"""The documentation as a site: every page is in its menu, and MkDocs builds it without a complaint."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ENTRY = re.compile(r"^ +- (?:.*: )?(\S+\.md)$", re.MULTILINE)


def test_every_page_is_in_the_menu() -> None:
    menu = ENTRY.findall((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    docs = REPOSITORY / "docs"
    pages = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    assert pages == {entry for entry in menu if not entry.startswith("project/")}
    assert len(menu) == len(set(menu))


@pytest.mark.skipif(not find_spec("mkdocs"), reason="pip install 'speakeasyd[docs]'")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*command, "--site-dir", tmp_path / "site"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.findall(
        r'(?:src|href)="https?://(?!github\.com|squidfunk)[^"]*\.(?:js|css)', home
    )
    services = (tmp_path / "site" / "project" / "services.html").read_text(encoding="utf-8")
    assert 'href="../index.html"' in services
