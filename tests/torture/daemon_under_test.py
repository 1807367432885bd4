"""A daemon with its own folders, and the invariants that must hold after every fault."""

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from speakeasyd.durable import TEMPORARY
from speakeasyd.ledger.new_jobs import display_path
from speakeasyd.testing import PIECE, FaultScript, build_scripted_text, read_started_chunks
from tests.conftest import REPOSITORY, SERVER_VARIABLE

PATIENCE_S = 120.0
POLL_S = 0.02  # seconds between two checks of a condition
REAL, SCRIPTED = "speakeasyd", "tests.torture.scripted_cli"
FAST_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "server": {"enabled": False},
    "options": {"model": "bundled"},
    "watch": {"settle_s": 0.1, "poll_s": 0.5, "rescan_s": 5, "incomplete_s": 1},
    "workers": {"device": "cpu", "batch_size": 1, "replicas": 1},
    "recovery": {"stall_s": 5, "stop_grace_s": 5, "retry_s": 0.5},
}
"""Settings with short waits; all others have their defaults."""

ViolationKind = Literal["lost", "doubled", "wrong", "other"]


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold."""

    kind: ViolationKind
    description: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.description}"


class DaemonUnderTest:
    """A daemon in a folder of its own. `process` is the one that runs now.

    `texts`: the expected transcript of each file, by its path in the inbox; None: any text.
    `codes`: the accepted error codes of files that must fail; None among them: it may also succeed.
    """

    def __init__(
        self,
        root: Path,
        *,
        program: str = SCRIPTED,
        settings: Mapping[str, Mapping[str, object]] = {},
        **folders: Path,
    ) -> None:
        self.root = root
        self.inbox, self.outbox, self.state = (
            folders.get(key, root / key) for key in ("inbox", "outbox", "state")
        )
        self.inbox.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(parents=True, exist_ok=True)
        self.texts: dict[str, str | None] = {}
        self.codes: dict[str, frozenset[str | None]] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._program = program
        self._repeated_chunks: list[str] = []
        self._committed: frozenset[tuple[str, int]] = frozenset()
        self._read = 0  # offset in the log of started chunks, bytes
        tables = {
            name: {**FAST_SETTINGS.get(name, {}), **settings.get(name, {})}
            for name in FAST_SETTINGS.keys() | settings.keys()
        }
        inbox = {
            "name": "inbox",
            "path": self.inbox,
            "outbox": self.outbox,
            **tables.pop("inbox", {}),
        }
        (root / "speakeasyd.toml").write_text(_render_settings(self.state, inbox, tables), "utf-8")

    # --- the daemon

    def start(self, *, wrapper: Sequence[str] = ()) -> None:
        """Start the daemon. `wrapper`: a program that runs it, such as strace with its options."""
        command = [
            *wrapper,
            sys.executable,
            "-m",
            self._program,
            "run",
            "--config",
            str(self.root / "speakeasyd.toml"),
        ]
        # The configuration says whether the server runs
        environment = {name: value for name, value in os.environ.items() if name != SERVER_VARIABLE}
        with (self.root / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=REPOSITORY, env=environment
            )
        self.starts += 1

    def list_workers(self) -> list[psutil.Process]:
        if self.process is None or self.process.poll() is not None:
            return []
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            return list(filter(_is_worker, children))
        return []

    def kill(self) -> None:
        """Send SIGKILL to the daemon. Its workers must exit within 5 s."""
        assert self.process
        workers = self.list_workers()
        self.process.kill()
        self.process.wait()
        self.wait_until(
            lambda: not any(map(_is_alive, workers)), "the exit of orphaned workers", patience_s=5.0
        )
        self.record_committed_chunks()

    def kill_workers(self, number: signal.Signals = signal.SIGKILL) -> bool:
        hit = False
        for worker in self.list_workers():
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(number)
                hit = True
        self.record_committed_chunks()
        return hit

    def stop(self) -> int:
        """Send SIGTERM. Returns the exit status."""
        assert self.process
        self.process.terminate()
        return self.process.wait(timeout=60)

    def run_until_done(self) -> None:
        """Start the daemon, wait until all jobs have ended, and stop it."""
        self.start()
        self.wait_for_all_jobs()
        self.stop()

    def close(self) -> None:
        """Kill the daemon and its workers, if they still run."""
        if self.process and self.process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    child.kill()
            self.process.kill()
            self.process.wait()

    @property
    def has_exited(self) -> bool:
        """Whether the daemon was started and its process has ended."""
        return self.process is not None and self.process.poll() is not None

    def count_log_events(self, event: str, cause: str) -> int:
        """Return how often the log has the event with a cause that begins so."""
        lines = (self.root / "daemon.log").read_text("utf-8", errors="replace").splitlines()
        events = (json.loads(line) for line in lines if f'"{event}"' in line)
        return sum(line["data"]["cause"].startswith(cause) for line in events)

    # --- the inbox

    def drop_file(self, source: Path, name: str | None = None, *, text: str | None = None) -> Path:
        """Copy a file into the inbox under a temporary name, then rename it."""
        return self._write_file(
            name or source.name, lambda part: shutil.copyfile(source, part), text
        )

    def drop_scripted_file(self, name: str, *, chunks: int, rng: random.Random) -> Path:
        """Create a file that has this many chunks for the scripted engine."""
        data = rng.randbytes(chunks * PIECE)
        text = build_scripted_text(data)
        return self._write_file(name, lambda part: part.write_bytes(data), text)

    def move_in(self, source: Path, name: str) -> Path:
        """Move a file of the same file system into the inbox."""
        return self._write_file(name, source.replace, None)

    def _write_file(self, name: str, write: Callable[[Path], object], text: str | None) -> Path:
        target = self.inbox / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{len(self.texts)}.part")
        write(part)
        self.texts[display_path(os.fsencode(name))] = text
        return part.rename(target)

    def write_fault_script(self, script: FaultScript) -> None:
        script.write_to(self.state)

    # --- the ledger

    def query_ledger(self, sql: str) -> list[sqlite3.Row]:
        with closing(
            sqlite3.connect(f"file:{self.state / 'ledger.db'}?mode=ro", uri=True, timeout=10)
        ) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql).fetchall()

    def query_if_readable(self, sql: str) -> list[sqlite3.Row]:
        try:
            return self.query_ledger(sql)
        except sqlite3.OperationalError:  # there is no ledger yet, or it is locked
            return []

    def read_statuses(self) -> dict[str, str]:
        return {
            row["path"]: row["status"]
            for row in self.query_if_readable("SELECT path, status FROM job_status")
        }

    def count_unfinished(self) -> int:
        ended = self.query_if_readable("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")
        return len(self.texts) - (ended[0][0] if ended else 0)

    def count_progress(self) -> int:
        """Return the number of committed chunks and completed jobs."""
        counts = "SELECT (SELECT count(*) FROM chunks) + (SELECT count(*) FROM jobs WHERE status = 'completed')"
        rows = self.query_if_readable(counts)
        return int(rows[0][0]) if rows else 0

    # --- waiting

    def wait_until(
        self, condition: Callable[[], Any], what: str, *, patience_s: float = PATIENCE_S
    ) -> Any:
        """Return the first true value of the condition."""
        deadline = time.monotonic() + patience_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {patience_s:.0f} s for {what}: {self.read_statuses()}")
            time.sleep(POLL_S)
        return value

    def wait_for_all_jobs(self, *, patience_s: float = PATIENCE_S) -> None:
        self.wait_until(
            lambda: self.count_unfinished() == 0, "the end of all jobs", patience_s=patience_s
        )

    # --- invariants

    def record_committed_chunks(self) -> None:
        """Record the committed chunks after a fault. No worker may start them again."""
        self._find_repeated_chunks()
        rows = self.query_if_readable(
            "SELECT path, number FROM chunks JOIN jobs ON jobs.id = job_id"
        )
        self._committed = frozenset((row["path"], row["number"]) for row in rows)
        _, self._read = read_started_chunks(self.state, self._read)

    def _find_repeated_chunks(self) -> None:
        started, self._read = read_started_chunks(self.state, self._read)
        self._repeated_chunks += [
            f"repeated: chunk {chunk} of {path}" for path, chunk in self._committed & set(started)
        ]

    def count_repeated_chunks(self) -> int:
        """Return how many chunks the scripted engine started again."""
        started, _ = read_started_chunks(self.state)
        return len(started) - len(set(started))

    def find_violations(self, *, ended: bool = True) -> Iterator[Violation]:
        """Yield the violated invariants.

        `ended`: all jobs are finished, so the final results are checked.
        """
        if not ended and not self.query_if_readable(
            "SELECT 1 FROM sqlite_master WHERE name = 'job_status'"
        ):
            return  # it was killed before it created the ledger
        found = [row[0] for row in self.query_ledger("PRAGMA integrity_check")]
        if found != ["ok"]:
            yield Violation("other", f"integrity: {found}")
        self._find_repeated_chunks()
        yield from (Violation("other", what) for what in self._repeated_chunks)
        self._repeated_chunks.clear()
        yield from self._check_jobs(ended)
        yield from self._check_artifacts(ended)
        if ended:
            yield from self._check_texts()

    def _check_jobs(self, ended: bool) -> Iterator[Violation]:
        rows = self.query_ledger(
            "SELECT path, status, error_code, count(*) AS n FROM job_status GROUP BY path"
        )
        yield from (
            Violation("doubled", f"{row['n']} jobs: {row['path']}") for row in rows if row["n"] != 1
        )
        if not ended:
            return
        yield from (
            Violation("lost", path) for path in self.texts.keys() - {row["path"] for row in rows}
        )
        yield from (
            Violation("other", f"no file: {row['path']}")
            for row in rows
            if row["path"] not in self.texts
        )
        for row in rows:
            wanted = self.codes.get(row["path"])
            if wanted is None and row["status"] != "completed":
                yield Violation("lost", f"{row['path']} is {row['status']}: {row['error_code']}")
            elif wanted is not None and row["error_code"] not in wanted:
                yield Violation(
                    "other",
                    f"{row['path']} is {row['status']}: {row['error_code']}, not one of {set(wanted)}",
                )

    def _check_artifacts(self, ended: bool) -> Iterator[Violation]:
        rows = self.query_ledger(
            "SELECT path, sha256, written_at FROM artifacts WHERE job_id IS NOT NULL"
        )
        known = {row["path"]: row["sha256"] for row in rows}
        files = {
            path.relative_to(self.outbox).as_posix(): path
            for path in self.outbox.rglob("*")
            if path.is_file()
        }
        complete = {
            name: path for name, path in files.items() if not TEMPORARY.fullmatch(path.name)
        }
        if ended:
            yield from (
                Violation("other", f"temporary: {name}") for name in files.keys() - complete.keys()
            )
        written = {row["path"] for row in rows if row["written_at"]}
        expected = written | (known.keys() if ended else set())
        yield from (
            Violation("lost", f"no such artifact: {name}") for name in expected - complete.keys()
        )
        yield from (
            Violation("doubled", f"unknown file: {name}") for name in complete.keys() - known.keys()
        )
        for name in known.keys() & complete.keys():
            if hashlib.sha256(complete[name].read_bytes()).hexdigest() != known[name]:
                yield Violation("wrong", f"its hash differs from the ledger's: {name}")

    def _check_texts(self) -> Iterator[Violation]:
        texts = {
            row["path"]: row["text"]
            for row in self.query_ledger("SELECT path, text FROM transcript_text")
        }
        files = self.query_ledger(
            "SELECT jobs.path AS source, artifacts.path FROM artifacts JOIN jobs ON jobs.id = job_id"
            " WHERE format = 'txt'"
        )
        written = {row["source"]: (self.outbox / row["path"]).read_text("utf-8") for row in files}
        for path, text in self.texts.items():
            if path not in self.codes and text is not None:
                if texts.get(path) != text:
                    yield Violation(
                        "wrong", f"{path}: {texts.get(path)!r:.80} instead of {text!r:.80}"
                    )
                if written.get(path, "").split() != text.split():
                    yield Violation("wrong", f"the transcript of {path} is not the ledger's text")


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "spawn_main" in " ".join(process.cmdline()) and process.is_running()
    return False


def _is_alive(process: psutil.Process) -> bool:
    """Whether the process runs; a zombie does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _render_settings(
    state: Path, inbox: Mapping[str, object], tables: Mapping[str, Mapping[str, object]]
) -> str:
    """Return the settings as TOML, whose strings, numbers and lists are those of JSON."""

    def render_lines(table: Mapping[str, object]) -> Iterator[str]:
        yield from (f"{key} = {_render_value(value)}" for key, value in table.items())

    parts = [*render_lines({"state": state}), "[[inboxes]]", *render_lines(inbox)]
    for name, table in tables.items():
        parts += [f"[{name}]", *render_lines(table)]
    return "\n".join(parts) + "\n"


def _render_value(value: object) -> str:
    match value:
        case dict():
            pairs = (f"{key} = {_render_value(one)}" for key, one in value.items())
            return f"{{{', '.join(pairs)}}}"
        case list():
            return f"[{', '.join(map(_render_value, value))}]"
        case _:
            return json.dumps(value, default=os.fspath)
