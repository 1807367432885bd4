"""`speakeasyd tune` measures this machine and stores the best settings."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speakeasyd.cli.tune import Trial, choose_best
from speakeasyd.domain.protocol import ChunkDone, Report, WorkerSpec
from speakeasyd.engine import tune_trial as trial_module
from speakeasyd.engine.pipeline import Pipeline


def build_trial(replicas: int, speed: float) -> Trial:
    return Trial(WorkerSpec("cpu", "int8", replicas, 1, "state"), speed, 0)


def test_settings_change_only_for_a_clear_gain() -> None:
    usual, little, much = build_trial(2, 10.0), build_trial(1, 10.2), build_trial(3, 11.0)
    assert choose_best([usual, little]) is usual
    assert choose_best([usual, little, much]) is much


@pytest.mark.real
@pytest.mark.slow
def test_a_short_trial_counts_its_total_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicas that start together also end together, so the time between their first chunks says
    nothing.
    """
    spec = WorkerSpec("cpu", "int8", 2, 1, str(tmp_path), offline=True)
    done_when_read: list[int] = []  # chunks at each reading of the clock
    chunks: list[ChunkDone] = []

    class CountingPipeline(Pipeline):
        def __init__(self, *, send: Callable[[Report], None], **others: Any) -> None:
            def count_report(report: Report) -> None:
                if isinstance(report, ChunkDone):
                    chunks.append(report)
                send(report)

            super().__init__(send=count_report, **others)

    class FakeClock:
        def monotonic(self) -> float:
            done_when_read.append(len(chunks))
            return 10.0 * len(done_when_read)

    monkeypatch.setattr(trial_module, "Pipeline", CountingPipeline)
    monkeypatch.setattr(trial_module, "time", FakeClock())
    speed = trial_module.collect_findings("bundled", 0.01, spec)["speed"]
    assert done_when_read == [0, len(chunks)], "from before the first chunk to after the last"
    assert chunks
    assert speed == pytest.approx(sum(done.chunk.end - done.chunk.start for done in chunks) / 10.0)


@pytest.mark.real
@pytest.mark.slow
def test_the_best_settings_are_written_into_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "speakeasyd.toml"
    file.write_text(f"state = '{tmp_path}'\n[options]\nmodel = 'bundled'\n")
    command = [sys.executable, "-m", "speakeasyd", "tune", "--seconds", "1", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--write", "--config", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = tomllib.loads(file.read_text())
    assert written["options"] == {"model": "bundled"}
    assert written["workers"]["replicas"] >= 1
    assert "best:" in done.stdout
