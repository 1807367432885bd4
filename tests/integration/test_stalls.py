"""No job stays `processing`, whatever a worker reports or which part stops working."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from speakeasyd.config import RecoverySettings
from speakeasyd.domain.job import Job
from speakeasyd.services import watchdog
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.report_handler import ReportHandler
from speakeasyd.testing import ODD_REPORTS, FaultScript, InjectedFault
from tests.conftest import wait_until
from tests.integration.scripted_daemon import (
    create_settings,
    drop_file,
    run_daemon,
    use_scripted_engine,
)
from tests.ledgers import query_ledger

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
        "no warnings",
    }
)
ENDED = ("completed", "failed")


class StallSetup:
    """A daemon with the scripted engine, and what its ledger records."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = create_settings(root)

    def drop_file(self, name: str, *, chunks: int = 2) -> None:
        drop_file(self.settings, name, chunks=chunks)

    def run(self, **recovery: Any) -> AbstractAsyncContextManager[object]:
        return run_daemon(
            self.settings.model_copy(update={"recovery": RecoverySettings(**recovery)})
        )

    def query_jobs(self) -> Mapping[str, dict[str, Any]]:
        rows = query_ledger(self.root, "SELECT * FROM job_status")
        return {str(row["path"]): row for row in rows}

    async def wait_for_jobs(self, count: int, what: str = "the end of all jobs") -> None:
        def have_ended() -> bool:
            ended = [job["status"] in ENDED for job in self.query_jobs().values()]
            return ended == [True] * count

        await wait_until(have_ended, what)

    def query_incidents(self) -> list[dict[str, Any]]:
        return query_ledger(self.root, "SELECT * FROM incidents ORDER BY incident_id")

    def read_failures(self) -> str:
        rows = query_ledger(self.root, "SELECT value FROM state WHERE key = 'failures'")
        return str(rows[0]["value"]) if rows else ""


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StallSetup:
    use_scripted_engine(monkeypatch)
    return StallSetup(tmp_path)


async def test_an_invalid_report_ends_only_its_own_job(setup: StallSetup) -> None:
    FaultScript(
        tuple(
            InjectedFault("odd_report", file=f"{name}.wav", chunk=1, text=name)
            for name in ODD_REPORTS
        )
    ).write_to(setup.root)
    for name in ODD_REPORTS:
        setup.drop_file(f"{name}.wav", chunks=3)
    setup.drop_file("good.mp3", chunks=3)
    async with setup.run():
        await setup.wait_for_jobs(len(ODD_REPORTS) + 1)
    jobs = setup.query_jobs()
    assert jobs.pop("good.mp3")["status"] == "completed"
    refused = {path.removesuffix(".wav") for path, job in jobs.items() if job["status"] == "failed"}
    assert refused == REFUSED
    assert {job["error_code"] for job in jobs.values()} == {"internal", None}
    assert all(jobs[f"{name}.wav"]["error"] for name in REFUSED)
    assert setup.query_incidents() == []


@pytest.mark.parametrize("odd", ["nan in a word", "unknown code", "nan at the end", "no warnings"])
async def test_a_report_refused_by_the_ledger_ends_only_its_job(
    setup: StallSetup, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speakeasyd.workers.supervisor.find_complaint", lambda _report: None)
    FaultScript((InjectedFault("odd_report", file="bad", chunk=1, text=odd),)).write_to(setup.root)
    for name in ("bad.wav", "good.wav", "better.wav"):
        setup.drop_file(name)
    async with setup.run():
        await setup.wait_for_jobs(3)
    jobs = setup.query_jobs()
    assert {path: job["status"] for path, job in jobs.items()} == {
        "bad.wav": "failed",
        "good.wav": "completed",
        "better.wav": "completed",
    }
    assert jobs["bad.wav"]["error_code"] == "internal"


async def test_a_hung_publication_is_repeated(
    setup: StallSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PUBLISH_LEAST_S", 0.0)
    publish, hung = Publisher.publish_job, list[int]()

    async def hang_once(self: Publisher, job: Job) -> None:
        if not hung:
            hung.append(job.id)
            await asyncio.Event().wait()
        await publish(self, job)

    monkeypatch.setattr(Publisher, "publish_job", hang_once)
    setup.drop_file("a.wav")
    async with setup.run(stall_s=5):
        await setup.wait_for_jobs(1, "the second try")
        await wait_until(
            lambda: [one["resolved_at"] is not None for one in setup.query_incidents()] == [True],
            "the end of the incident",
        )
        await wait_until(lambda: setup.read_failures() == "{}", "the end of all failures")
    assert setup.query_jobs()["a.wav"]["status"] == "completed"
    assert [(one["kind"], one["path"]) for one in setup.query_incidents()] == [("stall", "a.wav")]


async def test_a_failing_dispatcher_keeps_no_job(
    setup: StallSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    process_events, broken = ReportHandler.process_events, [True]

    async def raise_while_broken(self: ReportHandler) -> None:
        if self._claims and broken[0]:
            raise RuntimeError("a defect")
        await process_events(self)

    monkeypatch.setattr(ReportHandler, "process_events", raise_while_broken)
    setup.drop_file("a.wav")
    async with setup.run(stall_s=5):
        await wait_until(
            lambda: "a defect" in setup.read_failures(), "the failure of the dispatcher"
        )
        await wait_until(
            lambda: [one["kind"] for one in setup.query_incidents()] == ["stall"], "the watchdog"
        )
        broken[0] = False
        await setup.wait_for_jobs(1, "the job")
        await wait_until(lambda: setup.read_failures() == "{}", "the end of all failures")
    assert setup.query_jobs()["a.wav"]["status"] == "completed"


async def test_a_task_without_reports_is_started_again(
    setup: StallSetup,
) -> None:
    """The worker continues with other tasks meanwhile."""
    FaultScript((InjectedFault("no_word", file="forgotten", chunk=1),), chunk_s=0.2).write_to(
        setup.root
    )
    setup.drop_file("forgotten.wav")
    setup.drop_file("long.wav", chunks=250)
    async with setup.run(stall_s=5):
        await wait_until(
            lambda: (
                "forgotten.wav" in setup.query_jobs()
                and setup.query_jobs()["forgotten.wav"]["status"] == "completed"
            ),
            "the forgotten task",
        )
    assert [(one["kind"], one["path"]) for one in setup.query_incidents()] == [
        ("stall", "forgotten.wav")
    ]
