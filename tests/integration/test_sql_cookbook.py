"""The queries of docs/sql.md are run as printed, and its descriptions are compared with the views."""

import asyncio
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from speakeasyd.clock import SystemClock, format_utc
from speakeasyd.domain.event_payloads import JobNoted
from speakeasyd.domain.fault import FaultKind
from speakeasyd.domain.incidents import Incident, IncidentAction
from speakeasyd.domain.job import WaitingFile
from speakeasyd.domain.transcript import Chunk, MediaWarning, Segment, WarningKind, Word
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger.claims import claim_jobs, fail_job, release_claim
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import close_incident, open_incident, store_state
from speakeasyd.ledger.new_jobs import add_jobs, store_waiting_files
from speakeasyd.ledger.publication import JobArtifacts, complete_jobs
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import Transcribed, store_results
from speakeasyd.ledger.speakers import load_job_speakers, store_found_speakers
from speakeasyd.ledger.views import VIEWS
from speakeasyd.services.speakers import SpeakerChange, apply_change, find_file_speakers
from tests.conftest import REPOSITORY
from tests.ledgers import (
    add_claimed_jobs,
    build_artifact,
    build_chunk,
    build_job,
    finish_job,
    open_ledger,
    with_newer_time,
)
from tests.unit.test_ledger_speakers import build_chunk_with_speakers

PAGE = (REPOSITORY / "docs" / "sql.md").read_text(encoding="utf-8")
COOKBOOK = dict(re.findall(r"^### (.+?)\n+```sql\n(.+?)```", PAGE, re.MULTILINE | re.DOTALL))
FIRST_COLUMNS = {
    "job_status": "job_id batch inbox path status progress attempts audio_seconds language model device error_code"
    " error created_at started_at finished_at available_at preset warning",
    "batch_progress": "batch total pending processing completed failed cancelled skipped audio_seconds progress",
    "transcript_text": "job_id path language text",
    "segments_text": "job_id path start end language text",
}
NOW = SystemClock().utc()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger after a day with jobs of every kind."""
    path = tmp_path_factory.mktemp("cookbook") / "ledger.db"
    asyncio.run(fill_ledger(path))
    return path


async def fill_ledger(path: Path) -> None:
    async with open_ledger(path, clock=SystemClock()) as ledger:
        one, call, hard, silent = await add_claimed_jobs(
            ledger, *(build_job(f"talks/{name}.wav") for name in ("one", "call", "hard", "silent"))
        )
        words = (Word(0.0, 0.5, " The", 0.9), Word(0.5, 1.0, " fox", 0.8))
        await ledger.write(
            store_results, [(one.id, one.token, JobNoted(language="en", language_probability=0.6))]
        )
        segment = Segment(
            0.0, 1.0, " The quick brown fox", -0.2, 1.0, 0.0, words=words, language="nl"
        )
        await ledger.write(
            store_results, [(one.id, one.token, Chunk(9, 0.0, 10.0, (segment,), compute_s=1.0))]
        )
        await finish_job(ledger, one, " jumps.", " Mumble mumble.")
        doubtful = Segment(20.0, 21.0, " Mumble mumble mumble.", -1.5, 2.9, 0.4)
        await ledger.write(
            store_results, [(call.id, call.token, build_chunk(0, " Hi.", channel=0))]
        )
        await ledger.write(
            store_results,
            [(call.id, call.token, Chunk(1, 20.0, 30.0, (replace(doubtful, channel=1),), 1))],
        )
        await ledger.write(store_results, [(call.id, call.token, build_chunk(3, gap=True))])
        cut = MediaWarning(WarningKind.CUT, "cut short")
        await ledger.write(
            store_results, [(call.id, call.token, Transcribed(audio_seconds=40.0, warnings=[cut]))]
        )
        await ledger.write(
            complete_jobs, [JobArtifacts(call.id, call.token, [build_artifact("call.txt")])]
        )
        incident = await ledger.write(
            open_incident,
            Incident(
                kind=FaultKind.HANG,
                phase="generate",
                device="cpu",
                worker="w1",
                summary="no progress",
                action=IncidentAction.START_WORKER,
                job_id=hard.id,
            ),
        )
        await ledger.write(close_incident, incident, cost_seconds=3.5)
        await ledger.write(
            release_claim,
            hard.id,
            hard.token,
            available_at=None,
            error_code="worker_crashed",
            crash=True,
        )
        [hard] = await ledger.write(claim_jobs, 1)
        await ledger.write(
            fail_job,
            hard.id,
            hard.token,
            code=ErrorCode.POISON,
            error="what is heard takes workers down",
        )
        await finish_job(ledger, silent)
        await ledger.write(add_jobs, [with_newer_time(build_job("talks/one.wav"))])
        later, _running = await add_claimed_jobs(
            ledger, build_job("later.wav"), build_job("running.wav")
        )
        await ledger.write(
            release_claim,
            later.id,
            later.token,
            available_at="2999-01-01T00:00:00.000Z",
            error_code="worker_crashed",
        )
        await ledger.write(add_jobs, [build_job("next.wav")])
        [clean] = await add_claimed_jobs(
            ledger, replace(build_job("clean.wav", priority=9), batch="clean")
        )
        await finish_job(ledger, clean, " All is well.")
        await finish_talk(ledger)
        await ledger.write(
            store_waiting_files,
            "inbox",
            [WaitingFile(b"big.wav", 5, format_utc(NOW), "still growing")],
        )
        await ledger.write(store_state, "pauses", {})


async def finish_talk(ledger: Ledger) -> None:
    """Complete a job with two speakers, one of whom has a name."""
    [talk] = await add_claimed_jobs(
        ledger, build_job("talks/talk.wav", speakers="auto", priority=9)
    )
    spoken = build_chunk_with_speakers(0, 1, 2)
    budget = replace(spoken.segments[0], text=" The budget is small.")
    chunk = replace(spoken, segments=(budget, *spoken.segments[1:]))
    await ledger.write(store_results, [(talk.id, talk.token, chunk)])
    await ledger.write(store_results, [(talk.id, talk.token, Transcribed(audio_seconds=10.0))])
    known = await ledger.read(load_job_speakers, talk.id)
    found = find_file_speakers(known, [])
    anna = apply_change(
        replace(known, speakers=found.speakers, numbers=found.numbers),
        SpeakerChange(names={1: "Anna"}),
    )
    await ledger.write(store_found_speakers, talk.id, talk.token, anna)
    await ledger.write(
        complete_jobs, [JobArtifacts(talk.id, talk.token, [build_artifact("talk.txt")])]
    )


def test_the_cookbook_has_queries() -> None:
    assert len(COOKBOOK) >= 24
    assert len(COOKBOOK) == PAGE.count("```sql")


@pytest.mark.parametrize("question", COOKBOOK)
def test_every_query_returns_rows(ledger: Path, question: str) -> None:
    rows = query_readonly(ledger, COOKBOOK[question])
    assert rows, "the query is right, but finds nothing where something is to be found"
    assert any(value is not None for value in rows[0].values())


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_described(ledger: Path, view: str) -> None:
    with closing(sqlite3.connect(ledger)) as connection:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({view})")]
    assert columns == read_description(view)
    promised = FIRST_COLUMNS.get(view, "").split()
    assert columns[: len(promised)] == promised


def read_description(view: str) -> list[str]:
    section = PAGE.partition(f"### {view}\n")[2].partition("\n##")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_what_datasette_is_told_fits_the_ledger(ledger: Path) -> None:
    text = (REPOSITORY / "contrib" / "datasette" / "metadata.yaml").read_text(encoding="utf-8")
    metadata = yaml.safe_load(text)["databases"]["ledger"]
    with closing(sqlite3.connect(ledger)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        columns = {
            view: {row[1] for row in connection.execute(f"PRAGMA table_info({view})")}
            for view in VIEWS
        }
        assert metadata["tables"].keys() <= names
        assert VIEWS.keys() <= metadata["tables"].keys()
        for view in VIEWS:
            assert set(metadata["tables"][view].get("facets", [])) <= columns[view]
        for name, query in metadata["queries"].items():
            rows = connection.execute(query["sql"], {"words": "fox"}).fetchall()
            assert rows, f"{name} has no answer"
