"""The disk's part: death, or a refusal, at one system call after the other, by strace."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

from speakeasyd.ledger.migrate import find_scripts, migrate_ledger
from speakeasyd.testing import FaultScript
from tests.integration import test_publish_crash as publication
from tests.integration.test_migrate import moods, with_next
from tests.torture.place import Place
from tests.torture.scenario import Run, Scenario

WRITES, SYNCS = "pwrite64", "fdatasync,fsync"  # as SQLite makes them
MOST = 250  # writes to the ledger while two files are done: about so many
STRACE = ("strace", "-D", "-f", "-qq", "-A")  # -D: the program stays our child
MIGRATE = (
    "import sys; from pathlib import Path; from speakeasyd.ledger.migrate import migrate_ledger as migrate;"
    "migrate(Path(sys.argv[1]), scripts=Path(sys.argv[2]))"
)


def tampered(ledger: Path, inject: str, *, log: Path) -> Sequence[str]:
    """A command to run a program under, whose calls on the ledger's files are tampered with."""
    calls, _ = inject.split(":", 1)
    where = (f"-P{ledger}", f"-P{ledger}-wal")
    return (*STRACE, f"-o{log}", *where, f"-etrace={calls}", f"-einject={inject}")


# --- the outbox -------------------------------------------------------------------------------------------------------


def publish(run: Run, *, calls: str, what: str) -> None:
    """Publication alone, at its first such call, the second, and so on until it runs through untouched."""
    most = 2 if run.quick else None
    ends = publication.rounds(
        run.scratch, lambda number: f"{calls}:{what}:when={number}", exactly=most
    )
    run.rounds = sum(end != 0 for end in ends)  # but for the last, which met no such call


# --- the ledger -------------------------------------------------------------------------------------------------------


def kill_at_commits(run: Run) -> None:
    """Killed when a commit is made durable: the first, the second, and so on until nothing is left to kill."""
    with run.place() as place:
        prepare(place, run)
        for number in count(1):
            died = killed(place, run, f"{SYNCS}:signal=KILL:when={number}")
            run.rounds += died
            if not died or (run.quick and number == 2):
                break
        settle(place)
    if not run.rounds:
        run.complain("nothing was killed")


def kill_at_writes(run: Run) -> None:
    with run.place() as place:
        prepare(place, run)
        for _ in range(1 if run.quick else 25):
            run.rounds += killed(
                place, run, f"{WRITES}:signal=KILL:when={run.dice.randrange(1, MOST)}"
            )
        settle(place)


def prepare(place: Place, run: Run) -> None:
    """A ledger that is up to date, so that what follows meets the daemon's own writes."""
    place.script(FaultScript(chunk_s=0.01))
    work(place, run)
    settle(place)


def work(place: Place, run: Run) -> None:
    for _ in range(2):
        place.drop_script(f"{len(place.texts)}.wav", chunks=4, dice=run.dice)


def settle(place: Place) -> None:
    place.start()
    place.wait_for_end()
    place.stop()


def killed(place: Place, run: Run, inject: str) -> bool:
    """Whether the daemon met its end before that of its work."""
    work(place, run)
    start_tampered(place, inject)
    died = place.left
    place.kill_daemon()
    run.judge(place, ended=False)
    return died


def refuse(run: Run, *, calls: str, error: str, most: int) -> None:
    """The disk refuses one call in the middle; the queue waits, goes on by itself, and uses up no attempts."""
    with run.place() as place:
        prepare(place, run)
        for _ in range(1 if run.quick else 6):
            work(place, run)
            inject = f"{calls}:error={error}:when={run.dice.randrange(3, most)}"
            start_tampered(place, inject)
            if place.left or place.stop() != 0:
                run.complain(f"the daemon did not outlive {inject}")
                settle(place)
        run.rounds = tampered_with(place)
        if used := place.rows("SELECT path FROM jobs WHERE attempts > 1 OR crashes > 0"):
            run.complain(f"attempts were used up: {[row['path'] for row in used]}")


def start_tampered(place: Place, inject: str) -> None:
    """Until the daemon is dead or all its work is done."""
    place.start(under=tampered(place.state / "ledger.db", inject, log=place.root / "strace.log"))
    place.until(lambda: place.left or place.unfinished() == 0, "death, or the end of all jobs")


def tampered_with(place: Place) -> int:
    """How many calls."""
    return (place.root / "strace.log").read_text("utf-8").count("INJECTED")


# --- the migration ----------------------------------------------------------------------------------------------------


def first_start(run: Run) -> None:
    """Killed while the ledger is made."""
    for _ in run.times(10):
        with run.place() as place:
            work(place, run)
            killed(place, run, f"{WRITES}:signal=KILL:when={run.dice.randrange(1, 150)}")
            settle(place)


def upgrade(run: Run) -> None:
    """Killed while the ledger is brought to a newer schema; tried again, it is there as a whole."""
    scripts = with_next(run.scratch / "scripts", middle="pass")
    for number in run.times(20, quick=2):
        ledger = run.scratch / str(number) / "ledger.db"
        ledger.parent.mkdir()
        migrate_ledger(ledger, scripts=find_scripts())
        calls = WRITES if number % 2 else SYNCS
        inject = f"{calls}:signal=KILL:when={number // 2 + 1}"
        under = tampered(ledger, inject, log=ledger.with_name("strace.log"))
        command = (*under, sys.executable, "-c", MIGRATE, str(ledger), str(scripts))
        subprocess.run(command, check=False, capture_output=True)
        migrate_ledger(ledger, scripts=scripts)
        moods(ledger)
        with closing(sqlite3.connect(ledger)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchall()
        if found != [("ok",)]:
            run.complain(f"integrity: {found}")


def _publication(name: str, fault: str, calls: str, what: str) -> Scenario:
    return Scenario(name, fault, lambda run: publish(run, calls=calls, what=what), possible)


def possible() -> bool:
    return shutil.which("strace") is not None and publication.strace_works()


KILL = "signal=KILL"
SCENARIOS = (
    _publication(
        "outbox-kill-renames", "killed at each rename of a publication", publication.RENAMES, KILL
    ),
    _publication(
        "outbox-kill-syncs",
        "killed at each fsync and commit of a publication",
        publication.SYNCS,
        KILL,
    ),
    _publication(
        "outbox-kill-writes", "killed at each write of a publication", publication.WRITES, KILL
    ),
    _publication(
        "outbox-enospc-write",
        "disk full at each write of a publication",
        publication.WRITES,
        "error=ENOSPC",
    ),
    _publication(
        "outbox-enospc-rename", "disk full at each rename", publication.RENAMES, "error=ENOSPC"
    ),
    _publication(
        "outbox-eio",
        "I/O error at each fsync and commit of a publication",
        publication.SYNCS,
        "error=EIO",
    ),
    Scenario(
        "ledger-kill-commits",
        "killed at each commit of the ledger, during work",
        kill_at_commits,
        possible,
    ),
    Scenario(
        "ledger-kill-writes",
        "killed at a write to the ledger, during work",
        kill_at_writes,
        possible,
    ),
    Scenario(
        "ledger-eio",
        "I/O error when the ledger commits",
        lambda run: refuse(run, calls=SYNCS, error="EIO", most=14),
        possible,
    ),
    Scenario(
        "ledger-enospc",
        "disk full at a write to the ledger",
        lambda run: refuse(run, calls=WRITES, error="ENOSPC", most=MOST // 2),
        possible,
    ),
    Scenario("migration-first", "killed while the ledger is created", first_start, possible),
    Scenario(
        "migration-upgrade", "killed while the ledger is upgraded", upgrade, possible, in_quick=True
    ),
)
