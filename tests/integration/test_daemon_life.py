"""Defects in background tasks end the daemon with a status; reloads stop every service once."""

import asyncio
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from speakeasyd import cli
from speakeasyd.cli.service_steps import carry_out
from speakeasyd.config import LogSettings, Settings
from speakeasyd.daemon import Daemon
from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.events import Event
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.services import reloadable
from speakeasyd.services.janitor import Janitor
from speakeasyd.system.managers.plan import AwaitStop
from tests.conftest import PATIENCE_S, wait_until
from tests.integration.scripted_daemon import create_settings, drop_file, use_scripted_engine
from tests.ledgers import query_ledger

RELOADS = 3


class InjectedDefect(Exception):
    """A defect that a test injects."""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    use_scripted_engine(monkeypatch)
    return create_settings(tmp_path)


def build_failing_listener(kind: EventKind) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if event.kind is kind:
            raise InjectedDefect(f"at {kind}")

    return on_event


async def test_an_exception_in_the_event_listener_ends_the_daemon(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    main = await Daemon.open(settings, on_event=build_failing_listener(EventKind.JOB_ADDED))
    drop_file(settings, "a.wav")
    with pytest.raises(InjectedDefect, match=r"at job\.added"):
        await asyncio.wait_for(main.run(), PATIENCE_S)
    [record] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "'events' failed" in record.getMessage()
    assert record.exc_info
    assert not asyncio.all_tasks() - {asyncio.current_task()}, "all was stopped"


async def test_an_exception_in_a_reload_ends_the_daemon(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def reload_settings() -> Settings:
        raise InjectedDefect("at the reload")

    main = await Daemon.open(settings, reload_settings=reload_settings)
    main._reload_requested.set()
    with pytest.raises(InjectedDefect, match="at the reload"):
        await asyncio.wait_for(main.run(), PATIENCE_S)
    assert "'reloads' failed" in caplog.text


async def test_an_exception_ends_a_run_until_drained(settings: Settings) -> None:
    drop_file(settings, "a.wav")
    main = await Daemon.open(
        settings, wait_for_fixes=False, on_event=build_failing_listener(EventKind.JOB_COMPLETED)
    )
    with pytest.raises(InjectedDefect):
        await asyncio.wait_for(main.run_until_drained(), PATIENCE_S)


PROGRAM = """
import sys
from functools import partial
from speakeasyd import cli, daemon, logs
from speakeasyd.testing import SCRIPTED

def fail(event):
    raise RuntimeError("a defect of the listener")

daemon.LocalPool = partial(daemon.LocalPool, target=SCRIPTED)
logs.EventLogger = lambda: fail
if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
"""


def test_the_command_exits_with_the_status_of_a_defect(settings: Settings) -> None:
    drop_file(settings, "a.wav")
    [inbox] = settings.inboxes
    program = settings.state / "program.py"
    program.write_text(PROGRAM)
    places = ["--inbox", inbox.path, "--outbox", inbox.outbox, "--state", settings.state]
    done = subprocess.run(
        [sys.executable, program, "run", *places, "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == cli.DEFECT, done.stderr
    assert "a defect: RuntimeError: a defect of the listener" in done.stderr


async def test_a_request_in_the_ledger_stops_the_daemon(settings: Settings) -> None:
    main = await Daemon.open(settings)
    with LedgerLock(settings.state):
        running = asyncio.create_task(main.run())
        started = "SELECT 1 FROM state WHERE key = 'daemon'"
        await wait_until(lambda: query_ledger(settings.state, started), "the start")
        stopping = asyncio.create_task(
            asyncio.to_thread(carry_out, (AwaitStop(asks=True),), state=settings.state)
        )
        assert await asyncio.wait_for(running, PATIENCE_S) == 0
        assert not stopping.done(), "the lock is still held"
    assert await asyncio.wait_for(stopping, PATIENCE_S) == 0


async def test_reloads_stop_each_service_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = Counter[Janitor]()

    class CountedJanitor(Janitor):
        async def stop(self) -> None:
            stops[self] += 1
            await super().stop()

    monkeypatch.setattr(reloadable, "Janitor", CountedJanitor)
    levels = iter(["debug", "info", "warning"])
    reloads: list[Event] = []

    def reload_settings() -> Settings:
        return settings.model_copy(update={"log": LogSettings(level=next(levels))})

    def on_event(event: Event) -> None:
        if event.kind is EventKind.CONFIG_RELOADED:
            reloads.append(event)

    main = await Daemon.open(settings, on_event=on_event, reload_settings=reload_settings)
    running = asyncio.create_task(main.run())
    for count in range(1, RELOADS + 1):
        main._reload_requested.set()
        await wait_until(lambda count=count: len(reloads) == count, "the reload")
    main._stop_requested.set()
    assert await asyncio.wait_for(running, PATIENCE_S) == 0
    changed = [reload.data["now"] for reload in reloads]
    services = 1 + sum(bool(keys) for keys in changed)
    assert services > 2
    assert list(stops.values()) == [1] * services
