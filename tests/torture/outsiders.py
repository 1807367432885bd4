"""What strangers can do from outside, done while files come steadily: the work goes on, and nothing is lost."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from speakeasyd.testing import FaultScript
from tests.ledgers import create
from tests.torture.place import PATIENCE_S, Place
from tests.torture.scenario import Run, Scenario
from tests.torture.steady import SteadyWork, steady_work

FILES = 1024  # descriptors of the daemon, hard limit included
HALF_OPEN = 1100  # connections
TARGETS = 8  # webhooks, more than the loop's shared executor has threads
DRIP_S = 0.5  # seconds between two bytes
SEARCHERS = 6
SEGMENTS = 200_000
AWAY_S = 3.0  # seconds
TRANSCRIPTS = 24  # that must appear during an attack
QUICK_TRANSCRIPTS = 4
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)

Tables = Mapping[str, Mapping[str, object]]
NOTHING: Tables = {}
PATIENT: Tables = {"recovery": {"stall_s": 60}}
SERVED: Tables = {"server": {"enabled": True, "port": 0}}


class Outsider:
    """One kind of attack. Subclasses say what the daemon needs for it, and do it."""

    name: str
    fault: str
    rounds = 3
    quick_rounds = 1
    chunk_s = 0.01  # seconds that a chunk takes
    settings: Tables = NOTHING

    def __init__(self, scratch: Path, dice: random.Random) -> None:
        self.scratch = scratch
        self.dice = dice

    def prepare(self, place: Place, *, quick: bool) -> Sequence[str]:
        """Before the daemon starts. Returns the program that runs it, with its arguments."""
        return ()

    def open(self) -> None:
        """Start what the settings name, before there is a place."""

    def close(self) -> None: ...

    def attack(self, place: Place, number: int, work: SteadyWork) -> AbstractContextManager[object]:
        """Attack inside the `with` block."""
        raise NotImplementedError

    def gap_without_work(self) -> bool:
        """Whether work cannot go on during the attack; it is measured from the end of it."""
        return False


def play(run: Run, outsider: Outsider) -> None:
    transcripts = QUICK_TRANSCRIPTS if run.quick else TRANSCRIPTS
    outsider.open()
    try:
        with run.place(settings=outsider.settings) as place:
            place.script(FaultScript(chunk_s=outsider.chunk_s))
            place.start(under=outsider.prepare(place, quick=run.quick))
            with steady_work(place, run.dice) as work:
                work.longest_gap(transcripts)  # while the daemon starts
                calm = work.longest_gap(transcripts)
                for number in run.times(outsider.rounds, quick=outsider.quick_rounds):
                    with outsider.attack(place, number, work):
                        if not outsider.gap_without_work():
                            gap = work.longest_gap(transcripts)
                    if outsider.gap_without_work():
                        gap = work.longest_gap(transcripts)
                    run.still_s.append(max(0.0, gap - calm))
                work.longest_gap(QUICK_TRANSCRIPTS)  # it is as before
            place.wait_for_end()
            if place.starts != 1 or place.stop() != 0:
                run.complain("the daemon did not outlive it")
    finally:
        outsider.close()


def port_of(place: Place) -> int:
    found: list[str] = []

    def is_listening() -> bool:
        log = (place.root / "daemon.log").read_text("utf-8", errors="replace")
        found[:] = re.findall(r"the page: http://127\.0\.0\.1:(\d+)/", log)
        return bool(found)

    place.until(is_listening, "the server")
    return int(found[-1])


@contextmanager
def in_threads(function: Callable[[threading.Event], None], number: int) -> Iterator[None]:
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


class HalfOpen(Outsider):
    name = "outside-half-open"
    fault = f"{HALF_OPEN} connections that never finish their header, {FILES} open files allowed"
    settings = SERVED

    def prepare(self, place: Place, *, quick: bool) -> Sequence[str]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(hard, max(soft, HALF_OPEN + 300))
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return ("prlimit", f"--nofile={FILES}:{FILES}")

    @contextmanager
    def attack(self, place: Place, number: int, work: SteadyWork) -> Iterator[None]:
        port = port_of(place)
        with ExitStack() as stack:
            for _ in range(HALF_OPEN):
                client = stack.enter_context(
                    closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
                )
                with suppress(OSError):
                    client.sendall(b"GET / HTTP/1.1\r\nhost: loc")
            yield


# --- 2. webhooks


@dataclass
class Receiver:
    """Answers every request at once; during an attack it stays silent or drips."""

    listener: socket.socket = field(
        default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=64)
    )
    attack: str = ""  # "silent", "drip"
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    def start(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            answer = b"HTTP/1.1 204 x\r\nconnection: close\r\n"
            if self.attack == "silent":
                self.over.wait()
            for byte in bytes(1000).replace(b"\0", b"x: y\r\n") if self.attack else b"":
                connection.sendall(bytes([byte]))
                if self.over.wait(DRIP_S):
                    break
            connection.sendall(answer + b"\r\n")


class Webhooks(Outsider):
    name = "outside-webhooks"
    fault = f"{TARGETS} webhooks that stay silent, or send a byte each {DRIP_S} s"
    rounds = quick_rounds = 2

    def open(self) -> None:
        self._receiver = Receiver()
        self._receiver.start()
        urls = [f"http://127.0.0.1:{self._receiver.port}/{n}" for n in range(TARGETS)]
        events = ["job.completed", "job.failed"]
        hooks = [{"url": url, "events": events} for url in urls]
        self.settings = {"notify": {"webhooks": hooks}}

    def close(self) -> None:
        self._receiver.over.set()
        self._receiver.listener.close()

    @contextmanager
    def attack(self, place: Place, number: int, work: SteadyWork) -> Iterator[None]:
        self._receiver.over.clear()
        self._receiver.attack = ("silent", "drip")[number % 2]
        try:
            yield
        finally:
            self._receiver.attack = ""
            self._receiver.over.set()


# --- 3. hooks

HOOK = """
import os, subprocess, sys, time
kind = open(sys.argv[1]).read()
if kind == "flood":
    while True:
        os.write(2, b"x" * 65536)
if kind == "never end":
    time.sleep(1000)
if kind == "leave a child":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
"""


class Hooks(Outsider):
    name = "outside-hooks"
    fault = "a hook that floods its error output, never ends, or leaves a child"
    quick_rounds = 3

    def open(self) -> None:
        self._kind = self.scratch / "kind"
        self._kind.write_text("")
        hook = [sys.executable, "-c", HOOK, str(self._kind)]
        self.settings = {"notify": {"hook": hook, "hook_timeout_s": 2}}

    @contextmanager
    def attack(self, place: Place, number: int, work: SteadyWork) -> Iterator[None]:
        self._kind.write_text(("flood", "never end", "leave a child")[number % 3])
        try:
            yield
        finally:
            self._kind.write_text("")


# --- 4. searches

FILL = """
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


class Searches(Outsider):
    name = "outside-searches"
    fault = "costly searches that are abandoned"
    settings = SERVED

    def prepare(self, place: Place, *, quick: bool) -> Sequence[str]:
        create(place.state / "ledger.db")
        segments = SEGMENTS // 20 if quick else SEGMENTS
        with closing(sqlite3.connect(place.state / "ledger.db")) as connection:
            connection.executescript(FILL.replace(":segments", str(segments)))
            connection.commit()
        place.texts["old.wav"] = None
        return ()

    @contextmanager
    def attack(self, place: Place, number: int, work: SteadyWork) -> Iterator[None]:
        port = port_of(place)

        def search(stopped: threading.Event) -> None:
            while not stopped.is_set():
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
                    with suppress(OSError, http.client.HTTPException):
                        client.request("GET", "/api/v1/search?q=aa*+bb*+cc*+dd")
                    stopped.wait(0.1)

        with in_threads(search, SEARCHERS):
            yield


# --- 5. descriptors


class Descriptors(Outsider):
    name = "outside-descriptors"
    fault = f"no descriptor is free for {AWAY_S:g} s, while files come"

    def gap_without_work(self) -> bool:
        return True

    @contextmanager
    def attack(self, place: Place, number: int, work: SteadyWork) -> Iterator[None]:
        assert place.daemon
        pid = place.daemon.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
        try:
            time.sleep(AWAY_S)
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        yield


# --- 6. the inbox


class AwayInbox(Outsider):
    name = "outside-inbox-away"
    fault = f"uploads while the inbox is moved away for {AWAY_S:g} s"
    settings = SERVED

    def gap_without_work(self) -> bool:
        return True

    @contextmanager
    def attack(self, place: Place, number: int, work: SteadyWork) -> Iterator[None]:
        url = f"http://127.0.0.1:{port_of(place)}/api/v1/batches"
        elsewhere = place.inbox.with_name("elsewhere")
        with work.no_new_files():
            place.inbox.rename(elsewhere)
            try:
                until = time.monotonic() + AWAY_S
                while time.monotonic() < until:
                    answer = httpx.post(url, files={"files": ("up.wav", b"RIFF up")}, timeout=60)
                    if answer.status_code != 503:
                        raise RuntimeError(f"an upload into nothing: {answer.status_code}")
            finally:
                elsewhere.rename(place.inbox)
        yield


# --- 7. the clock


class Clock(Outsider):
    name = "outside-clock"
    fault = "the clock is set back by 2 h and 2 days, and forward again"
    chunk_s = 0.0  # libfaketime breaks short sleeps
    settings = PATIENT  # and slows everything down

    def prepare(self, place: Place, *, quick: bool) -> Sequence[str]:
        self._offset = place.root / "offset"
        self._set("+0")
        return (
            "env",
            f"LD_PRELOAD={LIBRARY}",
            f"FAKETIME_TIMESTAMP_FILE={self._offset}",
            "FAKETIME_CACHE_DURATION=1",  # seconds
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )

    def _set(self, offset: str) -> None:
        self._offset.write_text(offset + "\n")

    @contextmanager
    def attack(self, place: Place, number: int, work: SteadyWork) -> Iterator[None]:
        self._set(("-2h", "-2d", "+0")[number % 3])
        yield


# --- 8. links


class Links(Outsider):
    name = "outside-links"
    fault = "a folder is replaced by a link to one with the same names, again and again"

    @contextmanager
    def attack(self, place: Place, number: int, work: SteadyWork) -> Iterator[None]:
        folder, outside = place.inbox / f"talks-{number}", self.scratch / f"outside-{number}"
        kept, link = folder.with_name(f".kept-{number}"), folder.with_name(f".link-{number}")
        outside.mkdir()
        for file in range(5):
            place.drop_script(f"{folder.name}/{file}.wav", chunks=2, dice=self.dice)
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

        with in_threads(swap, 1):
            yield
        if not swaps:
            raise RuntimeError("no link was ever there")
        if any(path.suffix != ".wav" for path in outside.iterdir()):
            raise RuntimeError("a file was written outside")


def _hard_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


OUTSIDERS: Mapping[type[Outsider], Callable[[], bool]] = {
    HalfOpen: lambda: bool(shutil.which("prlimit")) and _hard_limit() > HALF_OPEN + 300,
    Webhooks: lambda: True,
    Hooks: lambda: True,
    Searches: lambda: True,
    Descriptors: lambda: sys.platform == "linux",
    AwayInbox: lambda: True,
    Clock: lambda: LIBRARY is not None,
    Links: lambda: True,
}


def _run_scenario(run: Run, *, kind: type[Outsider]) -> None:
    play(run, kind(run.scratch, run.dice))


SCENARIOS = tuple(
    Scenario(kind.name, kind.fault, partial(_run_scenario, kind=kind), possible)
    for kind, possible in OUTSIDERS.items()
)
