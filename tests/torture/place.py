"""A scratch place with a daemon of its own, and the invariants that must hold over it whatever was killed."""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil

PATIENCE_S = 600.0
PART = ".part"


class Place:
    """`daemon` is the process that runs now. Every path in the ledger is relative to `inbox`."""

    def __init__(self, root: Path, *, options: tuple[str, ...] = ("--model", "bundled", "--settle", "0.2")) -> None:
        self.inbox, self.outbox, self.state = root / "inbox", root / "outbox", root / "state"
        self.inbox.mkdir(parents=True)
        self._options = options
        self.daemon: subprocess.Popen[bytes] | None = None

    def command(self, verb: str, *more: str) -> list[str]:
        places = ("--inbox", str(self.inbox), "--outbox", str(self.outbox), "--state", str(self.state))
        return [sys.executable, "-m", "speakeasyd", verb, *places, *self._options, *more]

    def once(self, *, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command("once"), capture_output=True, text=True, timeout=timeout, check=False)

    def start(self) -> None:
        log = (self.inbox.parent / "daemon.log").open("ab")
        self.daemon = subprocess.Popen(self.command("run"), stdout=log, stderr=log)
        log.close()

    def drop(self, source: Path, name: str | None = None) -> Path:
        """As a careful writer does it: under a temporary name, then renamed."""
        target = self.inbox / (name or source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + PART)
        shutil.copyfile(source, part)
        return part.rename(target)

    def workers(self) -> list[psutil.Process]:
        if self.daemon is None or self.daemon.poll() is not None:
            return []
        with _gone_is_fine():
            children = psutil.Process(self.daemon.pid).children(recursive=True)
            return [child for child in children if _is_worker(child)]
        return []

    def kill_daemon(self) -> None:
        assert self.daemon
        os.kill(self.daemon.pid, signal.SIGKILL)
        self.daemon.wait()

    def kill_worker(self) -> bool:
        killed = False
        for worker in self.workers():
            with _gone_is_fine():
                worker.kill()
                killed = True
        return killed

    def stop(self) -> int:
        assert self.daemon
        self.daemon.terminate()
        return self.daemon.wait(timeout=60)

    # --- what the ledger says

    def rows(self, sql: str) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(f"file:{self.state / 'ledger.db'}?mode=ro", uri=True, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql).fetchall()

    def statuses(self) -> dict[str, str]:
        try:
            return {row["path"]: row["status"] for row in self.rows("SELECT path, status FROM job_status")}
        except sqlite3.OperationalError:  # not there yet
            return {}

    def texts(self) -> dict[str, str]:
        return {row["path"]: row["text"] for row in self.rows("SELECT path, text FROM transcript_text")}

    def ended(self, files: int) -> bool:
        statuses = self.statuses()
        return len(statuses) == files and not {"pending", "processing"} & set(statuses.values())

    def wait_for_end(self, files: int, *, patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not self.ended(files):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all ended: {self.statuses()}")
            time.sleep(0.2)

    # --- invariants

    def broken(self, expected: dict[str, str] | None = None) -> Iterator[str]:
        """What does not hold, in words; nothing if all is well. `expected`: the text of every file."""
        found = [row[0] for row in self.rows("PRAGMA integrity_check")]
        if found != ["ok"]:
            yield f"integrity: {found}"
        yield from self._jobs()
        yield from self._artifacts()
        if expected is not None:
            yield from self._texts(expected)

    def _jobs(self) -> Iterator[str]:
        present = {str(path.relative_to(self.inbox)) for path in self.inbox.rglob("*") if path.is_file()}
        rows = self.rows("SELECT path, status, count(*) AS n FROM job_status GROUP BY path")
        yield from (f"lost: {path}" for path in present - {row["path"] for row in rows})
        yield from (f"{row['n']} jobs: {row['path']}" for row in rows if row["n"] != 1)
        yield from (f"{row['status']}: {row['path']}" for row in rows if row["status"] != "completed")

    def _artifacts(self) -> Iterator[str]:
        known = {row["path"]: row["sha256"] for row in self.rows("SELECT path, sha256 FROM artifacts")}
        there = {str(path.relative_to(self.outbox)): path for path in self.outbox.rglob("*") if path.is_file()}
        yield from (f"no such artifact: {path}" for path in known.keys() - there.keys())
        yield from (f"nobody's file: {path}" for path in there.keys() - known.keys())
        for path in known.keys() & there.keys():
            if hashlib.sha256(there[path].read_bytes()).hexdigest() != known[path]:
                yield f"other bytes: {path}"

    def _texts(self, expected: dict[str, str]) -> Iterator[str]:
        texts = self.texts()
        yield from (f"other text: {path}" for path, text in expected.items() if texts.get(path) != text)


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    with suppress(psutil.NoSuchProcess):
        yield


def _is_worker(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline()) and process.is_running()
