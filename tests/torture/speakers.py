"""kill -9 while speakers are told apart: the same rows and artifacts as without."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.integration.test_engine import samples_of, write_wav
from tests.torture.kills import JITTER_S, MOMENTS
from tests.torture.place import REAL, Place
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


def kill(run: Run) -> None:
    """Each round a fresh file, the daemon or its worker killed at a random moment of it."""
    parts = [samples_of(name)[:, : 12 * 16_000] for name in ("voice_memo", "answering_machine")]
    sound = np.concatenate(parts, axis=1)
    file = write_wav(run.scratch / "talk.wav", sound)
    with run.place(program=REAL, settings=SETTINGS) as place:
        place.drop(file)
        place.start()
        place.wait_for_end()
        expected = results(place, "talk")
        if not expected[1]:
            run.complain("nobody was heard in the recording")
        for number in run.times(100):
            place.drop(file, f"{number}.wav")
            run.dice.choice(MOMENTS[:3])(place)
            time.sleep(run.dice.uniform(0, JITTER_S))
            if run.dice.random() < 0.5:
                place.kill_daemon()
                place.start()
            else:
                place.kill_worker()
            place.wait_for_end()
            if results(place, str(number)) != expected:
                run.complain(f"round {number}: other rows or artifacts than without a kill")
        place.stop()


def results(place: Place, stem: str) -> tuple[list[object], list[object], dict[str, list[str]]]:
    """Return the rows of chunks, the speakers, and the lines of the artifacts that say who speaks."""
    rows, speakers = (
        [tuple(row) for row in place.rows(query.format(path=f"{stem}.wav"))]
        for query in (_ROWS, _SPEAKERS)
    )
    artifacts = {ending: read_lines(place.outbox / f"{stem}.{ending}") for ending in FORMATS}
    return rows, speakers, artifacts


def read_lines(artifact: Path) -> list[str]:
    """Return the lines of an artifact, without those that name the file, the job or its time."""
    lines = artifact.read_text("utf-8").replace(f"{artifact.stem}.wav", "").splitlines()
    return [line for line in lines if not line.startswith((' "job_id"', ' "created_at"'))]


KILL = Scenario(
    "speakers-kill", "`kill -9` while speakers are told apart, real model", kill, in_quick=True
)
