"""The service files are valid, and the installer has a dry run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from speakeasyd.config import load_configuration
from tests.conftest import REPOSITORY

CONTRIB = REPOSITORY / "contrib"

needs_bash = pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("bash"), reason="needs bash"
)


def run_dry(*options: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
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
def test_the_installer_has_a_dry_run() -> None:
    done = run_dry("--outbox", "/data/texts", "--inbox", "/data/my sound")
    assert done.returncode == 0, done.stderr
    assert "[bundled,server]" in done.stdout
    service = "service install --system --outbox /data/texts --inbox /data/my sound"
    assert f"+ /opt/speakeasyd/venv/bin/speakeasyd {service}\n" in done.stdout
    for wrong in (["--outbox"], ["--nonsense"]):
        assert run_dry(*wrong).returncode == 2


@needs_bash
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("case $2 in *ensurepip*) exit 1;; *%d*) echo 3.11;; esac", "apt install python3.11-venv"),
        ('case $2 in *"(3, 11)"*) exit 1;; *) echo 3.9;; esac', "3.11 or newer is needed"),
    ],
)
def test_the_installer_reports_missing_programs_first(
    tmp_path: Path, body: str, message: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    done = run_dry(python=str(python))
    assert done.returncode == 1
    assert message in done.stderr
    assert "+ " not in done.stdout


def test_the_unit_stops_all_processes() -> None:
    unit = (CONTRIB / "systemd" / "speakeasyd.service").read_text()
    assert "/bin/kill" not in unit
    assert "KillMode=control-group" in unit  # "mixed" kills helper processes that remain


@pytest.mark.skipif(sys.platform == "win32", reason="for Nautilus and Finder")
def test_a_file_manager_puts_files_into_the_inbox(tmp_path: Path) -> None:
    inbox, file = tmp_path / "in box", tmp_path / "my talk.mp3"
    inbox.mkdir()
    file.write_bytes(b"sound")
    config = tmp_path / "speakeasyd.toml"
    config.write_text(f"[[inboxes]]\npath = '{inbox}'\noutbox = '{tmp_path}/out'\n")
    program = tmp_path / "speakeasyd"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m speakeasyd "$@"\n')
    program.chmod(0o755)
    script = CONTRIB / "file-managers" / "transcribe-this"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SPEAKEASYD": str(program)}
    environment |= {"SPEAKEASYD_CONFIG": str(config)}

    def transcribe() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, file], env=environment, capture_output=True, text=True, check=False
        )

    done = transcribe()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name: path.read_bytes() for path in inbox.iterdir()} == {"my talk.mp3": b"sound"}
    assert transcribe().returncode == 1


@pytest.mark.parametrize("name", ["docker/compose.yaml", "kubernetes/speakeasyd.yaml"])
def test_the_containers_fit_the_image(name: str) -> None:
    """The folders, the port and the keys of the manifests are those of the image."""
    settings = load_configuration(CONTRIB / "docker" / "speakeasyd.toml", environ={}).settings
    [inbox] = settings.inboxes
    folders = {str(settings.state), str(inbox.path), str(inbox.outbox)}
    manifest = (CONTRIB / name).read_text(encoding="utf-8")
    image = (CONTRIB / "docker" / "Dockerfile").read_text(encoding="utf-8")
    [volumes] = re.findall(r"^VOLUME (.+)$", image, re.MULTILINE)
    assert folders == set(json.loads(volumes))
    documents = [document for document in yaml.safe_load_all(manifest) if document]
    text = json.dumps(documents)
    assert all(folder in text for folder in folders)
    assert f"EXPOSE {settings.server.port}" in image
    assert str(settings.server.port) in text
    variables = dict.fromkeys(re.findall(r"SPEAKEASYD_\w+__\w+", manifest), "a long random text")
    assert variables
    for key, value in ("HOST", "::"), ("HOSTS", '["a"]'):
        if f"SPEAKEASYD_SERVER__{key}" in variables:
            variables[f"SPEAKEASYD_SERVER__{key}"] = value
    assert load_configuration(environ=variables).settings.server.token
