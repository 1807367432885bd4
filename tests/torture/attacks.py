"""Attacks by outsiders while files arrive steadily. Work must continue, and nothing may be lost."""

import http.client
import random
import re
import resource
import shutil
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import httpx

from speakeasyd.testing import FaultScript
from tests.ledgers import create_ledger
from tests.torture.daemon_under_test import PATIENCE_S, DaemonUnderTest
from tests.torture.scenario import Run, Scenario
from tests.torture.steady_work import SteadyWork, steady_work

MAX_OPEN_FILES = 1024  # of the daemon, as soft and hard limit
CONNECTIONS = 1100
WEBHOOKS = 8  # more than the loop's shared executor has threads
DRIP_S = 0.5  # seconds between two bytes
SEARCHERS = 6
SEGMENTS = 200_000
OUTAGE_S = 3.0  # seconds
TRANSCRIPTS = 24  # that must appear during an attack
QUICK_TRANSCRIPTS = 4
FAKETIME_LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)

Tables = Mapping[str, Mapping[str, object]]

NO_SETTINGS: Tables = {}
PATIENT_SETTINGS: Tables = {"recovery": {"stall_s": 60}}
SERVER_SETTINGS: Tables = {"server": {"enabled": True, "port": 0}}


class Attack:
    """One kind of attack. Subclasses define the settings that it needs, and run it."""

    name: str
    fault: str
    rounds = 3
    quick_rounds = 1
    chunk_s = 0.01  # seconds that a chunk takes
    settings: Tables = NO_SETTINGS
    stops_work = False  # no work is possible during the attack; the gap is measured after it

    def __init__(self, scratch: Path, rng: random.Random) -> None:
        self.scratch = scratch
        self.rng = rng

    def prepare(self, daemon: DaemonUnderTest, *, quick: bool) -> Sequence[str]:
        """Prepare before the daemon starts. Returns a program that runs it, with its arguments."""
        return ()

    def open(self) -> None:
        """Start what the settings refer to, before the daemon is created."""

    def close(self) -> None: ...

    def run(
        self, daemon: DaemonUnderTest, number: int, work: SteadyWork
    ) -> AbstractContextManager[object]:
        """Attack inside the `with` block."""
        raise NotImplementedError


def run_attacks(run: Run, attacks: Sequence[Attack]) -> None:
    """Attack one daemon in all these ways, one after the other."""
    transcripts = QUICK_TRANSCRIPTS if run.quick else TRANSCRIPTS
    with ExitStack() as opened:
        for attack in attacks:
            attack.open()
            opened.callback(attack.close)
        settings = _merge_settings(attack.settings for attack in attacks)
        with run.create_daemon(settings=settings) as daemon:
            chunk_s = min(attack.chunk_s for attack in attacks)
            daemon.write_fault_script(FaultScript(chunk_s=chunk_s))
            wrappers = [attack.prepare(daemon, quick=run.quick) for attack in attacks]
            daemon.start(wrapper=list(chain.from_iterable(wrappers)))
            with steady_work(daemon, run.rng) as work:
                work.measure_longest_gap(transcripts)  # while the daemon starts
                usual_gap = work.measure_longest_gap(transcripts)
                for attack in attacks:
                    for number in run.count_rounds(attack.rounds, quick=attack.quick_rounds):
                        with attack.run(daemon, number, work):
                            if not attack.stops_work:
                                gap = work.measure_longest_gap(transcripts)
                        if attack.stops_work:
                            gap = work.measure_longest_gap(transcripts)
                        run.standstill_s.append(max(0.0, gap - usual_gap))
                work.measure_longest_gap(QUICK_TRANSCRIPTS)  # the usual work continues
            daemon.wait_for_all_jobs()
            if daemon.starts != 1 or daemon.stop() != 0:
                run.report_violation("the daemon did not survive it")


def _merge_settings(settings: Iterable[Tables]) -> Tables:
    merged: dict[str, dict[str, object]] = {}
    for tables in settings:
        for name, table in tables.items():
            merged.setdefault(name, {}).update(table)
    return merged


def read_port(daemon: DaemonUnderTest) -> int:
    def find_ports() -> list[str]:
        log = (daemon.root / "daemon.log").read_text("utf-8", errors="replace")
        return re.findall(r"the page: http://127\.0\.0\.1:(\d+)/", log)

    ports = daemon.wait_until(find_ports, "the server")
    return int(ports[-1])


@contextmanager
def run_in_threads(function: Callable[[threading.Event], None], number: int) -> Iterator[None]:
    """Run the function in threads until the block ends. It gets an event that is set then."""
    stopped = threading.Event()
    threads = [threading.Thread(target=function, args=(stopped,)) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


# --- 1. connections


class HalfOpenConnections(Attack):
    name = "outside-half-open"
    fault = f"{CONNECTIONS} connections that never finish their header, {MAX_OPEN_FILES} open files allowed"
    settings = SERVER_SETTINGS

    def prepare(self, daemon: DaemonUnderTest, *, quick: bool) -> Sequence[str]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(hard, max(soft, CONNECTIONS + 300))
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return ("prlimit", f"--nofile={MAX_OPEN_FILES}:{MAX_OPEN_FILES}")

    @contextmanager
    def run(self, daemon: DaemonUnderTest, number: int, work: SteadyWork) -> Iterator[None]:
        port = read_port(daemon)
        with ExitStack() as stack:
            for _ in range(CONNECTIONS):
                client = stack.enter_context(
                    closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
                )
                with suppress(OSError):
                    client.sendall(b"GET / HTTP/1.1\r\nhost: loc")
            yield


# --- 2. webhooks


@dataclass
class Receiver:
    """Answers every request at once; during an attack it is silent or sends single bytes."""

    listener: socket.socket = field(
        default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=64)
    )
    mode: str = ""  # "silent", "drip"
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    def start(self) -> None:
        threading.Thread(target=self._accept_connections, daemon=True).start()

    def _accept_connections(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(
                    target=self._send_response, args=(connection,), daemon=True
                ).start()

    def _send_response(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            response = b"HTTP/1.1 204 x\r\nconnection: close\r\n"
            if self.mode == "silent":
                self.ended.wait()
            for byte in bytes(1000).replace(b"\0", b"x: y\r\n") if self.mode else b"":
                connection.sendall(bytes([byte]))
                if self.ended.wait(DRIP_S):
                    break
            connection.sendall(response + b"\r\n")


class SlowWebhooks(Attack):
    name = "outside-webhooks"
    fault = f"{WEBHOOKS} webhooks that stay silent, or send a byte each {DRIP_S} s"
    rounds = quick_rounds = 2

    def open(self) -> None:
        self._receiver = Receiver()
        self._receiver.start()
        urls = [f"http://127.0.0.1:{self._receiver.port}/{n}" for n in range(WEBHOOKS)]
        events = ["job.completed", "job.failed"]
        hooks = [{"url": url, "events": events} for url in urls]
        self.settings = {"notify": {"webhooks": hooks}}

    def close(self) -> None:
        self._receiver.ended.set()
        self._receiver.listener.close()

    @contextmanager
    def run(self, daemon: DaemonUnderTest, number: int, work: SteadyWork) -> Iterator[None]:
        self._receiver.ended.clear()
        self._receiver.mode = ("silent", "drip")[number % 2]
        try:
            yield
        finally:
            self._receiver.mode = ""
            self._receiver.ended.set()


# --- 3. hooks

HOOK_PROGRAM = """
import os, subprocess, sys, time
kind = open(sys.argv[1]).read()
if kind == "flood":
    while True:
        os.write(2, b"x" * 65536)
if kind == "hang":
    time.sleep(1000)
if kind == "leave a child":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
"""


class HostileHooks(Attack):
    name = "outside-hooks"
    fault = "a hook that floods its error output, never ends, or leaves a child"
    quick_rounds = 3

    def open(self) -> None:
        self._kind = self.scratch / "kind"
        self._kind.write_text("")
        hook = [sys.executable, "-c", HOOK_PROGRAM, str(self._kind)]
        self.settings = {"notify": {"hook": hook, "hook_timeout_s": 2}}

    @contextmanager
    def run(self, daemon: DaemonUnderTest, number: int, work: SteadyWork) -> Iterator[None]:
        self._kind.write_text(("flood", "hang", "leave a child")[number % 3])
        try:
            yield
        finally:
            self._kind.write_text("")


# --- 4. searches

FILL_LEDGER = """
    INSERT INTO batches (name, created_at) VALUES ('inbox', '2026');
    INSERT INTO jobs (id, batch, inbox, path_raw, path, size, mtime_ns, inode, sha256, options,
        requested_model, status, created_at, available_at, finished_at)
    VALUES (1, 'inbox', 'inbox', CAST('old.wav' AS BLOB), 'old.wav', 1, 1, 1, 'x', '{}', 'auto',
        'completed', '2026', '2026', '2026');
    INSERT INTO chunks (job_id, number, start_seconds, end_seconds, committed_at)
    VALUES (1, 0, 0, 1, '2026');
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :segments)
    INSERT INTO segments (job_id, chunk, position, start_seconds, end_seconds, text)
    SELECT 1, 0, i, i, i + 1, ' aa' || i || ' bb' || (i * 7) || ' cc' || (i % 999) || ' dd' FROM n;
"""


class AbandonedSearches(Attack):
    name = "outside-searches"
    fault = "costly searches that are abandoned"
    settings = SERVER_SETTINGS

    def prepare(self, daemon: DaemonUnderTest, *, quick: bool) -> Sequence[str]:
        create_ledger(daemon.state / "ledger.db")
        segments = SEGMENTS // 20 if quick else SEGMENTS
        with closing(sqlite3.connect(daemon.state / "ledger.db")) as connection:
            connection.executescript(FILL_LEDGER.replace(":segments", str(segments)))
            connection.commit()
        daemon.texts["old.wav"] = None
        return ()

    @contextmanager
    def run(self, daemon: DaemonUnderTest, number: int, work: SteadyWork) -> Iterator[None]:
        port = read_port(daemon)

        def search(stopped: threading.Event) -> None:
            while not stopped.is_set():
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
                    with suppress(OSError, http.client.HTTPException):
                        client.request("GET", "/api/v1/search?q=aa*+bb*+cc*+dd")
                    stopped.wait(0.1)

        with run_in_threads(search, SEARCHERS):
            yield


# --- 5. descriptors


class NoFreeDescriptors(Attack):
    name = "outside-descriptors"
    stops_work = True
    fault = f"no descriptor is free for {OUTAGE_S:g} s, while files come"

    @contextmanager
    def run(self, daemon: DaemonUnderTest, number: int, work: SteadyWork) -> Iterator[None]:
        assert daemon.process
        pid = daemon.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
        try:
            time.sleep(OUTAGE_S)
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        yield


# --- 6. the inbox


class MovedInbox(Attack):
    name = "outside-inbox-away"
    stops_work = True
    fault = f"uploads while the inbox is moved away for {OUTAGE_S:g} s"
    settings = SERVER_SETTINGS

    @contextmanager
    def run(self, daemon: DaemonUnderTest, number: int, work: SteadyWork) -> Iterator[None]:
        url = f"http://127.0.0.1:{read_port(daemon)}/api/v1/batches"
        elsewhere = daemon.inbox.with_name("elsewhere")
        with work.pause_drops():
            daemon.inbox.rename(elsewhere)
            try:
                until = time.monotonic() + OUTAGE_S
                while time.monotonic() < until:
                    response = httpx.post(url, files={"files": ("up.wav", b"RIFF up")}, timeout=60)
                    if response.status_code != 503:
                        raise RuntimeError(f"an upload without an inbox: {response.status_code}")
            finally:
                elsewhere.rename(daemon.inbox)
        yield


# --- 7. the clock


class ClockChanges(Attack):
    name = "outside-clock"
    fault = "the clock is set back by 2 h and 2 days, and forward again"
    chunk_s = 0.0  # libfaketime breaks short sleeps
    settings = PATIENT_SETTINGS  # libfaketime is slow

    def prepare(self, daemon: DaemonUnderTest, *, quick: bool) -> Sequence[str]:
        self._offset = daemon.root / "offset"
        self._set_offset("+0")
        return (
            "env",
            f"LD_PRELOAD={FAKETIME_LIBRARY}",
            f"FAKETIME_TIMESTAMP_FILE={self._offset}",
            "FAKETIME_CACHE_DURATION=1",  # seconds
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )

    def _set_offset(self, offset: str) -> None:
        self._offset.write_text(offset + "\n")

    @contextmanager
    def run(self, daemon: DaemonUnderTest, number: int, work: SteadyWork) -> Iterator[None]:
        self._set_offset(("-2h", "-2d", "+0")[number % 3])
        yield


# --- 8. links


class FolderLinks(Attack):
    name = "outside-links"
    fault = "a folder is replaced by a link to one with the same names, again and again"

    @contextmanager
    def run(self, daemon: DaemonUnderTest, number: int, work: SteadyWork) -> Iterator[None]:
        folder, outside = daemon.inbox / f"talks-{number}", self.scratch / f"outside-{number}"
        kept, link = folder.with_name(f".kept-{number}"), folder.with_name(f".link-{number}")
        outside.mkdir()
        for file in range(5):
            daemon.drop_scripted_file(f"{folder.name}/{file}.wav", chunks=2, rng=self.rng)
            (outside / f"{file}.wav").write_bytes(b"secret" * 5000)
        swaps = 0

        def swap(stopped: threading.Event) -> None:
            nonlocal swaps
            while not stopped.is_set():
                link.symlink_to(outside)
                folder.rename(kept)
                link.rename(folder)
                folder.unlink()
                kept.rename(folder)
                swaps += 1

        with run_in_threads(swap, 1):
            yield
        if not swaps:
            raise RuntimeError("the folder was never replaced")
        if any(path.suffix != ".wav" for path in outside.iterdir()):
            raise RuntimeError("a file was written outside")


def read_descriptor_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


ATTACKS: Mapping[type[Attack], Callable[[], bool]] = {
    HalfOpenConnections: lambda: (
        bool(shutil.which("prlimit")) and read_descriptor_limit() > CONNECTIONS + 300
    ),
    SlowWebhooks: lambda: True,
    HostileHooks: lambda: True,
    AbandonedSearches: lambda: True,
    NoFreeDescriptors: lambda: sys.platform == "linux",
    MovedInbox: lambda: True,
    ClockChanges: lambda: FAKETIME_LIBRARY is not None,
    FolderLinks: lambda: True,
}


def _run_scenario(run: Run, *, kinds: Sequence[type[Attack]]) -> None:
    run_attacks(run, [kind(run.scratch, run.rng) for kind in kinds])


# The clock is left out: libfaketime slows the daemon down
COMBINED = [kind for kind in ATTACKS if kind is not ClockChanges]

SCENARIOS = (
    *(
        Scenario(kind.name, kind.fault, partial(_run_scenario, kinds=[kind]), is_possible)
        for kind, is_possible in ATTACKS.items()
    ),
    Scenario(
        "outside-combined",
        "the attacks above but for the clock, one after the other on one daemon",
        partial(_run_scenario, kinds=COMBINED),
        lambda: all(ATTACKS[kind]() for kind in COMBINED),
        in_quick=True,
    ),
)
