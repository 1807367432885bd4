"""Kills daemons and workers while they identify speakers, and compares rows and artifacts."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.integration.test_engine import read_samples, write_wav
from tests.torture.daemon_under_test import REAL, DaemonUnderTest
from tests.torture.kills import MOMENTS, wait_for_random_moment
from tests.torture.scenario import Run, Scenario

FORMATS = ("json", "rttm", "vtt")
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "options": {"model": "bundled", "speakers": "auto", "formats": FORMATS},
    "watch": {"duplicates": "transcribe"},
    "recovery": {"stall_s": 60},
}
_ROWS = """
    SELECT chunks.number, chunks.speakers, speaker_numbers, segments.start_seconds, local_speaker, text
    FROM chunks JOIN jobs ON jobs.id = chunks.job_id
    LEFT JOIN segments ON segments.job_id = jobs.id AND segments.chunk = chunks.number
    WHERE path = '{path}' ORDER BY chunks.number, position
"""
_SPEAKERS = "SELECT speaker, name, seconds, words FROM speakers WHERE path = '{path}' ORDER BY 1"


def kill_during_work(run: Run) -> None:
    """In each round, kill the daemon or its worker at a random moment of a new file."""
    parts = [read_samples(name)[:, : 12 * 16_000] for name in ("voice_memo", "answering_machine")]
    sound = np.concatenate(parts, axis=1)
    file = write_wav(run.scratch / "talk.wav", sound)
    with run.create_daemon(program=REAL, settings=SETTINGS) as daemon:
        daemon.drop_file(file)
        daemon.start()
        daemon.wait_for_all_jobs()
        expected = read_results(daemon, "talk")
        if not expected[1]:
            run.report_violation("no speaker was found in the recording")
        for number in run.count_rounds(100):
            daemon.drop_file(file, f"{number}.wav")
            wait_for_random_moment(daemon, run.rng, MOMENTS[:3])
            if run.rng.random() < 0.5:
                daemon.kill()
                daemon.start()
            else:
                daemon.kill_workers()
            daemon.wait_for_all_jobs()
            if read_results(daemon, str(number)) != expected:
                run.report_violation(f"round {number}: other rows or artifacts than without a kill")
        daemon.stop()


def read_results(
    daemon: DaemonUnderTest, stem: str
) -> tuple[list[object], list[object], dict[str, list[str]]]:
    """Return the rows of chunks, the speakers, and the lines of the artifacts with speakers."""
    rows, speakers = (
        [tuple(row) for row in daemon.query_ledger(query.format(path=f"{stem}.wav"))]
        for query in (_ROWS, _SPEAKERS)
    )
    artifacts = {ending: read_lines(daemon.outbox / f"{stem}.{ending}") for ending in FORMATS}
    return rows, speakers, artifacts


def read_lines(artifact: Path) -> list[str]:
    """Return the lines of an artifact, without those that name the file, the job or its time."""
    lines = artifact.read_text("utf-8").replace(f"{artifact.stem}.wav", "").splitlines()
    return [line for line in lines if not line.startswith((' "job_id"', ' "created_at"'))]


SCENARIO = Scenario(
    "speakers-kill",
    "`kill -9` while speakers are told apart, real model",
    kill_during_work,
    in_quick=True,
)
