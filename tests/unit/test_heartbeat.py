"""The service manager's watchdog gets a heartbeat only from a healthy daemon."""

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from speakeasyd.config import RecoverySettings, WorkerSettings
from speakeasyd.domain.pausing import LEDGER_PAUSE
from speakeasyd.events import EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.loop import MainLoop
from speakeasyd.services.heartbeat import Heartbeat
from speakeasyd.services.pauses import Pauses
from speakeasyd.testing import ManualClock
from speakeasyd.workers.local_pool import LocalPool
from speakeasyd.workers.supervised_pool import SUPERVISED_S
from tests.ledgers import create_ledger

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="for systemd")


class Watchdog:
    """systemd's end of the notification socket."""

    def __init__(self, address: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(address))

    def read_message(self) -> bool:
        try:
            return self._socket.recv(1000) == b"WATCHDOG=1"
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._socket.close()


async def test_only_a_healthy_daemon_sends_heartbeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket has a length limit
    monkeypatch.setenv("NOTIFY_SOCKET", "notify")
    create_ledger(tmp_path / "ledger.db")
    clock, hub, main_loop = ManualClock(), EventHub(), MainLoop(asyncio.get_running_loop())
    ledger = await Ledger.open(tmp_path / "ledger.db", clock=clock, hub=hub)
    pauses = Pauses(ledger=ledger, hub=hub, clock=clock)
    pool = LocalPool(
        settings=WorkerSettings(),
        recovery=RecoverySettings(),
        state_dir=tmp_path,
        folders={},
        main_loop=main_loop,
        clock=clock,
    )
    heartbeat = Heartbeat(ledger=ledger, pauses=pauses, pool=pool)
    watchdog = Watchdog(Path("notify"))
    try:
        await heartbeat.run_once()
        assert watchdog.read_message()
        clock.advance(SUPERVISED_S)  # the workers were not checked
        await heartbeat.run_once()
        assert not watchdog.read_message()
        pool._tick_supervisors()
        await heartbeat.run_once()
        assert watchdog.read_message()
        assert LEDGER_PAUSE not in pauses
    finally:
        watchdog.close()
        await ledger.close()
