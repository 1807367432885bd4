"""Programs that write into the inbox in every way: slowly, with pauses, open or closed, cut, replaced, killed midway.

Whatever they do, all that a writer left is in a source that still exists, or in a transcript without a warning that it
is cut; and no transcript of a part stays under the natural name.
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

from speakeasyd.testing import build_scripted_chunks, missing_bytes, with_header
from tests.integration.test_engine import SAMPLES
from tests.torture.place import REAL, SCRIPTED, Place
from tests.torture.real import undisturbed
from tests.torture.scenario import Run, Scenario

AT_ONCE = 20  # writers side by side
PAUSE_S = 1.0  # seconds that a writer pauses, at most: several times what lets a file settle
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
    """What a writer has to write, and what its transcript then says."""

    whole: bytes
    text: Callable[[bytes], str | None]  # of what was left; None: whatever the engine makes of it
    is_cut: Callable[[bytes], bool]


Way = Callable[[Path, bytes, random.Random], None]


def in_parts(whole: bytes, dice: random.Random) -> Iterator[bytes]:
    """With a pause before each but the first."""
    cuts = sorted(dice.randrange(len(whole)) for _ in range(dice.randrange(1, 4)))
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        if start:
            time.sleep(dice.uniform(0, PAUSE_S))
        yield whole[start:end]


def hold_open(path: Path, whole: bytes, dice: random.Random) -> None:
    with path.open("wb", buffering=0) as file:
        for part in in_parts(whole, dice):
            file.write(part)


def close_and_append(path: Path, whole: bytes, dice: random.Random) -> None:
    path.unlink(missing_ok=True)
    for part in in_parts(whole, dice):
        with path.open("ab") as file:
            file.write(part)


def rename_when_whole(path: Path, whole: bytes, dice: random.Random) -> None:
    part = path.with_name(f".{path.name}.part")
    close_and_append(part, whole, dice)
    part.replace(path)


def truncate_and_write_again(path: Path, whole: bytes, dice: random.Random) -> None:
    close_and_append(path, with_header(dice.randbytes(200)), dice)
    time.sleep(dice.uniform(0, PAUSE_S))
    hold_open(path, whole, dice)


def replace_whole(path: Path, whole: bytes, dice: random.Random) -> None:
    rename_when_whole(path, with_header(dice.randbytes(300)), dice)
    time.sleep(dice.uniform(0, 2 * PAUSE_S))
    rename_when_whole(path, whole, dice)


def break_off(path: Path, whole: bytes, dice: random.Random) -> None:
    close_and_append(path, whole[: dice.randrange(1, len(whole))], dice)


def touch_afterwards(path: Path, whole: bytes, dice: random.Random) -> None:
    hold_open(path, whole, dice)
    time.sleep(dice.uniform(0, PAUSE_S))
    if path.exists():
        path.touch()


WAYS: tuple[Way, ...] = (
    hold_open,
    close_and_append,
    rename_when_whole,
    truncate_and_write_again,
    replace_whole,
    break_off,
    touch_afterwards,
)


@dataclass(slots=True)
class Writer:
    path: Path
    way: Way
    content: Content
    seed: float
    left: bytes = b""  # what it left when it ended

    def run(self) -> None:
        self.way(self.path, self.content.whole, random.Random(self.seed))
        self.left = self.content.whole
        if self.way is break_off:
            self.left = self.path.read_bytes()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.left).hexdigest()


def scripted_content(dice: random.Random) -> Content:
    return Content(
        whole=with_header(dice.randbytes(dice.randrange(50, 600))),
        text=lambda left: "".join(
            s.text for chunk in build_scripted_chunks(left) for s in chunk.segments
        ),
        is_cut=lambda left: missing_bytes(left) != 0,
    )


def write_in_every_way(run: Run, *, sources: str, rounds: int) -> None:
    settings = {**SETTINGS, "inbox": {"sources": sources, "archive": run.scratch / "archive"}}
    place = Place(run.scratch / "place", program=SCRIPTED, settings=settings)
    try:
        place.start()
        wanted = rounds if not run.quick else 8
        while run.rounds < wanted:
            contents = [
                scripted_content(run.dice) for _ in range(min(AT_ONCE, wanted - run.rounds))
            ]
            batch = [_a_writer(place, run, content, WAYS) for content in contents]
            carry_out(place, run, batch, sources=sources, kill=run.dice.random() < 0.5)
        place.stop()
    finally:
        place.close()


def _a_writer(place: Place, run: Run, content: Content, ways: tuple[Way, ...]) -> Writer:
    run.rounds += 1
    return Writer(
        place.inbox / f"{run.rounds}.flac", run.dice.choice(ways), content, run.dice.random()
    )


def carry_out(place: Place, run: Run, batch: list[Writer], *, sources: str, kill: bool) -> None:
    threads = [threading.Thread(target=writer.run) for writer in batch]
    for thread in threads:
        thread.start()
    if kill:
        time.sleep(run.dice.uniform(0, 2 * PAUSE_S))
        place.kill_daemon()
        place.start()
    for thread in threads:
        thread.join()
    place.until(
        lambda: all(_has_ended(place, writer) for writer in batch), "the end of what was written"
    )
    if sources != "keep":
        whole = [writer for writer in batch if not writer.content.is_cut(writer.left)]
        place.until(
            lambda: not any(w.path.exists() for w in whole), "the whole sources to be put away"
        )
    for writer in batch:
        for what in find_losses(place, writer):
            run.complain(f"{writer.path.name}, {writer.way.__name__}, {sources}: {what}")


def _has_ended(place: Place, writer: Writer) -> bool:
    """Whether there is a job about what was left, and none of the file's jobs is under way."""
    jobs = _jobs(place, writer)
    return all(job["finished_at"] for job in jobs) and writer.sha256 in {
        job["sha256"] for job in jobs
    }


def _jobs(place: Place, writer: Writer) -> list[dict[str, object]]:
    name = writer.path.name
    rows = place._rows_so_far(f"SELECT * FROM job_status WHERE path = '{name}' ORDER BY job_id")  # noqa: S608
    return [dict(row) for row in rows]


def find_losses(place: Place, writer: Writer) -> Iterator[str]:
    left, is_cut = writer.left, writer.content.is_cut(writer.left)
    sources = [
        path
        for path in place.root.parent.rglob("*")
        if path.is_file() and path.parent != place.state
    ]
    source_exists = any(
        path.stat().st_size == len(left) and path.read_bytes() == left for path in sources
    )
    jobs = [
        job
        for job in _jobs(place, writer)
        if job["status"] == "completed" and not job["superseded_by"]
    ]
    if is_cut and not (writer.path.exists() and writer.path.read_bytes() == left):
        yield "the source of a cut recording is not where it was"
    if not source_exists and (is_cut or writer.sha256 not in {job["sha256"] for job in jobs}):
        yield "lost: neither its source nor its transcript is there"
    for job in jobs:
        if job["sha256"] != writer.sha256:
            yield f"job {job['job_id']} of an earlier version is current"
        if ("cut" in json.loads(str(job["warning_kinds"] or "[]"))) != is_cut:
            yield f"job {job['job_id']} has the warning {job['warning']!r}"
    if not jobs and not is_cut:
        yield "it has no transcript"
    written = sorted(path.name for path in place.outbox.glob(f"{writer.path.stem}.*"))
    if written != [f"{writer.path.stem}.txt"][: len(jobs)]:
        yield f"in the outbox are {written}"
        return
    text = writer.content.text(left)
    if (
        jobs
        and text is not None
        and (place.outbox / written[0]).read_text("utf-8").split() != text.split()
    ):
        yield "the transcript under the natural name says something else"


def write_real(run: Run) -> None:
    """The same of real recordings, by the real engine."""
    sample = SAMPLES / "voice_memo.flac"
    text = undisturbed(run, [sample])[sample]
    whole = sample.read_bytes()
    content = Content(
        whole=whole,
        text=lambda left: text if left == whole else None,
        is_cut=lambda left: left != whole,
    )
    settings = {**SETTINGS, "inbox": {"sources": "delete"}}
    place = Place(run.scratch / "place", program=REAL, settings=settings)
    try:
        place.start()
        ways: tuple[Way, ...] = (hold_open, close_and_append, rename_when_whole, touch_afterwards)
        for way in ways:
            writers = [_a_writer(place, run, content, (way,)) for _ in range(2)]
            carry_out(place, run, writers, sources="delete", kill=False)
        place.stop()
    finally:
        place.close()


SCENARIOS = (
    *(
        Scenario(
            f"writers-{mode}",
            f"writers that pause, append, truncate, replace or stop early; sources = {mode}",
            lambda run, mode=mode: write_in_every_way(run, sources=mode, rounds=170),  # type: ignore[misc]
            possible=lambda: os.name == "posix",
            in_quick=True,
        )
        for mode in MODES
    ),
    Scenario("writers-real", "writers that pause and append, real model", write_real),
)
