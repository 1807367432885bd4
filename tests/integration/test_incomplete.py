"""Files that end early become final after a period without changes.

A daemon with the scripted engine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from speakeasyd.cli.why import _describe_job, investigate_file
from speakeasyd.config import Settings, WatchSettings
from speakeasyd.domain.job import IncompleteWait
from speakeasyd.domain.options import Options
from speakeasyd.testing import HEADER_BYTES, PIECE, build_scripted_text, with_header
from tests.conftest import wait_until
from tests.integration.scripted_daemon import create_settings, run_daemon, use_scripted_engine
from tests.ledgers import query_ledger

WHOLE = with_header(bytes(range(200)))
HALF = WHOLE[:100]
LONG_S = 3600.0  # seconds; longer than the test


@dataclass(frozen=True, slots=True)
class IncompleteSetup:
    settings: Settings

    @property
    def source(self) -> Path:
        return self.settings.inboxes[0].path / "talk.wav"

    def read_outbox(self) -> dict[str, list[str]]:
        """Return the words of every transcript."""
        files = self.settings.inboxes[0].outbox.glob("[!.]*")
        return {path.name: path.read_text().split() for path in files}

    def query_jobs(self, columns: str = "status") -> list[tuple[Any, ...]]:
        rows = query_ledger(self.settings.state, f"SELECT {columns} FROM jobs ORDER BY id")  # noqa: S608
        return [tuple(row.values()) for row in rows]


def create_setup(root: Path, *, incomplete_s: float, sources: str = "keep") -> IncompleteSetup:
    settings = create_settings(
        root,
        inbox={"sources": sources, "archive": root / "archive", "failed": root / "failed"},
        watch=WatchSettings(settle_s=0.1, incomplete_s=incomplete_s),
        options=Options(formats=("txt",)),
    )
    return IncompleteSetup(settings)


@pytest.fixture(autouse=True)
def scripted_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    use_scripted_engine(monkeypatch)


async def test_a_cut_file_waits_while_others_are_processed(tmp_path: Path) -> None:
    setup = create_setup(tmp_path, incomplete_s=LONG_S, sources="delete")
    setup.source.write_bytes(HALF)
    async with run_daemon(setup.settings):
        await wait_until(
            lambda: setup.query_jobs("status, transcribed") == [("pending", 1)],
            "the wait of the first half",
        )
        assert investigate_file(setup.settings, setup.source).jobs[0]["warning_kinds"] == '["cut"]'
        setup.source.with_name("other.wav").write_bytes(bytes(PIECE))
        await wait_until(lambda: ("completed",) in setup.query_jobs(), "the other file")
        assert list(setup.read_outbox()) == ["other.txt"]
        with setup.source.open("ab") as writer:
            writer.write(WHOLE[100:])
        await wait_until(lambda: "talk.txt" in setup.read_outbox(), "the complete transcript")
        await wait_until(lambda: not setup.source.exists(), "the deletion of the source")
    assert setup.read_outbox()["talk.txt"] == build_scripted_text(WHOLE).split()
    assert sorted(setup.read_outbox()) == ["other.txt", "talk.txt"]
    assert setup.query_jobs("status, error_code") == [
        ("cancelled", "source_replaced"),
        ("completed", None),
        ("completed", None),
    ]


async def test_a_file_with_an_incomplete_header_waits(tmp_path: Path) -> None:
    setup = create_setup(tmp_path, incomplete_s=LONG_S)
    setup.source.write_bytes(WHOLE[: HEADER_BYTES - 1])
    async with run_daemon(setup.settings):
        await wait_until(
            lambda: setup.query_jobs("status, error_code") == [("pending", "not_media")], "the wait"
        )
        assert setup.source.exists()
        setup.source.write_bytes(WHOLE)
        await wait_until(lambda: "talk.txt" in setup.read_outbox(), "the complete transcript")
    assert setup.query_jobs("status, error_code") == [
        ("cancelled", "source_replaced"),
        ("completed", None),
    ]


@pytest.mark.parametrize("sources", ["keep", "archive", "delete"])
async def test_a_cut_file_is_published_and_later_superseded(tmp_path: Path, sources: str) -> None:
    setup = create_setup(tmp_path, incomplete_s=0.2, sources=sources)
    setup.source.write_bytes(HALF)
    async with run_daemon(setup.settings):
        await wait_until(
            lambda: setup.query_jobs("status, warning_kinds") == [("completed", '["cut"]')],
            "the transcript of the first half",
        )
        assert setup.read_outbox()["talk.txt"] == build_scripted_text(HALF).split()
        facts = investigate_file(setup.settings, setup.source).facts
        assert any("it is kept although" in fact for fact in facts) == (sources != "keep")
        with setup.source.open("ab") as writer:
            writer.write(WHOLE[100:])
        await wait_until(
            lambda: len(setup.query_jobs()) == 2 and setup.query_jobs()[1] == ("completed",),
            "the complete transcript",
        )
    assert setup.read_outbox() == {"talk.txt": build_scripted_text(WHOLE).split()}
    assert setup.query_jobs("superseded_by") == [(2,), (None,)]
    assert "superseded by job 2" in _describe_job(
        investigate_file(setup.settings, setup.source).jobs[0]
    )


async def test_a_file_that_stays_without_media_fails(tmp_path: Path) -> None:
    setup = create_setup(tmp_path, incomplete_s=0.2)
    setup.source.write_bytes(WHOLE[:5])
    async with run_daemon(setup.settings):
        await wait_until(
            lambda: setup.query_jobs("status, error_code") == [("failed", "not_media")],
            "the failure",
        )
        await wait_until((tmp_path / "failed" / "talk.wav").exists, "the failed folder")


def test_the_wait_grows_with_each_version() -> None:
    wait = IncompleteWait(first_s=60.0, most_s=600.0)
    assert [wait.seconds(earlier) for earlier in (0, 1, 2, 3, 4, 10**6)] == [
        60,
        120,
        240,
        480,
        600,
        600,
    ]
