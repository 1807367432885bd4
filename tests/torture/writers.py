"""Programs that write into the inbox slowly, with pauses, truncate, replace or stop early.

What a writer has written must remain as a source, or have a transcript without the warning `cut`.
No transcript of a part may keep the natural name.
"""

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from speakeasyd.testing import build_scripted_text, missing_bytes, with_header
from tests.integration.test_engine import SAMPLES
from tests.torture.daemon_under_test import REAL, SCRIPTED, DaemonUnderTest
from tests.torture.real_engine import transcribe_files
from tests.torture.scenario import Run, Scenario

BATCH_SIZE = 20  # writers at the same time
PAUSE_S = 1.0  # the longest pause of a writer: several times `settle_s`
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "watch": {
        "settle_s": 0.1,
        "poll_s": 0.5,
        "rescan_s": 1,
        "incomplete_s": 0.4,
        "incomplete_max_s": 2,
    },
    "options": {"model": "bundled", "formats": ["txt"]},
}
MODES = ("keep", "archive", "delete")


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes that a writer writes, and the expected transcript."""

    complete: bytes
    text: Callable[[bytes], str | None]  # of the written bytes; None: any text
    is_cut: Callable[[bytes], bool]


WriteMethod = Callable[[Path, bytes, random.Random], None]


def split_with_pauses(complete: bytes, rng: random.Random) -> Iterator[bytes]:
    """Yield the bytes in parts, with a pause before each but the first."""
    cuts = sorted(rng.randrange(len(complete)) for _ in range(rng.randrange(1, 4)))
    for start, end in zip([0, *cuts], [*cuts, len(complete)], strict=True):
        if start:
            time.sleep(rng.uniform(0, PAUSE_S))
        yield complete[start:end]


def write_slowly(path: Path, complete: bytes, rng: random.Random) -> None:
    with path.open("wb", buffering=0) as file:
        for part in split_with_pauses(complete, rng):
            file.write(part)


def append_parts(path: Path, complete: bytes, rng: random.Random) -> None:
    path.unlink(missing_ok=True)
    for part in split_with_pauses(complete, rng):
        with path.open("ab") as file:
            file.write(part)


def rename_when_complete(path: Path, complete: bytes, rng: random.Random) -> None:
    part = path.with_name(f".{path.name}.part")
    append_parts(part, complete, rng)
    part.replace(path)


def truncate_and_rewrite(path: Path, complete: bytes, rng: random.Random) -> None:
    append_parts(path, with_header(rng.randbytes(200)), rng)
    time.sleep(rng.uniform(0, PAUSE_S))
    write_slowly(path, complete, rng)


def replace_file(path: Path, complete: bytes, rng: random.Random) -> None:
    rename_when_complete(path, with_header(rng.randbytes(300)), rng)
    time.sleep(rng.uniform(0, 2 * PAUSE_S))
    rename_when_complete(path, complete, rng)


def stop_early(path: Path, complete: bytes, rng: random.Random) -> None:
    append_parts(path, complete[: rng.randrange(1, len(complete))], rng)


def touch_after_writing(path: Path, complete: bytes, rng: random.Random) -> None:
    write_slowly(path, complete, rng)
    time.sleep(rng.uniform(0, PAUSE_S))
    if path.exists():
        path.touch()


WRITE_METHODS: tuple[WriteMethod, ...] = (
    write_slowly,
    append_parts,
    rename_when_complete,
    truncate_and_rewrite,
    replace_file,
    stop_early,
    touch_after_writing,
)


@dataclass(slots=True)
class Writer:
    path: Path
    method: WriteMethod
    content: Content
    seed: float
    written: bytes = b""  # what the file had when the writer ended

    def run(self) -> None:
        self.method(self.path, self.content.complete, random.Random(self.seed))
        self.written = self.content.complete
        if self.method is stop_early:
            self.written = self.path.read_bytes()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.written).hexdigest()


def create_scripted_content(rng: random.Random) -> Content:
    return Content(
        complete=with_header(rng.randbytes(rng.randrange(50, 600))),
        text=build_scripted_text,
        is_cut=lambda written: missing_bytes(written) != 0,
    )


def run_all_methods(run: Run, *, sources: str, rounds: int) -> None:
    settings = {**SETTINGS, "inbox": {"sources": sources, "archive": run.scratch / "archive"}}
    daemon = DaemonUnderTest(run.scratch / "daemon", program=SCRIPTED, settings=settings)
    try:
        daemon.start()
        rounds = 8 if run.quick else rounds
        while run.rounds < rounds:
            contents = [
                create_scripted_content(run.rng)
                for _ in range(min(BATCH_SIZE, rounds - run.rounds))
            ]
            batch = [_create_writer(daemon, run, content, WRITE_METHODS) for content in contents]
            run_writers(daemon, run, batch, sources=sources, kill=run.rng.random() < 0.5)
        daemon.stop()
    finally:
        daemon.close()


def _create_writer(
    daemon: DaemonUnderTest, run: Run, content: Content, methods: tuple[WriteMethod, ...]
) -> Writer:
    run.rounds += 1
    return Writer(
        daemon.inbox / f"{run.rounds}.flac", run.rng.choice(methods), content, run.rng.random()
    )


def run_writers(
    daemon: DaemonUnderTest, run: Run, batch: list[Writer], *, sources: str, kill: bool
) -> None:
    threads = [threading.Thread(target=writer.run) for writer in batch]
    for thread in threads:
        thread.start()
    if kill:
        time.sleep(run.rng.uniform(0, 2 * PAUSE_S))
        daemon.kill()
        daemon.start()
    for thread in threads:
        thread.join()
    daemon.wait_until(
        lambda: all(_is_done(daemon, writer) for writer in batch), "the end of the jobs"
    )
    if sources != "keep":
        complete = [writer for writer in batch if not writer.content.is_cut(writer.written)]
        daemon.wait_until(
            lambda: not any(w.path.exists() for w in complete), "the disposal of complete sources"
        )
    for writer in batch:
        for what in find_losses(daemon, writer):
            run.report_violation(f"{writer.path.name}, {writer.method.__name__}, {sources}: {what}")


def _is_done(daemon: DaemonUnderTest, writer: Writer) -> bool:
    """Whether there is a job about the written bytes, and all jobs of the file have ended."""
    jobs = _query_jobs(daemon, writer)
    return all(job["finished_at"] for job in jobs) and writer.sha256 in {
        job["sha256"] for job in jobs
    }


def _query_jobs(daemon: DaemonUnderTest, writer: Writer) -> list[dict[str, object]]:
    name = writer.path.name
    rows = daemon.query_if_readable(
        f"SELECT * FROM job_status WHERE path = '{name}' ORDER BY job_id"  # noqa: S608
    )
    return [dict(row) for row in rows]


def find_losses(daemon: DaemonUnderTest, writer: Writer) -> Iterator[str]:
    written, is_cut = writer.written, writer.content.is_cut(writer.written)
    sources = [
        path
        for path in daemon.root.parent.rglob("*")
        if path.is_file() and path.parent != daemon.state
    ]
    source_exists = any(
        path.stat().st_size == len(written) and path.read_bytes() == written for path in sources
    )
    jobs = [
        job
        for job in _query_jobs(daemon, writer)
        if job["status"] == "completed" and not job["superseded_by"]
    ]
    if is_cut and not (writer.path.exists() and writer.path.read_bytes() == written):
        yield "the source of a cut recording was moved or changed"
    if not source_exists and (is_cut or writer.sha256 not in {job["sha256"] for job in jobs}):
        yield "lost: it has neither a source nor a transcript"
    for job in jobs:
        if job["sha256"] != writer.sha256:
            yield f"job {job['job_id']} of an earlier version is current"
        if ("cut" in json.loads(str(job["warning_kinds"] or "[]"))) != is_cut:
            yield f"job {job['job_id']} has the warning {job['warning']!r}"
    if not jobs and not is_cut:
        yield "it has no transcript"
    artifacts = sorted(path.name for path in daemon.outbox.glob(f"{writer.path.stem}.*"))
    if artifacts != [f"{writer.path.stem}.txt"][: len(jobs)]:
        yield f"the outbox has {artifacts}"
        return
    text = writer.content.text(written)
    if (
        jobs
        and text is not None
        and (daemon.outbox / artifacts[0]).read_text("utf-8").split() != text.split()
    ):
        yield "the transcript under the natural name has another text"


def write_real(run: Run) -> None:
    """Write real recordings, which the real engine transcribes."""
    sample = SAMPLES / "voice_memo.flac"
    text = transcribe_files(run, [sample])[sample]
    complete = sample.read_bytes()
    content = Content(
        complete=complete,
        text=lambda written: text if written == complete else None,
        is_cut=lambda written: written != complete,
    )
    settings = {**SETTINGS, "inbox": {"sources": "delete"}}
    daemon = DaemonUnderTest(run.scratch / "daemon", program=REAL, settings=settings)
    try:
        daemon.start()
        methods: tuple[WriteMethod, ...] = (
            write_slowly,
            append_parts,
            rename_when_complete,
            touch_after_writing,
        )
        for method in methods:
            writers = [_create_writer(daemon, run, content, (method,)) for _ in range(2)]
            run_writers(daemon, run, writers, sources="delete", kill=False)
        daemon.stop()
    finally:
        daemon.close()


SCENARIOS = (
    *(
        Scenario(
            f"writers-{mode}",
            f"writers that pause, append, truncate, replace or stop early; sources = {mode}",
            lambda run, mode=mode: run_all_methods(run, sources=mode, rounds=170),  # type: ignore[misc]
            is_possible=lambda: os.name == "posix",
            in_quick=True,
        )
        for mode in MODES
    ),
    Scenario("writers-real", "writers that pause and append, real model", write_real),
)
