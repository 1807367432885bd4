"""The wheel is complete: installed in a clean environment, it works."""

import os
import platform
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from speakeasyd.engine.whisper.packed_library import LIBRARIES, SOURCES
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY))
    [wheel] = folder.glob("speakeasyd-*.whl")
    return wheel


def _pip(python: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if "No matching distribution" in done.stderr or "NewConnectionError" in done.stderr:
        pytest.skip("pip reaches no package index")
    assert done.returncode == 0, done.stderr


def test_the_wheel_contains_data_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "speakeasyd/_config/speakeasyd.toml",
        "speakeasyd/_migrations/env.py",
        "speakeasyd/py.typed",
    } <= names
    for folder, prefix in (
        ("migrations", "speakeasyd/_migrations"),
        ("contrib", "speakeasyd/_contrib"),
        ("speakeasyd/data", "speakeasyd/data"),
    ):
        source = REPOSITORY / folder
        files = (file for file in source.rglob("*") if file.is_file() and file.suffix != ".pyc")
        assert {f"{prefix}/{file.relative_to(source).as_posix()}" for file in files} <= names


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="there is no packed network for it")
def test_the_wheel_contains_the_packed_network(wheel: Path) -> None:
    """One wheel serves every Python of a platform."""
    assert "-py3-none-" in wheel.name
    assert "-any." not in wheel.name
    names = {*zipfile.ZipFile(wheel).namelist()}
    files = [*LIBRARIES.values(), *(file.name for file in SOURCES.glob("*.[ch]"))]
    assert {f"{SOURCES.relative_to(REPOSITORY).as_posix()}/{name}" for name in files} <= names


def test_without_a_compiler_the_wheel_is_pure_python(tmp_path: Path) -> None:
    environment = {**os.environ, "CC": "/nonexistent/cc"}
    _pip(
        *(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(REPOSITORY)),
        environment=environment,
    )
    [wheel] = tmp_path.glob("speakeasyd-*-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


def test_it_transcribes_from_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "clean", with_pip=True)
    scripts = tmp_path / "clean" / ("Scripts" if os.name == "nt" else "bin")
    _pip(str(scripts / "python"), "install", f"{wheel}[bundled]")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "inbox").mkdir(parents=True)
    sample = REPOSITORY / "speakeasyd" / "data" / "samples" / "voice_memo.flac"
    (elsewhere / "inbox" / sample.name).write_bytes(sample.read_bytes())

    def run_command(*arguments: str) -> str:
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith("PYTHON")
        }
        done = subprocess.run(
            [scripts / "speakeasyd", *arguments],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run_command("--version").startswith("speakeasyd ")
    run_command("config", "init", "here.toml")
    assert (elsewhere / "here.toml").is_file()
    run_command(
        "once", "--inbox", "inbox", "--outbox", "outbox", "--state", "state", "--model", "bundled"
    )
    assert (elsewhere / "outbox" / "voice_memo.txt").read_text("utf-8").strip()
