"""Nothing stays `processing`: whatever a worker reports, and whoever stops working."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from speakeasyd import daemon
from speakeasyd.config import (
    InboxSettings,
    RecoverySettings,
    Settings,
    WatchSettings,
    WorkerSettings,
)
from speakeasyd.daemon import Daemon
from speakeasyd.domain.job import Job
from speakeasyd.services import watchdog
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.report_handler import ReportHandler
from speakeasyd.testing import ODD_REPORTS, PIECE, SCRIPTED, FaultScript, InjectedFault
from speakeasyd.workers.local_pool import LocalPool
from tests.conftest import PATIENCE_S, eventually
from tests.ledgers import create, query_ledger

REFUSED = frozenset(
    {
        "nan",
        "infinite",
        "no time",
        "huge index",
        "huge end",
        "no segments",
        "bytes",
        "no chunk",
        "nan in a word",
        "unknown code",
        "nan at the end",
    }
)
ENDED = ("completed", "failed")


class Place:
    """A daemon in this process with workers that follow a script."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inbox = InboxSettings(path=root / "inbox", outbox=root / "outbox")
        self.inbox.path.mkdir()
        create(root / "ledger.db")

    def put(self, name: str, chunks: int = 2) -> None:
        """No two files have the same bytes."""
        data = name.encode().ljust(PIECE * chunks, b".")
        (self.inbox.path / name).write_bytes(data)

    @asynccontextmanager
    async def running(self, **recovery: Any) -> AsyncIterator[Daemon]:
        settings = Settings(
            state=self.root,
            inboxes=(self.inbox,),
            watch=WatchSettings(settle_s=0.1),
            workers=WorkerSettings(device="cpu"),
            recovery=RecoverySettings(**recovery),
        )
        main = await Daemon.open(settings)
        task = asyncio.create_task(main.run())
        try:
            yield main
        finally:
            main._stop_requested.set()
            await task

    def jobs(self) -> Mapping[str, dict[str, Any]]:
        rows = query_ledger(self.root, "SELECT * FROM job_status")
        return {str(row["path"]): row for row in rows}

    def have_ended(self, count: int) -> Callable[[], bool]:
        return lambda: [job["status"] in ENDED for job in self.jobs().values()] == [True] * count

    def incidents(self) -> list[dict[str, Any]]:
        return query_ledger(self.root, "SELECT * FROM incidents ORDER BY incident_id")

    def failures(self) -> str:
        rows = query_ledger(self.root, "SELECT value FROM state WHERE key = 'failures'")
        return str(rows[0]["value"]) if rows else ""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(daemon, "LocalPool", partial(LocalPool, target=SCRIPTED))
    return Place(tmp_path)


async def test_an_odd_report_ends_its_own_job_only(place: Place) -> None:
    FaultScript(
        tuple(
            InjectedFault("odd_report", file=f"{name}.wav", chunk=1, text=name)
            for name in ODD_REPORTS
        )
    ).write_to(place.root)
    for name in ODD_REPORTS:
        place.put(f"{name}.wav", chunks=3)
    place.put("innocent.mp3", chunks=3)
    async with place.running():
        await eventually(
            place.have_ended(len(ODD_REPORTS) + 1), "every job to end", patience_s=PATIENCE_S
        )
    jobs = place.jobs()
    assert jobs.pop("innocent.mp3")["status"] == "completed"
    refused = {path.removesuffix(".wav") for path, job in jobs.items() if job["status"] == "failed"}
    assert refused == REFUSED
    assert {job["error_code"] for job in jobs.values()} == {"internal", None}
    assert all(jobs[f"{name}.wav"]["error"] for name in REFUSED)
    assert place.incidents() == []


@pytest.mark.parametrize("what", ["record", "note", "transcribed"])
async def test_what_only_the_ledger_refuses_ends_its_own_job_only(
    place: Place, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speakeasyd.workers.supervisor.find_complaint", lambda _report: None)
    odd = {"record": "nan in a word", "note": "unknown code", "transcribed": "nan at the end"}[what]
    FaultScript((InjectedFault("odd_report", file="bad", chunk=1, text=odd),)).write_to(place.root)
    for name in ("bad.wav", "good.wav", "better.wav"):
        place.put(name)
    async with place.running():
        await eventually(place.have_ended(3), "every job to end", patience_s=PATIENCE_S)
    jobs = place.jobs()
    assert {path: job["status"] for path, job in jobs.items()} == {
        "bad.wav": "failed",
        "good.wav": "completed",
        "better.wav": "completed",
    }
    assert jobs["bad.wav"]["error_code"] == "internal"


async def test_a_publication_that_never_ends_is_begun_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PUBLISH_LEAST_S", 0.0)
    publish, hung = Publisher.publish_job, list[int]()

    async def hang_once(self: Publisher, job: Job) -> None:
        if not hung:
            hung.append(job.id)
            await asyncio.Event().wait()
        await publish(self, job)

    monkeypatch.setattr(Publisher, "publish_job", hang_once)
    place.put("a.wav")
    async with place.running(stall_s=5):
        await eventually(place.have_ended(1), "the second try", patience_s=PATIENCE_S)
        await eventually(
            lambda: [one["resolved_at"] is not None for one in place.incidents()] == [True],
            "the end of it",
        )
        await eventually(lambda: place.failures() == "{}", "health to be well")
    assert place.jobs()["a.wav"]["status"] == "completed"
    assert [(one["kind"], one["path"]) for one in place.incidents()] == [("stall", "a.wav")]


async def test_a_dispatcher_that_fails_every_time_keeps_no_job(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, broken = ReportHandler.process_events, [True]

    async def raise_while_broken(self: ReportHandler) -> None:
        if self._claims and broken[0]:
            raise RuntimeError("a defect")
        await digest(self)

    monkeypatch.setattr(ReportHandler, "process_events", raise_while_broken)
    place.put("a.wav")
    async with place.running(stall_s=5):
        await eventually(lambda: "a defect" in place.failures(), "health to tell of the dispatcher")
        await eventually(
            lambda: [one["kind"] for one in place.incidents()] == ["stall"],
            "the watchdog",
            patience_s=PATIENCE_S,
        )
        broken[0] = False
        await eventually(place.have_ended(1), "the job", patience_s=PATIENCE_S)
        await eventually(
            lambda: place.failures() == "{}", "health to be well", patience_s=PATIENCE_S
        )
    assert place.jobs()["a.wav"]["status"] == "completed"


async def test_a_task_of_which_its_worker_says_nothing_more_is_begun_again(place: Place) -> None:
    """The worker goes on with others all the while: nothing is wrong with it."""
    FaultScript((InjectedFault("no_word", file="forgotten", chunk=1),), chunk_s=0.2).write_to(
        place.root
    )
    place.put("forgotten.wav")
    place.put("long.wav", chunks=250)
    async with place.running(stall_s=5):
        await eventually(
            lambda: (
                "forgotten.wav" in place.jobs()
                and place.jobs()["forgotten.wav"]["status"] == "completed"
            ),
            "the forgotten one",
            patience_s=PATIENCE_S,
        )
    assert [(one["kind"], one["path"]) for one in place.incidents()] == [("stall", "forgotten.wav")]
