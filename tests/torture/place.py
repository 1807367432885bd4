"""A scratch place with a daemon of its own, and the invariants that must hold over it whatever was done to it."""

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
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from speakeasyd.durable import TEMPORARY
from speakeasyd.ledger.new_jobs import display_path
from speakeasyd.testing import PIECE, FaultScript, build_scripted_chunks, read_started_chunks
from tests.conftest import REPOSITORY

PATIENCE_S = 120.0
LOOK_S = 0.02  # seconds between looks at the ledger
REAL, SCRIPTED = "speakeasyd", "tests.torture.scripted"
QUICK: Mapping[str, Mapping[str, object]] = {
    "server": {"enabled": False},
    "options": {"model": "bundled"},
    "watch": {"settle_s": 0.1, "poll_s": 0.5, "rescan_s": 5, "incomplete_s": 1},
    "workers": {"device": "cpu", "batch_size": 1, "replicas": 1},
    "recovery": {"stall_s": 5, "stop_grace_s": 5, "retry_s": 0.5},
}
"""Settings that spare a test the waiting; the rest is what people get."""

Harm = Literal["lost", "doubled", "wrong", "other"]


@dataclass(frozen=True, slots=True)
class Breach:
    """An invariant that does not hold."""

    harm: Harm
    what: str

    def __str__(self) -> str:
        return f"{self.harm}: {self.what}"


class Place:
    """`daemon` is the process that runs now. Paths in `texts` and `codes` are relative to the inbox.

    `texts`: what the transcript of each file has to say; `codes`: for those that have to fail, what may be
    to blame; None if it may come through as well.
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
        self.daemon: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._program = program
        self._replayed: list[str] = []
        self._committed: frozenset[tuple[str, int]] = frozenset()
        self._read = 0  # of what the script's engine noted, bytes
        tables = {
            name: {**QUICK.get(name, {}), **settings.get(name, {})}
            for name in QUICK.keys() | settings.keys()
        }
        inbox = {
            "name": "inbox",
            "path": self.inbox,
            "outbox": self.outbox,
            **tables.pop("inbox", {}),
        }
        (root / "speakeasyd.toml").write_text(_toml(self.state, inbox, tables), "utf-8")

    # --- the daemon

    def start(self, *, under: Sequence[str] = ()) -> None:
        """`under`: a program that runs it, such as strace with its options."""
        command = [
            *under,
            sys.executable,
            "-m",
            self._program,
            "run",
            "--config",
            str(self.root / "speakeasyd.toml"),
        ]
        with (self.root / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY)
        self.starts += 1

    def workers(self) -> list[psutil.Process]:
        if self.daemon is None or self.daemon.poll() is not None:
            return []
        with _gone_is_fine():
            children = psutil.Process(self.daemon.pid).children(recursive=True)
            return [child for child in children if _is_worker(child)]
        return []

    def kill_daemon(self) -> None:
        """With signal 9. Its workers have to follow it."""
        assert self.daemon
        workers = self.workers()
        self.daemon.kill()
        self.daemon.wait()
        self.until(lambda: not any(map(_lives, workers)), "the end of orphans", patience_s=5.0)
        self.take_stock()

    def kill_worker(self, number: signal.Signals = signal.SIGKILL) -> bool:
        hit = False
        for worker in self.workers():
            with _gone_is_fine():
                worker.send_signal(number)
                hit = True
        self.take_stock()
        return hit

    def stop(self) -> int:
        """As a service manager does. Returns the exit status."""
        assert self.daemon
        self.daemon.terminate()
        return self.daemon.wait(timeout=60)

    def close(self) -> None:
        """Leave nothing running."""
        if self.daemon and self.daemon.poll() is None:
            with _gone_is_fine():
                for child in psutil.Process(self.daemon.pid).children(recursive=True):
                    child.kill()
            self.daemon.kill()
            self.daemon.wait()

    @property
    def left(self) -> bool:
        """Whether the daemon has ended by itself, or been ended."""
        return self.daemon is not None and self.daemon.poll() is not None

    def told(self, event: str, cause: str) -> int:
        """How often the log says so; the ledger may be unable to."""
        lines = (self.root / "daemon.log").read_text("utf-8", errors="replace").splitlines()
        said = (json.loads(line) for line in lines if f'"{event}"' in line)
        return sum(line["data"]["cause"].startswith(cause) for line in said)

    # --- the inbox

    def drop(self, source: Path, name: str | None = None, *, text: str | None = None) -> Path:
        """As a careful writer does it: under a temporary name, then renamed."""
        return self._drop(name or source.name, lambda part: shutil.copyfile(source, part), text)

    def drop_script(self, name: str, *, chunks: int, dice: random.Random) -> Path:
        """Bytes that the scripted engine takes for so many chunks."""
        data = dice.randbytes(chunks * PIECE)
        text = "".join(
            segment.text for chunk in build_scripted_chunks(data) for segment in chunk.segments
        )
        return self._drop(name, lambda part: part.write_bytes(data), text.strip())

    def adopt(self, source: Path, name: str) -> Path:
        """Move a file in: of the same filesystem."""
        return self._drop(name, source.replace, None)

    def _drop(self, name: str, write: Callable[[Path], object], text: str | None) -> Path:
        target = self.inbox / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{len(self.texts)}.part")
        write(part)
        self.texts[display_path(os.fsencode(name))] = text
        return part.rename(target)

    def script(self, script: FaultScript) -> None:
        script.write_to(self.state)

    # --- what the ledger says

    def rows(self, sql: str) -> list[sqlite3.Row]:
        with closing(
            sqlite3.connect(f"file:{self.state / 'ledger.db'}?mode=ro", uri=True, timeout=10)
        ) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql).fetchall()

    def _rows_so_far(self, sql: str) -> list[sqlite3.Row]:
        try:
            return self.rows(sql)
        except sqlite3.OperationalError:  # no ledger yet, or none that can be read just now
            return []

    def statuses(self) -> dict[str, str]:
        return {
            row["path"]: row["status"]
            for row in self._rows_so_far("SELECT path, status FROM job_status")
        }

    def unfinished(self) -> int:
        ended = self._rows_so_far("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")
        return len(self.texts) - (ended[0][0] if ended else 0)

    def progress(self) -> int:
        """Grows with every chunk and every transcript that is safe."""
        counts = "SELECT (SELECT count(*) FROM chunks) + (SELECT count(*) FROM jobs WHERE status = 'completed')"
        rows = self._rows_so_far(counts)
        return int(rows[0][0]) if rows else 0

    # --- waiting

    def until(
        self, condition: Callable[[], Any], what: str, *, patience_s: float = PATIENCE_S
    ) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"waited {patience_s:.0f} s in vain for {what}: {self.statuses()}"
                )
            time.sleep(LOOK_S)

    def wait_for_end(self, *, patience_s: float = PATIENCE_S) -> None:
        self.until(lambda: self.unfinished() == 0, "the end of all jobs", patience_s=patience_s)

    # --- invariants

    def take_stock(self) -> None:
        """Note what is committed: no worker may begin it again. For the moment after a fault."""
        self._look_for_replays()
        rows = self._rows_so_far("SELECT path, number FROM chunks JOIN jobs ON jobs.id = job_id")
        self._committed = frozenset((row["path"], row["number"]) for row in rows)
        _, self._read = read_started_chunks(self.state, self._read)

    def _look_for_replays(self) -> None:
        begun, self._read = read_started_chunks(self.state, self._read)
        self._replayed += [
            f"done again: chunk {chunk} of {path}" for path, chunk in self._committed & set(begun)
        ]

    def done_again(self) -> int:
        """Chunks of the scripted engine that were begun more than once."""
        begun, _ = read_started_chunks(self.state)
        return len(begun) - len(set(begun))

    def broken(self, *, ended: bool = True) -> Iterator[Breach]:
        """What does not hold. With `ended`, also what has to hold once the daemon has been left in peace."""
        if not ended and not self._rows_so_far(
            "SELECT 1 FROM sqlite_master WHERE name = 'job_status'"
        ):
            return  # killed before there was a ledger
        found = [row[0] for row in self.rows("PRAGMA integrity_check")]
        if found != ["ok"]:
            yield Breach("other", f"integrity: {found}")
        self._look_for_replays()
        yield from (Breach("other", what) for what in self._replayed)
        self._replayed.clear()
        yield from self._broken_jobs(ended)
        yield from self._broken_artifacts(ended)
        if ended:
            yield from self._broken_texts()

    def _broken_jobs(self, ended: bool) -> Iterator[Breach]:
        rows = self.rows(
            "SELECT path, status, error_code, count(*) AS n FROM job_status GROUP BY path"
        )
        yield from (
            Breach("doubled", f"{row['n']} jobs: {row['path']}") for row in rows if row["n"] != 1
        )
        if not ended:
            return
        yield from (
            Breach("lost", path) for path in self.texts.keys() - {row["path"] for row in rows}
        )
        yield from (
            Breach("other", f"no file: {row['path']}")
            for row in rows
            if row["path"] not in self.texts
        )
        for row in rows:
            wanted = self.codes.get(row["path"])
            if wanted is None and row["status"] != "completed":
                yield Breach("lost", f"{row['path']} is {row['status']}: {row['error_code']}")
            elif wanted is not None and row["error_code"] not in wanted:
                yield Breach(
                    "other",
                    f"{row['path']} is {row['status']}: {row['error_code']}, not one of {set(wanted)}",
                )

    def _broken_artifacts(self, ended: bool) -> Iterator[Breach]:
        rows = self.rows("SELECT path, sha256, written_at FROM artifacts WHERE job_id IS NOT NULL")
        known = {row["path"]: row["sha256"] for row in rows}
        files = {
            path.relative_to(self.outbox).as_posix(): path
            for path in self.outbox.rglob("*")
            if path.is_file()
        }
        there = {name: path for name, path in files.items() if not TEMPORARY.fullmatch(path.name)}
        if ended:
            yield from (
                Breach("other", f"temporary: {name}") for name in files.keys() - there.keys()
            )
        safe = {row["path"] for row in rows if row["written_at"]} | (
            known.keys() if ended else set()
        )
        yield from (Breach("lost", f"no such artifact: {name}") for name in safe - there.keys())
        yield from (
            Breach("doubled", f"nobody's file: {name}") for name in there.keys() - known.keys()
        )
        for name in known.keys() & there.keys():
            if hashlib.sha256(there[name].read_bytes()).hexdigest() != known[name]:
                yield Breach("wrong", f"other bytes than the ledger's: {name}")

    def _broken_texts(self) -> Iterator[Breach]:
        texts = {
            row["path"]: row["text"] for row in self.rows("SELECT path, text FROM transcript_text")
        }
        files = self.rows(
            "SELECT jobs.path AS source, artifacts.path FROM artifacts JOIN jobs ON jobs.id = job_id"
            " WHERE format = 'txt'"
        )
        written = {row["source"]: (self.outbox / row["path"]).read_text("utf-8") for row in files}
        for path, text in self.texts.items():
            if path not in self.codes and text is not None:
                if texts.get(path) != text:
                    yield Breach(
                        "wrong", f"{path}: {texts.get(path)!r:.80} in place of {text!r:.80}"
                    )
                if written.get(path, "").split() != text.split():
                    yield Breach("wrong", f"the transcript of {path} does not say what was said")


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    with suppress(psutil.NoSuchProcess):
        yield


def _is_worker(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline()) and process.is_running()


def _lives(process: psutil.Process) -> bool:
    """Whether it is still there, and not only for somebody to ask how it ended."""
    with _gone_is_fine():
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _toml(
    state: Path, inbox: Mapping[str, object], tables: Mapping[str, Mapping[str, object]]
) -> str:
    """JSON's strings, numbers and lists are TOML's, too."""

    def lines(table: Mapping[str, object]) -> Iterator[str]:
        yield from (f"{key} = {_toml_value(value)}" for key, value in table.items())

    parts = [*lines({"state": state}), "[[inboxes]]", *lines(inbox)]
    for name, table in tables.items():
        parts += [f"[{name}]", *lines(table)]
    return "\n".join(parts) + "\n"


def _toml_value(value: object) -> str:
    match value:
        case dict():
            pairs = (f"{key} = {_toml_value(one)}" for key, one in value.items())
            return f"{{{', '.join(pairs)}}}"
        case list():
            return f"[{', '.join(map(_toml_value, value))}]"
        case _:
            return json.dumps(value, default=os.fspath)
