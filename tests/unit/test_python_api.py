"""The Python API: its names, and the ledger as programs read it."""

import doctest
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest

import speakeasyd
from speakeasyd.api import ledger as ledger_api
from speakeasyd.api import rendering
from speakeasyd.domain.options import Options
from speakeasyd.ledger.readonly import LEDGER, query_readonly
from tests import ledgers

OF_THE_DAEMON = {"formats", "name", "priority"}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def test_the_import_alone_loads_nothing() -> None:
    code = "import sys, speakeasyd; print(*sys.modules)"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in loaded if name.startswith("speakeasyd.")] == []


def test_every_public_name_exists() -> None:
    assert {*speakeasyd._MODULES, "__version__"} == set(speakeasyd.__all__)
    assert set(speakeasyd.__all__) <= set(dir(speakeasyd))
    for name in speakeasyd.__all__:
        assert getattr(speakeasyd, name)
    with pytest.raises(AttributeError, match="no attribute 'transcript'"):
        speakeasyd.transcript  # type: ignore[attr-defined] # noqa: B018


def test_transcribe_takes_every_option_of_a_transcript() -> None:
    taken = speakeasyd.TranscribeOptions.__annotations__
    assert taken.keys() == Options.model_fields.keys() - OF_THE_DAEMON


def test_a_record_has_every_column_of_the_view(state: Path) -> None:
    ledgers.create_ledger(state / LEDGER)
    columns = query_readonly(state / LEDGER, "SELECT name FROM pragma_table_info('job_status')")
    names = [field.name for field in fields(speakeasyd.JobRecord)]
    assert sorted(names) == sorted(str(row["name"]) for row in columns)


async def test_documented_examples_of_the_ledger(state: Path) -> None:
    async with ledgers.open_ledger(state / LEDGER) as ledger:
        [job] = await ledgers.add_claimed_jobs(ledger, ledgers.build_job("monday.mp3"))
        await ledgers.finish_job(ledger, job, " Good morning.", " The budget is agreed.")
    for module in (ledger_api, rendering):
        outcome = doctest.testmod(module)
        assert outcome.attempted
        assert not outcome.failed


def test_jobs_are_read_page_by_page(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledgers.create_ledger(state / LEDGER)
    with closing(sqlite3.connect(state / LEDGER)) as connection:
        ledgers.insert_jobs(connection, 7)
    monkeypatch.setattr(ledger_api, "_PAGE", 2)
    ledger = speakeasyd.Ledger(state)
    assert [job.job_id for job in ledger.jobs()] == [7, 6, 5, 4, 3, 2, 1]
    assert [job.job_id for job in ledger.jobs(status="pending", path="FILE 3")] == [3]
    assert ledger.job(2).status == "completed"


def test_errors_say_what_to_do(state: Path) -> None:
    with pytest.raises(speakeasyd.SpeakeasyError) as missing:
        next(speakeasyd.Ledger(state).jobs())
    assert missing.value.hint
    ledgers.create_ledger(state / "copy.db")
    copy = speakeasyd.Ledger(state / "copy.db")
    assert list(copy.jobs()) == []
    for read in (copy.job, copy.transcript):
        with pytest.raises(speakeasyd.SpeakeasyError, match="no job 7"):
            read(7)
    with pytest.raises(speakeasyd.SpeakeasyError, match="no format 'pdf'"):
        speakeasyd.render(speakeasyd.Transcript(0, "", None, "", 0.0), "pdf")
