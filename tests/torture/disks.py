"""Kills processes at, or fails, system calls on the ledger and the outbox by strace."""

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
from tests.integration.test_migrate import add_next_migration, read_moods
from tests.torture.daemon_under_test import DaemonUnderTest
from tests.torture.scenario import Run, Scenario

WRITES, SYNCS = "pwrite64", "fdatasync,fsync"  # as SQLite makes them
MAX_WRITES = 250  # about as many writes to the ledger as two files need
STRACE = ("strace", "-D", "-f", "-qq", "-A")  # -D: the program remains a direct child
MIGRATE = (
    "import sys; from pathlib import Path; from speakeasyd.ledger.migrate import migrate_ledger as migrate;"
    "migrate(Path(sys.argv[1]), scripts=Path(sys.argv[2]))"
)


def build_strace_command(ledger: Path, inject: str, *, log: Path) -> Sequence[str]:
    """Return a command that runs a program and injects faults into its calls on the ledger's files."""
    calls, _ = inject.split(":", 1)
    where = (f"-P{ledger}", f"-P{ledger}-wal")
    return (*STRACE, f"-o{log}", *where, f"-etrace={calls}", f"-einject={inject}")


# --- the outbox


def fail_publication_calls(run: Run, *, calls: str, action: str) -> None:
    """Run only publications, and inject the action at the first such call, the second, and so on."""
    max_call = 2 if run.quick else None
    ends = publication.inject_at_each_call(
        run.scratch, lambda number: f"{calls}:{action}:when={number}", exactly=max_call
    )
    run.rounds = sum(end != 0 for end in ends)  # the last run had no such call left


# --- the ledger


def kill_at_commits(run: Run) -> None:
    """Kill the daemon at the first sync of a commit, the second, and so on until it survives."""
    with run.create_daemon() as daemon:
        prepare_ledger(daemon, run)
        for number in count(1):
            was_killed = run_until_killed(daemon, run, f"{SYNCS}:signal=KILL:when={number}")
            run.rounds += was_killed
            if not was_killed or (run.quick and number == 2):
                break
        daemon.run_until_done()
    if not run.rounds:
        run.report_violation("no daemon was killed")


def kill_at_writes(run: Run) -> None:
    with run.create_daemon() as daemon:
        prepare_ledger(daemon, run)
        for _ in range(1 if run.quick else 25):
            run.rounds += run_until_killed(
                daemon, run, f"{WRITES}:signal=KILL:when={run.rng.randrange(1, MAX_WRITES)}"
            )
        daemon.run_until_done()


def prepare_ledger(daemon: DaemonUnderTest, run: Run) -> None:
    """Create and migrate the ledger, so that faults affect only the daemon's own writes."""
    daemon.write_fault_script(FaultScript(chunk_s=0.01))
    drop_two_files(daemon, run)
    daemon.run_until_done()


def drop_two_files(daemon: DaemonUnderTest, run: Run) -> None:
    for _ in range(2):
        daemon.drop_scripted_file(f"{len(daemon.texts)}.wav", chunks=4, rng=run.rng)


def run_until_killed(daemon: DaemonUnderTest, run: Run, inject: str) -> bool:
    """Run the daemon under strace, then kill it.

    Returns whether the injection had ended it before.
    """
    drop_two_files(daemon, run)
    run_under_strace(daemon, inject)
    was_killed = daemon.has_exited
    daemon.kill()
    run.check_daemon(daemon, ended=False)
    return was_killed


def refuse_calls(run: Run, *, calls: str, error: str, max_call: int) -> None:
    """Fail one call during work.

    The queue must pause, continue by itself and use up no attempts.
    """
    with run.create_daemon() as daemon:
        prepare_ledger(daemon, run)
        for _ in range(1 if run.quick else 6):
            drop_two_files(daemon, run)
            inject = f"{calls}:error={error}:when={run.rng.randrange(3, max_call)}"
            run_under_strace(daemon, inject)
            if daemon.has_exited or daemon.stop() != 0:
                run.report_violation(f"the daemon did not survive {inject}")
                daemon.run_until_done()
        run.rounds = count_injections(daemon)
        run.check_attempts(daemon)


def run_under_strace(daemon: DaemonUnderTest, inject: str) -> None:
    """Run the daemon until it exits or all jobs have ended."""
    daemon.start(
        wrapper=build_strace_command(
            daemon.state / "ledger.db", inject, log=daemon.root / "strace.log"
        )
    )
    daemon.wait_until(
        lambda: daemon.has_exited or daemon.count_unfinished() == 0,
        "its exit, or the end of all jobs",
    )


def count_injections(daemon: DaemonUnderTest) -> int:
    """Return the number of injected faults."""
    return (daemon.root / "strace.log").read_text("utf-8").count("INJECTED")


# --- the migration


def kill_first_start(run: Run) -> None:
    """Kill the daemon while it creates the ledger."""
    for _ in run.count_rounds(10):
        with run.create_daemon() as daemon:
            drop_two_files(daemon, run)
            run_until_killed(daemon, run, f"{WRITES}:signal=KILL:when={run.rng.randrange(1, 150)}")
            daemon.run_until_done()


def kill_upgrade(run: Run) -> None:
    """Kill the migration of a ledger. The second try must complete it."""
    scripts = add_next_migration(run.scratch / "scripts", middle="pass")
    for number in run.count_rounds(20, quick=2):
        ledger = run.scratch / str(number) / "ledger.db"
        ledger.parent.mkdir()
        migrate_ledger(ledger, scripts=find_scripts())
        calls = WRITES if number % 2 else SYNCS
        inject = f"{calls}:signal=KILL:when={number // 2 + 1}"
        wrapper = build_strace_command(ledger, inject, log=ledger.with_name("strace.log"))
        command = (*wrapper, sys.executable, "-c", MIGRATE, str(ledger), str(scripts))
        subprocess.run(command, check=False, capture_output=True)
        migrate_ledger(ledger, scripts=scripts)
        read_moods(ledger)
        with closing(sqlite3.connect(ledger)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchall()
        if found != [("ok",)]:
            run.report_violation(f"integrity: {found}")


def _build_publication_scenario(name: str, fault: str, calls: str, action: str) -> Scenario:
    return Scenario(
        name,
        fault,
        lambda run: fail_publication_calls(run, calls=calls, action=action),
        is_possible,
    )


def is_possible() -> bool:
    return shutil.which("strace") is not None and publication.strace_works()


KILL = "signal=KILL"
SCENARIOS = (
    _build_publication_scenario(
        "outbox-kill-renames", "killed at each rename of a publication", publication.RENAMES, KILL
    ),
    _build_publication_scenario(
        "outbox-kill-syncs",
        "killed at each fsync and commit of a publication",
        publication.SYNCS,
        KILL,
    ),
    _build_publication_scenario(
        "outbox-kill-writes", "killed at each write of a publication", publication.WRITES, KILL
    ),
    _build_publication_scenario(
        "outbox-enospc-write",
        "disk full at each write of a publication",
        publication.WRITES,
        "error=ENOSPC",
    ),
    _build_publication_scenario(
        "outbox-enospc-rename", "disk full at each rename", publication.RENAMES, "error=ENOSPC"
    ),
    _build_publication_scenario(
        "outbox-eio",
        "I/O error at each fsync and commit of a publication",
        publication.SYNCS,
        "error=EIO",
    ),
    Scenario(
        "ledger-kill-commits",
        "killed at each commit of the ledger, during work",
        kill_at_commits,
        is_possible,
    ),
    Scenario(
        "ledger-kill-writes",
        "killed at a write to the ledger, during work",
        kill_at_writes,
        is_possible,
    ),
    Scenario(
        "ledger-eio",
        "I/O error when the ledger commits",
        lambda run: refuse_calls(run, calls=SYNCS, error="EIO", max_call=14),
        is_possible,
    ),
    Scenario(
        "ledger-enospc",
        "disk full at a write to the ledger",
        lambda run: refuse_calls(run, calls=WRITES, error="ENOSPC", max_call=MAX_WRITES // 2),
        is_possible,
    ),
    Scenario(
        "migration-first", "killed while the ledger is created", kill_first_start, is_possible
    ),
    Scenario(
        "migration-upgrade",
        "killed while the ledger is upgraded",
        kill_upgrade,
        is_possible,
        in_quick=True,
    ),
)
