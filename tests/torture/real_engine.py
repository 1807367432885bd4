"""Kills daemons and workers while the real engine works, with the bundled model."""

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np

from tests.conftest import SPEECH
from tests.integration.test_engine import read_samples, write_wav
from tests.torture.daemon_under_test import REAL, DaemonUnderTest
from tests.torture.kills import wait_for_committed_chunk, wait_for_random_moment
from tests.torture.scenario import Run, Scenario
from tests.torture.speakers import SCENARIO as SPEAKERS

SAMPLE_NAMES = ("voice_memo", "answering_machine", "meeting")
ENGINE: Mapping[str, Mapping[str, object]] = {
    "workers": {"replicas": 0, "batch_size": 0},
    "watch": {"duplicates": "transcribe"},
    "recovery": {"stall_s": 60},
}
BACKLOG = 2  # unfinished files that there always are


def transcribe_files(
    run: Run, files: list[Path], *, settings: Mapping[str, Mapping[str, object]] = {}
) -> dict[Path, str]:
    """Return the transcripts of the files without faults."""
    with run.create_daemon(program=REAL, settings=settings) as daemon:
        for file in files:
            daemon.drop_file(file)
        daemon.run_until_done()
        texts = {
            row["path"]: row["text"]
            for row in daemon.query_ledger("SELECT path, text FROM transcript_text")
        }
    return {file: texts[file.name] for file in files}


def create_recordings(run: Run) -> list[Path]:
    """Create recordings of several chunks from the samples.

    Adds clips of real speech, if there are any.
    """
    folder = run.scratch / "recordings"
    folder.mkdir()
    orders = list(permutations(SAMPLE_NAMES, 2))[: 1 if run.quick else 3]
    files = [
        write_wav(
            folder / f"{number}.wav", np.concatenate([read_samples(name) for name in order], axis=1)
        )
        for number, order in enumerate(orders)
    ]
    return files + sorted((SPEECH / "clips").glob("ls_*.flac"))[: 0 if run.quick else 2]


def drop_files(
    daemon: DaemonUnderTest, files: list[Path], texts: Mapping[Path, str], *, backlog: int
) -> None:
    """Drop the files in turn until there are `backlog` unfinished ones.

    `texts`: the right transcripts. The text of a file that is not in it is not checked.
    """
    for _ in range(backlog - daemon.count_unfinished()):
        file = files[len(daemon.texts) % len(files)]
        daemon.drop_file(file, f"{len(daemon.texts)}-{file.name}", text=texts.get(file))


def kill_during_work(run: Run, *, target: Literal["daemon", "worker"]) -> None:
    files = create_recordings(run)
    texts = transcribe_files(run, files)
    with run.create_daemon(program=REAL, settings=ENGINE) as daemon:
        drop_files(daemon, files, texts, backlog=BACKLOG)
        daemon.start()
        wait_for_committed_chunk(daemon)
        for _ in run.count_rounds(20, quick=1):
            drop_files(daemon, files, texts, backlog=BACKLOG)
            wait_for_random_moment(daemon, run.rng)
            drop_files(daemon, files, texts, backlog=BACKLOG)
            with run.measure_recovery(daemon):
                if target == "daemon":
                    daemon.kill()
                    run.check_daemon(daemon, ended=False)
                    daemon.start()
                else:
                    daemon.wait_until(daemon.kill_workers, "a worker")
        daemon.wait_for_all_jobs()
        daemon.stop()


SCENARIOS = (
    Scenario(
        "real-kill-daemon",
        "`kill -9` of the daemon, real model",
        lambda run: kill_during_work(run, target="daemon"),
    ),
    Scenario(
        "real-kill-worker",
        "`kill -9` of the worker, real model",
        lambda run: kill_during_work(run, target="worker"),
    ),
    SPEAKERS,
)
