"""The service files are well-formed, and the installer says what it would do."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

CONTRIB = REPOSITORY / "contrib"

needs_bash = pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("bash"), reason="needs bash"
)


def rehearse(*options: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [
        "bash",
        CONTRIB / "systemd" / "install.sh",
        "--dry-run",
        "--python",
        python,
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_bash
def test_the_installer_can_be_rehearsed() -> None:
    done = rehearse("--outbox", "/data/texts", "--inbox", "/data/my sound")
    assert done.returncode == 0, done.stderr
    assert "[bundled,server]" in done.stdout
    service = "service install --system --outbox /data/texts --inbox /data/my sound"
    assert f"+ /opt/speakeasyd/venv/bin/speakeasyd {service}\n" in done.stdout
    for wrong in (["--outbox"], ["--nonsense"]):
        assert rehearse(*wrong).returncode == 2


@needs_bash
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("case $2 in *ensurepip*) exit 1;; *%d*) echo 3.11;; esac", "apt install python3.11-venv"),
        ('case $2 in *"(3, 11)"*) exit 1;; *) echo 3.9;; esac', "3.11 or newer is needed"),
    ],
)
def test_the_installer_says_what_is_missing_before_it_makes_anything(
    tmp_path: Path, body: str, said: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    done = rehearse(python=str(python))
    assert done.returncode == 1
    assert said in done.stderr
    assert "+ " not in done.stdout


def test_the_unit_needs_no_program_of_its_own_and_lets_workers_leave() -> None:
    unit = (CONTRIB / "systemd" / "speakeasyd.service").read_text()
    assert "/bin/kill" not in unit
    assert "KillMode=control-group" in unit  # "mixed" kills the last helper process
