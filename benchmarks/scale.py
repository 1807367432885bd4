"""Load benchmarks of the daemon. Usage: python -m benchmarks.scale [--only NAME]

arrivals  100,000 files present at the start: seconds until all are in the
          ledger, memory of the daemon's process
jobs      1,000,000 jobs in the ledger: claims, a page of `job_status`, `batch_progress`
idle      a daemon without work and without a model: processor and memory
latency   one clip dropped into an idle daemon with its model loaded: from settled to the
          text in the outbox
start     from the start of the program to the first chunk
hours     a file of 1 hour and one of 10: memory of all processes
clients   a batch with 100 WebSocket clients listening and without: the slowdown, and the
          latency of events
"""

import argparse
import asyncio
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path

import av
import psutil
import websockets

from benchmarks.corpus import SAMPLES
from benchmarks.measure import measured
from speakeasyd.clock import SystemClock
from speakeasyd.events import EventHub
from speakeasyd.ledger.claims import claim_jobs
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.migrate import migrate_ledger
from speakeasyd.ledger.rows import fetch_rows
from tests.ledgers import insert_jobs

FILES, JOBS, CLAIMS = 100_000, 1_000_000, 200
IDLE_S = 60.0
HOURS = (1, 3)
CLIENTS, BATCH, PORT = 100, 100, 8643
SAMPLE = SAMPLES / "voice_memo.flac"
PAGE = "SELECT * FROM job_status WHERE status = 'completed' ORDER BY job_id DESC LIMIT 50"


class Daemon:
    """A daemon with its own folders."""

    def __init__(self, root: Path, *options: str, port: int = 0) -> None:
        """`port`: the port of its server; 0: no server."""
        self.server = {
            "SPEAKEASYD_SERVER__ENABLED": str(bool(port)).lower(),
            "SPEAKEASYD_SERVER__PORT": str(port),
        }
        self.inbox, self.outbox, self.state = root / "inbox", root / "outbox", root / "state"
        self.inbox.mkdir(parents=True)
        places = [
            "--inbox",
            str(self.inbox),
            "--outbox",
            str(self.outbox),
            "--state",
            str(self.state),
        ]
        self.command = [
            sys.executable,
            "-m",
            "speakeasyd",
            "run",
            *places,
            "--model",
            "bundled",
            *options,
        ]

    @contextmanager
    def running(self) -> Iterator[psutil.Process]:
        process = subprocess.Popen(
            self.command, stderr=subprocess.DEVNULL, env=os.environ | self.server
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()

    def count(self, question: str) -> int:
        try:
            with closing(
                sqlite3.connect(f"file:{self.state / 'ledger.db'}?mode=ro", uri=True)
            ) as connection:
                return int(connection.execute(question).fetchone()[0])
        except sqlite3.OperationalError:  # the ledger is being created
            return 0

    def wait_for(self, question: str, least: int) -> None:
        while self.count(question) < least:
            time.sleep(0.02)


def arrivals(root: Path) -> None:
    daemon = Daemon(root)
    for number in range(FILES):
        (daemon.inbox / f"{number}.wav").write_bytes(b"RIFF%d" % number)
    began = time.monotonic()
    with daemon.running() as process:
        daemon.wait_for("SELECT count(*) FROM jobs", FILES)
        took, memory = time.monotonic() - began, process.memory_info().rss
    print(
        f"arrivals: {FILES} files in the ledger after {took:.1f} s, main process {memory / 1e6:.0f} MB"
    )


def jobs(root: Path) -> None:
    path = root / "ledger.db"
    migrate_ledger(path)
    with closing(sqlite3.connect(path)) as connection:
        insert_jobs(connection, JOBS)
        connection.execute("ANALYZE")
    asyncio.run(_ask(path))


async def _ask(path: Path) -> None:
    ledger = await Ledger.open(path, clock=SystemClock(), hub=EventHub(), boot_id="benchmark")
    try:
        await _time("claim", lambda: ledger.write(claim_jobs, 1, model="auto"))
        await _time("a page of job_status", lambda: ledger.read(fetch_rows, PAGE))
        await _time(
            "batch_progress", lambda: ledger.read(fetch_rows, "SELECT * FROM batch_progress")
        )
    finally:
        await ledger.close()


async def _time(what: str, ask: Callable[[], Awaitable[object]]) -> None:
    times = []
    for _ in range(CLAIMS):
        began = time.perf_counter()
        await ask()
        times.append(1000 * (time.perf_counter() - began))
    print(
        f"jobs: {what} in {statistics.median(times):.1f} ms, p99 {statistics.quantiles(times, n=100)[98]:.1f} ms"
    )


def idle(root: Path) -> None:
    daemon = Daemon(root)
    with daemon.running() as process:
        daemon.wait_for("SELECT count(*) FROM state WHERE key = 'inbox inbox'", 1)
        time.sleep(5)  # wait for the end of the start-up, which is not measured
        processes = [process, *process.children(recursive=True)]
        before = sum(sum(one.cpu_times()[:2]) for one in processes)
        time.sleep(IDLE_S)
        spent = sum(sum(one.cpu_times()[:2]) for one in processes) - before
        memory = sum(one.memory_full_info().uss for one in processes)
    print(
        f"idle: {100 * spent / IDLE_S:.2f} % of a core, {memory / 1e6:.0f} MB of its own in {len(processes)} processes"
    )


def latency(root: Path) -> None:
    settle = 0.3
    daemon = Daemon(root, "--settle", str(settle))
    done = "SELECT count(*) FROM jobs WHERE status = 'completed'"
    times = []
    with daemon.running():
        for number in range(6):  # the first one loads the model
            data = SAMPLE.read_bytes() + bytes(number)  # different bytes with the same audio
            began = time.monotonic()
            (daemon.inbox / f"{number}.flac").write_bytes(data)
            daemon.wait_for(done, number + 1)
            times.append(time.monotonic() - began - settle)
    spent = daemon.count("SELECT 1000 * avg(compute_seconds) FROM job_status WHERE job_id > 1")
    print(
        f"latency: {statistics.median(times[1:]):.2f} s after settling; the engine alone takes {spent / 1000:.2f} s"
    )


def start(root: Path) -> None:
    daemon = Daemon(root, "--settle", "0")
    shutil.copy(SAMPLE, daemon.inbox)
    began = time.monotonic()
    with daemon.running():
        daemon.wait_for("SELECT count(*) FROM chunks", 1)
        print(f"start: {time.monotonic() - began:.2f} s to the first chunk")


def hours(root: Path) -> None:
    """Build a file that repeats the samples: continuous speech."""
    with ExitStack() as stack:
        sounds = [
            stack.enter_context(av.open(str(path))) for path in sorted(SAMPLES.glob("*.flac"))
        ]
        resampler = av.AudioResampler("s16", "mono", 16000)
        frames = (frame for sound in sounds for frame in sound.decode(audio=0))
        turn = b"".join(
            out.to_ndarray().tobytes() for frame in frames for out in resampler.resample(frame)
        )
    for length in HOURS:
        daemon = Daemon(root / str(length))
        with wave.open(str(daemon.inbox / "talk.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            for _ in range(round(length * 3600 * 32000 / len(turn))):
                file.writeframesraw(turn)
        took = measured([word if word != "run" else "once" for word in daemon.command])
        busy = f"cores {took.cores_busy:.0f} % busy"
        print(
            f"hours: {length} h in {took.seconds:.0f} s, {took.peak_mb:.0f} MB at most, {busy}",
            flush=True,
        )


def clients(root: Path) -> None:
    """Measure alternately with and without clients, since the machine's speed changes.

    The clients' own work is included in the daemon's time.
    """
    times: dict[int, list[float]] = {0: [], CLIENTS: []}
    late: list[float] = []
    for number in range(3):
        for listeners in times:
            place = root / f"{number} {listeners}"
            place.mkdir()
            took, some = asyncio.run(_batch(Daemon(place, "--settle", "0", port=PORT), listeners))
            times[listeners].append(took)
            late += some
    slower = statistics.median(b / a for a, b in zip(*times.values(), strict=True)) - 1
    p99 = statistics.quantiles(late, n=100)[98]
    print(f"clients: {CLIENTS} make {BATCH} files {100 * slower:+.1f} % slower")
    print(f"clients: an event arrives {p99:.0f} ms after its transaction began (p99)")


async def _batch(daemon: Daemon, listeners: int) -> tuple[float, list[float]]:
    """Return the seconds for a batch, and the latency of each event at a client in ms."""
    late: list[float] = []
    with daemon.running():
        await asyncio.to_thread(
            daemon.wait_for, "SELECT count(*) FROM state WHERE key = 'workers'", 1
        )
        tasks = [asyncio.create_task(_listen(late if n == 0 else None)) for n in range(listeners)]
        await asyncio.sleep(10)  # all are connected, and the model is loaded
        began = time.monotonic()
        for number in range(BATCH):
            (daemon.inbox / f"{number}.flac").write_bytes(SAMPLE.read_bytes() + number.to_bytes(2))
        await asyncio.to_thread(
            daemon.wait_for, "SELECT count(*) FROM jobs WHERE status = 'completed'", BATCH
        )
        took = time.monotonic() - began
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return took, late


async def _listen(late: list[float] | None) -> None:
    address = f"ws://127.0.0.1:{PORT}/api/v1/events"
    async for socket in websockets.connect(
        address, max_size=None, compression=None
    ):  # until the server is up
        async for text in socket:
            if late is not None and (message := json.loads(text))["type"] == "events":
                now = time.time()
                late += [
                    1000 * (now - datetime.fromisoformat(event["at"]).timestamp())
                    for event in message["events"]
                ]


ALL: tuple[Callable[[Path], None], ...] = (arrivals, jobs, idle, latency, start, clients, hours)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[one.__name__ for one in ALL])
    only = parser.parse_args().only
    for one in ALL:
        if only in {None, one.__name__}:
            with tempfile.TemporaryDirectory() as root:
                one(Path(root))


if __name__ == "__main__":
    main()
