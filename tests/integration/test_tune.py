"""`speakeasyd tune` measures this machine and keeps what it finds."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from speakeasyd.cli.tune import Trial, best
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.engine.trial import findings


def trial(replicas: int, speed: float) -> Trial:
    return Trial(WorkerSpec("cpu", "int8", replicas, 1, "state"), speed, 0)


def test_another_way_has_to_be_worth_the_change() -> None:
    usual, little, much = trial(2, 10.0), trial(1, 10.2), trial(3, 11.0)
    assert best([usual, little]) is usual
    assert best([usual, little, much]) is much


@pytest.mark.real
@pytest.mark.slow
def test_a_trial_of_a_few_chunks_promises_no_more_than_a_longer_one(tmp_path: Path) -> None:
    """Replicas that began together end together: the time between their first chunks says nothing."""
    spec = WorkerSpec("cpu", "int8", 2, 1, str(tmp_path), offline=True)

    def speed(seconds: float) -> float:
        return float(str(findings("bundled", seconds, spec)["speed"]))

    assert 0 < speed(0.3) < 2 * speed(3)


@pytest.mark.real
@pytest.mark.slow
def test_the_best_settings_are_written_into_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "speakeasyd.toml"
    file.write_text(f"state = '{tmp_path}'\n[options]\nmodel = 'bundled'\n")
    command = [sys.executable, "-m", "speakeasyd", "tune", "--seconds", "1", "--device", "cpu"]
    done = subprocess.run([*command, "--write", "--config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = tomllib.loads(file.read_text())
    assert written["options"] == {"model": "bundled"}
    assert written["workers"]["replicas"] >= 1
    assert "best:" in done.stdout
