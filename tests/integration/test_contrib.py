"""The service files are well-formed, name the real program, and the installer says what it would do."""

import plistlib
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

CONTRIB = REPOSITORY / "contrib"


def test_the_windows_service_stops_in_good_order() -> None:
    service = ET.parse(CONTRIB / "windows" / "speakeasyd.xml").getroot()  # noqa: S314 - our own file
    assert service.findtext("arguments", "").startswith("run ")
    assert service.findtext("stoptimeout") == "60 sec"


def test_the_launch_agent_runs_the_daemon() -> None:
    agent = plistlib.loads((CONTRIB / "macos" / "io.speakeasyd.plist").read_bytes())
    assert agent["ProgramArguments"][-1] == "run"
    assert agent["KeepAlive"] is True


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
    done = rehearse()
    assert done.returncode == 0, done.stderr
    assert "[bundled,server]" in done.stdout
    assert "-m 0640 -o root -g speakeasyd" in done.stdout
    assert "install -d -m 0750 -o speakeasyd -g speakeasyd /var/lib/speakeasyd" in done.stdout
    assert "systemctl enable speakeasyd.service" in done.stdout


@needs_bash
def test_the_installer_lets_the_service_write_elsewhere() -> None:
    done = rehearse("--outbox", "/data/texts", "--inbox", "/data/sound")
    assert done.returncode == 0, done.stderr
    for folder in ("/data/texts", "/data/sound"):
        assert (
            f"ReadWritePaths={folder} >> /etc/systemd/system/speakeasyd.service.d/folders.conf"
            in done.stdout
        )
    for wrong in (
        ["--outbox", "relative"],
        ["--outbox", "/with space"],
        ["--outbox"],
        ["--nonsense"],
    ):
        assert rehearse(*wrong).returncode != 0


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


def test_the_unit_is_what_systemd_accepts(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "speakeasyd.service"
    text = (CONTRIB / "systemd" / "speakeasyd.service").read_text(encoding="utf-8")
    unit.write_text(
        text.replace("/opt/speakeasyd/venv/bin/speakeasyd", sys.executable), encoding="utf-8"
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert "speakeasyd.service" not in done.stderr, done.stderr


def test_the_unit_needs_no_program_of_its_own_and_lets_workers_leave() -> None:
    unit = (CONTRIB / "systemd" / "speakeasyd.service").read_text()
    assert "/bin/kill" not in unit
    assert "KillMode=control-group" in unit  # "mixed" kills the last helper process
