"""`speakeasyd service`: what it plans for this machine, and how steps are carried out."""

import stat
import sys
from pathlib import Path

import pytest

from speakeasyd import cli
from speakeasyd.cli import service as command
from speakeasyd.cli import service_steps
from speakeasyd.cli.service_steps import carry_out
from speakeasyd.config import InboxSettings, Settings, load_configuration
from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.setting_sources import list_candidates
from speakeasyd.system.managers.plan import AwaitStart, CopyFile, MakeFolder, Remove, Run, WriteFile

linux = pytest.mark.skipif(sys.platform != "linux", reason="for systemd")


def rehearse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["service", *arguments, "--dry-run"]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def nothing_is_installed(
    scratch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SYSTEM_UNITS", tmp_path / "units")


@linux
def test_a_user_gets_a_service_without_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    out = rehearse(capsys, "install", "--user")
    assert "+ systemctl --user restart speakeasyd.service" in out
    assert "speakeasyd run\n" in out
    assert "--config" not in out


@linux
def test_folders_are_written_to_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = rehearse(capsys, "install", "--user", "--inbox", str(tmp_path / "in"))
    file = list_candidates()[0]
    assert f"+ write {file} (0600), if it is missing" in out
    assert f'path = "{tmp_path}/in"' in out
    assert f"speakeasyd run --config {file}" in out
    file.parent.mkdir(parents=True)
    file.write_text(f'[[inboxes]]\npath = "{tmp_path}/other"\n')
    assert cli.main(["service", "install", "--user", "--inbox", f"{tmp_path}/in"]) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_configuration_that_is_written_has_these_folders(tmp_path: Path) -> None:
    inbox = InboxSettings(path=tmp_path / "a 'b'", outbox=tmp_path / 'c "d"')
    settings = Settings(state=tmp_path / "state", inboxes=(inbox,))
    file = tmp_path / "speakeasyd.toml"
    file.write_text(command.render_config(settings), encoding="utf-8")
    assert load_configuration(file, environ={}).settings == settings


@linux
def test_a_service_of_the_system_is_what_the_configuration_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_require_reach", lambda program: None)
    config = tmp_path / "mine.toml"
    config.write_text('[[inboxes]]\npath = "/data/in"\noutbox = "/data/out"\nfailed = "/data/no"\n')
    out = rehearse(capsys, "install", "--system", "--config", str(config))
    for folder in ("in", "out", "no"):
        assert f"ReadWritePaths=-/data/{folder}" in out
    assert f"speakeasyd run --config {config}" in out


@linux
def test_a_program_that_others_cannot_run_is_no_service_of_the_system(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "speakeasyd").touch(mode=0o755)
    monkeypatch.setattr(command, "_find_program", lambda: (str(closed / "speakeasyd"),))
    assert cli.main(["service", "install", "--system", "--dry-run"]) == 1
    assert f"{closed} is closed to other users" in capsys.readouterr().err


@linux
@pytest.mark.parametrize("verb", ["uninstall", "start", "stop", "status", "logs"])
def test_what_is_not_installed_is_said(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["service", verb]) == 1
    assert "speakeasyd service install" in capsys.readouterr().err
    assert "speakeasyd.service" in rehearse(capsys, verb)


@linux
def test_the_scope_that_is_installed_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "speakeasyd.service").touch()
    assert "systemctl stop" in rehearse(capsys, "stop")


@pytest.mark.skipif(sys.platform == "win32", reason="file modes")
def test_steps_are_carried_out_until_one_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, new = tmp_path / "kept", tmp_path / "a" / "new"
    kept.write_text("mine")
    status = carry_out(
        (
            MakeFolder(tmp_path / "b" / "c", 0o750),
            WriteFile(kept, b"yours", mode=0o640, keep=True),
            WriteFile(new, b"text"),
            CopyFile(new, tmp_path / "copy"),
            Run((sys.executable, "-c", "raise SystemExit(4)"), may_fail=True),
            Run((sys.executable, "-c", "raise SystemExit(5)")),
            Remove((kept,)),
        ),
        state=tmp_path,
    )
    assert status == 5
    assert stat.S_IMODE((tmp_path / "b" / "c").stat().st_mode) == 0o750
    assert (kept.read_text(), stat.S_IMODE(kept.stat().st_mode)) == ("mine", 0o640)
    assert (tmp_path / "copy").read_text() == "text"
    carry_out((Remove((new, tmp_path / "absent", new.parent, tmp_path)),), state=tmp_path)
    assert not new.parent.exists()
    assert tmp_path.exists()  # it is not empty
    with pytest.raises(SpeakeasyError, match="no program"):
        carry_out((Run(("/nonexistent/systemctl",)),), state=tmp_path)


def test_a_service_runs_once_its_daemon_has_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_steps, "START_S", 0.0)
    with pytest.raises(SpeakeasyError, match="has not started"):
        carry_out((AwaitStart(),), state=tmp_path)
    with LedgerLock(tmp_path):
        assert carry_out((AwaitStart(),), state=tmp_path) == 0
