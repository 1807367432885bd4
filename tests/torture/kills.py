"""Kills daemons and workers, and stops daemons by signals, at random moments."""

import random
import signal
import time
from collections.abc import Callable, Sequence

from speakeasyd.testing import FaultScript
from tests.torture.daemon_under_test import DaemonUnderTest
from tests.torture.scenario import Run, Scenario

BACKLOG = 3  # unfinished files that there always are
CHUNKS = 12  # of each file
SLOW_CHUNKS = FaultScript(chunk_s=0.05)
MAX_DELAY_S = 0.3  # seconds between an event and a kill


def wait_for_job_in_work(daemon: DaemonUnderTest) -> None:
    daemon.wait_until(lambda: "processing" in daemon.read_statuses().values(), "a job in progress")


def wait_for_committed_chunk(daemon: DaemonUnderTest) -> None:
    before = daemon.count_progress()
    daemon.wait_until(lambda: daemon.count_progress() > before, "a committed chunk")


def wait_for_transcript(daemon: DaemonUnderTest) -> None:
    before = daemon.count_unfinished()
    daemon.wait_until(lambda: daemon.count_unfinished() < before, "a transcript")


def wait_for_start(_daemon: DaemonUnderTest) -> None:
    """Wait until the daemon is starting, which takes about a second."""
    time.sleep(MAX_DELAY_S)


MOMENTS: tuple[Callable[[DaemonUnderTest], None], ...] = (
    wait_for_start,
    wait_for_job_in_work,
    wait_for_committed_chunk,
    wait_for_transcript,
)


def wait_for_random_moment(
    daemon: DaemonUnderTest,
    rng: random.Random,
    moments: Sequence[Callable[[DaemonUnderTest], None]] = MOMENTS,
) -> None:
    rng.choice(moments)(daemon)
    time.sleep(rng.uniform(0, MAX_DELAY_S))


def drop_files(daemon: DaemonUnderTest, rng: random.Random) -> None:
    for _ in range(BACKLOG - daemon.count_unfinished()):
        daemon.drop_scripted_file(f"{len(daemon.texts)}.wav", chunks=CHUNKS, rng=rng)


def kill_daemon(run: Run) -> None:
    with run.create_daemon() as daemon:
        daemon.write_fault_script(SLOW_CHUNKS)
        drop_files(daemon, run.rng)
        daemon.start()
        wait_for_committed_chunk(daemon)
        for _ in run.count_rounds(200, quick=2):
            drop_files(daemon, run.rng)
            wait_for_random_moment(daemon, run.rng)
            daemon.kill()
            run.check_daemon(daemon, ended=False)
            drop_files(daemon, run.rng)
            if run.rng.random() < len(MOMENTS[1:]) / len(MOMENTS):
                with run.measure_recovery(daemon):
                    daemon.start()
            else:
                daemon.start()
        daemon.wait_for_all_jobs()
        daemon.stop()


def kill_workers(run: Run) -> None:
    with run.create_daemon() as daemon:
        daemon.write_fault_script(SLOW_CHUNKS)
        daemon.start()
        for _ in run.count_rounds(200, quick=2):
            drop_files(daemon, run.rng)
            wait_for_random_moment(daemon, run.rng, MOMENTS[1:])
            drop_files(daemon, run.rng)
            with run.measure_recovery(daemon):
                daemon.wait_until(daemon.kill_workers, "a worker")
        daemon.wait_for_all_jobs()
        daemon.stop()


def stop_during_work(run: Run, *, signals: tuple[signal.Signals, ...]) -> None:
    """Send signals during work.

    Jobs in work are finished or given back; committed chunks are kept.
    """
    with run.create_daemon() as daemon:
        daemon.write_fault_script(FaultScript(chunk_s=0.1))
        for _ in run.count_rounds(10, quick=1):
            drop_files(daemon, run.rng)
            daemon.start()
            assert daemon.process
            wait_for_random_moment(daemon, run.rng, MOMENTS[1:])
            for number in signals:
                daemon.process.send_signal(number)
                time.sleep(run.rng.uniform(0, 0.1))
            status = daemon.process.wait(timeout=30)
            if status not in {0, *(-number for number in signals[1:])}:
                run.report_violation(f"the daemon exited with {status}")
            daemon.record_committed_chunks()
            run.check_daemon(daemon, ended=False)
            if stuck := daemon.query_ledger("SELECT path FROM jobs WHERE status = 'processing'"):
                run.report_violation(f"still processing: {[row['path'] for row in stuck]}")
        daemon.run_until_done()


SCENARIOS = (
    Scenario("kill-daemon", "`kill -9` of the daemon, scripted engine", kill_daemon, in_quick=True),
    Scenario(
        "kill-worker", "`kill -9` of the worker, scripted engine", kill_workers, in_quick=True
    ),
    Scenario(
        "term", "SIGTERM during work", lambda run: stop_during_work(run, signals=(signal.SIGTERM,))
    ),
    Scenario(
        "term-twice",
        "SIGTERM twice during work",
        lambda run: stop_during_work(run, signals=(signal.SIGTERM,) * 2),
    ),
    Scenario(
        "ctrl-c", "Ctrl-C during work", lambda run: stop_during_work(run, signals=(signal.SIGINT,))
    ),
)
