"""Files that end early: their end is final only after they have been left alone for a while. The daemon, scripted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from speakeasyd import daemon
from speakeasyd.cli.why import _describe_job, investigate_file
from speakeasyd.config import InboxSettings, ServerSettings, Settings, WatchSettings, WorkerSettings
from speakeasyd.daemon import Daemon
from speakeasyd.domain.job import IncompleteWait
from speakeasyd.domain.options import Options
from speakeasyd.testing import (
    HEADER_BYTES,
    PIECE,
    SCRIPTED,
    FaultScript,
    build_scripted_chunks,
    with_header,
)
from speakeasyd.workers.local_pool import LocalPool
from tests.conftest import eventually
from tests.ledgers import create, query_ledger

WHOLE = with_header(bytes(range(200)))
HALF = WHOLE[:100]
LONG_S = 3600.0  # seconds: longer than any test


@dataclass(frozen=True, slots=True)
class Place:
    settings: Settings

    @property
    def file(self) -> Path:
        return self.settings.inboxes[0].path / "talk.wav"

    @property
    def outbox(self) -> dict[str, str]:
        return {
            path.name: path.read_text().strip()
            for path in self.settings.inboxes[0].outbox.glob("[!.]*")
        }

    def jobs(self, columns: str = "status") -> list[tuple[Any, ...]]:
        rows = query_ledger(self.settings.state, f"SELECT {columns} FROM jobs ORDER BY id")  # noqa: S608 - of this module
        return [tuple(row.values()) for row in rows]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        main = await Daemon.open(self.settings)
        task = asyncio.create_task(main.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def place(root: Path, *, incomplete_s: float, sources: str = "keep") -> Place:
    inbox = InboxSettings.model_validate(
        {
            "path": root / "inbox",
            "outbox": root / "outbox",
            "sources": sources,
            "archive": root / "archive",
            "failed": root / "failed",
        }
    )
    inbox.path.mkdir()
    create(root / "ledger.db")
    FaultScript().write_to(root)
    return Place(
        Settings(
            state=root,
            inboxes=(inbox,),
            watch=WatchSettings(settle_s=0.1, incomplete_s=incomplete_s),
            options=Options(formats=("txt",)),
            workers=WorkerSettings(device="cpu"),
            server=ServerSettings(enabled=False),
        )
    )


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "LocalPool", partial(LocalPool, target=SCRIPTED))


def text_of(data: bytes) -> str:
    return "".join(
        segment.text for chunk in build_scripted_chunks(data) for segment in chunk.segments
    ).strip()


def words(text: str) -> list[str]:
    return text.split()


async def test_a_cut_file_waits_for_its_rest_while_others_go_on(tmp_path: Path) -> None:
    here = place(tmp_path, incomplete_s=LONG_S, sources="delete")
    here.file.write_bytes(HALF)
    async with here.running():
        await eventually(
            lambda: here.jobs("status, transcribed") == [("pending", 1)], "the half to wait"
        )
        assert investigate_file(here.settings, here.file).jobs[0]["warning_kinds"] == '["cut"]'
        here.file.with_name("other.wav").write_bytes(bytes(PIECE))
        await eventually(lambda: ("completed",) in here.jobs(), "the other file")
        assert list(here.outbox) == ["other.txt"]
        with here.file.open("ab") as writer:
            writer.write(WHOLE[100:])
        await eventually(lambda: "talk.txt" in here.outbox, "the whole")
        await eventually(lambda: not here.file.exists(), "the source to be deleted")
    assert words(here.outbox["talk.txt"]) == words(text_of(WHOLE))
    assert sorted(here.outbox) == ["other.txt", "talk.txt"]
    assert here.jobs("status, error_code") == [
        ("cancelled", "source_replaced"),
        ("completed", None),
        ("completed", None),
    ]


async def test_a_header_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    here = place(tmp_path, incomplete_s=LONG_S)
    here.file.write_bytes(WHOLE[: HEADER_BYTES - 1])
    async with here.running():
        await eventually(
            lambda: here.jobs("status, error_code") == [("pending", "not_media")], "the wait"
        )
        assert here.file.exists()
        here.file.write_bytes(WHOLE)
        await eventually(lambda: "talk.txt" in here.outbox, "the whole")
    assert here.jobs("status, error_code") == [
        ("cancelled", "source_replaced"),
        ("completed", None),
    ]


@pytest.mark.parametrize("sources", ["keep", "archive", "delete"])
async def test_what_stays_cut_is_published_and_superseded_should_it_go_on(
    tmp_path: Path, sources: str
) -> None:
    here = place(tmp_path, incomplete_s=0.2, sources=sources)
    here.file.write_bytes(HALF)
    async with here.running():
        await eventually(
            lambda: here.jobs("status, warning_kinds") == [("completed", '["cut"]')], "the half"
        )
        assert words(here.outbox["talk.txt"]) == words(text_of(HALF))
        facts = investigate_file(here.settings, here.file).facts
        assert any("it is kept although" in fact for fact in facts) == (sources != "keep")
        with here.file.open("ab") as writer:
            writer.write(WHOLE[100:])
        await eventually(
            lambda: len(here.jobs()) == 2 and here.jobs()[1] == ("completed",), "the whole"
        )
    assert {name: words(text) for name, text in here.outbox.items()} == {
        "talk.txt": words(text_of(WHOLE))
    }
    assert here.jobs("superseded_by") == [(2,), (None,)]
    assert "superseded by job 2" in _describe_job(
        investigate_file(here.settings, here.file).jobs[0]
    )


async def test_what_is_no_media_after_all_fails(tmp_path: Path) -> None:
    here = place(tmp_path, incomplete_s=0.2)
    here.file.write_bytes(WHOLE[:5])
    async with here.running():
        await eventually(
            lambda: here.jobs("status, error_code") == [("failed", "not_media")], "the failure"
        )
        await eventually((tmp_path / "failed" / "talk.wav").exists, "the failed folder")


def test_patience_grows_with_each_version_that_went_on() -> None:
    patience = IncompleteWait(first_s=60.0, most_s=600.0)
    assert [patience.seconds(earlier) for earlier in (0, 1, 2, 3, 4, 10**6)] == [
        60,
        120,
        240,
        480,
        600,
        600,
    ]
