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


@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("bash"), reason="needs bash")
def test_the_installer_can_be_rehearsed() -> None:
    script = CONTRIB / "systemd" / "install.sh"
    done = subprocess.run(["bash", script, "--dry-run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "systemctl enable speakeasyd.service" in done.stdout


def test_the_unit_is_what_systemd_accepts(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "speakeasyd.service"
    text = (CONTRIB / "systemd" / "speakeasyd.service").read_text(encoding="utf-8")
    unit.write_text(text.replace("/opt/speakeasyd/venv/bin/speakeasyd", sys.executable), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert "speakeasyd.service" not in done.stderr, done.stderr
