"""The references of the commands and of the API are those that the program gives."""

from speakeasyd.cli import COMMANDS
from speakeasyd.cli import reference as commands
from speakeasyd.server import reference as api
from speakeasyd.server.app import build_routes
from tests.conftest import REPOSITORY

AGAIN = "CONTRIBUTING.md, Generated files, has the command that writes it again"


def test_the_reference_of_the_commands_is_current() -> None:
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == f"{commands.render_markdown()}\n", AGAIN
    for name in COMMANDS:
        assert f"\n## speakeasyd {name}\n" in page
    assert "\n### speakeasyd ledger backup\n" in page
    assert "| `--state DIR` |" in page


def test_the_reference_of_the_api_is_current() -> None:
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == f"{api.render_markdown()}\n", AGAIN
    for path in build_routes().openapi()["paths"]:
        assert f" {path}`\n" in page
