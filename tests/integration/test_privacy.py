"""File permissions: the owner can read, and the group if it has the state folder."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speakeasyd import cli
from speakeasyd.errors import OutboxUnavailable
from speakeasyd.ledger.backup import back_up
from speakeasyd.ledger.failures import build_read_only_error
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.ledger.migrate import migrate_ledger
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.outbox.os_errors import translate_os_errors
from tests.ledgers import build_job, open_ledger

if sys.platform == "win32":
    pytest.skip("modes of POSIX", allow_module_level=True)


@pytest.fixture(autouse=True)
def permissive_umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def read_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("folder", "files"), [(0o700, 0o600), (0o750, 0o640), (0o755, 0o640), (0o2770, 0o660)]
)
async def test_the_ledger_and_files_beside_it_are_private(
    tmp_path: Path, folder: int, files: int
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(folder)
    ledger = state / "ledger.db"
    with LedgerLock(state):
        migrate_ledger(ledger)
        async with open_ledger(ledger) as daemon:
            await daemon.write(add_jobs, [build_job("a.wav")])
            copy = back_up(ledger, label="daily")
            beside = [path for path in state.iterdir() if path.is_file()]
            assert {path.name for path in beside} >= {
                "ledger.db",
                "ledger.db-wal",
                "ledger.db-shm",
                "daemon.lock",
            }
            assert {path.name: oct(read_mode(path)) for path in beside} == {
                path.name: oct(files) for path in beside
            }
            assert read_mode(copy) == 0o600
            assert read_mode(copy.parent) & 0o777 == 0o700


def test_a_new_configuration_is_readable_only_by_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "speakeasyd.toml"
    assert cli.main(["config", "init", str(file)]) == 0
    assert read_mode(file) == 0o600
    file.chmod(0o640)
    assert cli.main(["config", "init", "--force", str(file)]) == 0
    assert read_mode(file) == 0o640, "as somebody chose"


def test_doctor_warns_about_files_that_others_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, config = tmp_path / "state", tmp_path / "speakeasyd.toml"
    state.mkdir(mode=0o700)
    config.write_text('[server]\ntoken = "a secret that is long enough"\n')
    for open_to_all in (False, True):
        state.chmod(0o755 if open_to_all else 0o750)
        config.chmod(0o644 if open_to_all else 0o640)
        cli.main(["doctor", "--config", str(config), "--state", str(state)])
        output = capsys.readouterr().out
        assert (f"{state} is open to every user" in output) is open_to_all
        assert (f"{config} is open to every user" in output) is open_to_all


@pytest.mark.parametrize("service", [True, False])
def test_a_read_only_folder_under_systemd_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: bool
) -> None:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    if service:
        monkeypatch.setenv("INVOCATION_ID", "0" * 32)
    with pytest.raises(OutboxUnavailable) as refused, translate_os_errors(tmp_path):
        raise OSError(30, "Read-only file system")
    assert (f"ReadWritePaths={tmp_path}" in str(refused.value)) is service
    hint = build_read_only_error(tmp_path / "ledger.db").hint
    assert (f"ReadWritePaths={tmp_path}" in hint) is service
