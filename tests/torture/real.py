"""kill -9 while the real engine works, with the bundled model."""

import time
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path

import numpy as np

from tests.conftest import SPEECH
from tests.integration.test_engine import samples_of, write_wav
from tests.torture.kills import JITTER_S, MOMENTS, a_chunk_is_safe
from tests.torture.place import REAL
from tests.torture.scenario import Run, Scenario
from tests.torture.speakers import KILL

NAMES = ("voice_memo", "answering_machine", "meeting")
ENGINE: Mapping[str, Mapping[str, object]] = {
    "workers": {"replicas": 0, "batch_size": 0},
    "watch": {"duplicates": "transcribe"},
    "recovery": {"stall_s": 60},
}
BACKLOG = 2


def undisturbed(run: Run, files: list[Path]) -> dict[Path, str]:
    """What they say when nothing happens."""
    with run.place(program=REAL) as place:
        for file in files:
            place.drop(file)
        place.start()
        place.wait_for_end()
        place.stop()
        said = {
            row["path"]: row["text"] for row in place.rows("SELECT path, text FROM transcript_text")
        }
    return {file: said[file.name] for file in files}


def recordings(run: Run) -> list[Path]:
    """Of several chunks each, made of the samples; and some clips, where they are."""
    folder = run.scratch / "recordings"
    folder.mkdir()
    orders = list(permutations(NAMES, 2))[: 1 if run.quick else 3]
    files = [
        write_wav(
            folder / f"{number}.wav", np.concatenate([samples_of(name) for name in order], axis=1)
        )
        for number, order in enumerate(orders)
    ]
    return files + sorted((SPEECH / "clips").glob("ls_*.flac"))[: 0 if run.quick else 2]


def kill(run: Run, *, daemon: bool) -> None:
    files = recordings(run)
    said = undisturbed(run, files)
    with run.place(program=REAL, settings=ENGINE) as place:

        def feed() -> None:
            for _ in range(BACKLOG - place.unfinished()):
                file = files[len(place.texts) % len(files)]
                place.drop(file, f"{len(place.texts)}-{file.name}", text=said[file])

        feed()
        place.start()
        a_chunk_is_safe(place)
        for _ in run.times(20, quick=1):
            feed()
            run.dice.choice(MOMENTS)(place)
            time.sleep(run.dice.uniform(0, JITTER_S))
            feed()
            with run.readiness(place):
                if daemon:
                    place.kill_daemon()
                    run.judge(place, ended=False)
                    place.start()
                else:
                    place.until(place.kill_worker, "a worker")
        place.wait_for_end()
        place.stop()


SCENARIOS = (
    Scenario(
        "real-kill-daemon",
        "`kill -9` of the daemon, real model",
        lambda run: kill(run, daemon=True),
    ),
    Scenario(
        "real-kill-worker",
        "`kill -9` of the worker, real model",
        lambda run: kill(run, daemon=False),
    ),
    KILL,
)
