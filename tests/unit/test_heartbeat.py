"""The watchdog of the service manager hears from the daemon only while it is healthy."""

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
from speakeasyd.workers.local_pool import SUPERVISED_S, LocalPool
from tests.ledgers import create

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="for systemd")


class Watchdog:
    """systemd's end of the notification socket."""

    def __init__(self, address: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(address))

    def heard(self) -> bool:
        try:
            return self._socket.recv(1000) == b"WATCHDOG=1"
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._socket.close()


async def test_the_watchdog_hears_of_a_healthy_daemon_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket must be short
    monkeypatch.setenv("NOTIFY_SOCKET", "notify")
    create(tmp_path / "ledger.db")
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
        assert watchdog.heard()
        clock.advance(SUPERVISED_S)  # nobody has looked at the workers
        await heartbeat.run_once()
        assert not watchdog.heard()
        pool._tick_supervisors()
        await heartbeat.run_once()
        assert watchdog.heard()
        assert LEDGER_PAUSE not in pauses
    finally:
        watchdog.close()
        await ledger.close()
