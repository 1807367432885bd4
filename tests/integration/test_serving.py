"""A failure of the server does not stop the daemon, and the reverse."""

import logging
import socket
import sys
from pathlib import Path

import pytest

from speakeasyd.config import ServerSettings, Settings
from speakeasyd.domain.event_payloads import ResumeRequested
from speakeasyd.domain.pausing import PERSON_PAUSE
from speakeasyd.ledger.maintenance import send_request
from tests.conftest import wait_until
from tests.integration.scripted_daemon import (
    create_settings,
    drop_file,
    run_daemon,
    use_scripted_engine,
)
from tests.ledgers import query_ledger


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with one short file to transcribe, and a server on a free port."""
    use_scripted_engine(monkeypatch)
    settings = create_settings(tmp_path, server=ServerSettings(port=0))
    drop_file(settings, "talk.wav")
    return settings


async def assert_transcribes_and_logs(
    settings: Settings, caplog: pytest.LogCaptureFixture, words: str
) -> None:
    done = "SELECT 1 FROM jobs WHERE status = 'completed'"
    with caplog.at_level(logging.INFO, "speakeasyd"):
        async with run_daemon(settings) as (_, task):
            await wait_until(lambda: task.done() or words in caplog.text, words)
            await wait_until(
                lambda: task.done() or query_ledger(settings.state, done), "the transcript"
            )
            assert not task.done()


async def test_the_daemon_works_without_the_libraries_of_the_server(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "speakeasyd.server.service", None)
    await assert_transcribes_and_logs(settings, caplog, "pip install 'speakeasyd[server]'")


async def test_a_used_port_does_not_stop_work(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = settings.model_copy(update={"server": ServerSettings(port=port)})
        await assert_transcribes_and_logs(taken, caplog, f"cannot listen on 127.0.0.1:{port}")


async def test_a_persons_pause_survives_a_restart(settings: Settings) -> None:
    def read_statuses() -> list[object]:
        return [
            row["status"]
            for row in query_ledger(
                settings.state, "SELECT status FROM jobs WHERE path = 'later.wav'"
            )
        ]

    async with run_daemon(settings) as (first, _):
        await wait_until(
            lambda: query_ledger(settings.state, "SELECT 1 FROM state WHERE key = 'workers'"),
            "the daemon",
        )
        await first._pauses.begin_pause(PERSON_PAUSE, "lunch")
    drop_file(settings, "later.wav", chunks=2)
    async with run_daemon(settings) as (second, _):
        await wait_until(read_statuses, "the job")
        assert (second._pauses.reasons, read_statuses()) == ({PERSON_PAUSE: "lunch"}, ["pending"])
        await second._ledger.write(send_request, ResumeRequested())
        await wait_until(lambda: read_statuses() == ["completed"], "the text")
