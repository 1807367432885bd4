"""Programs that examine what could end a process."""

import asyncio
from pathlib import Path

import pytest

from speakeasyd.probe import run_probe
from tests.conftest import PATIENCE_S

PROGRAM = "import json; print(json.dumps({'loaded': json.__file__}))"


def test_modules_in_the_current_folder_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    found = asyncio.run(run_probe("-c", PROGRAM, deadline_s=PATIENCE_S))
    assert not Path(found["loaded"]).is_relative_to(tmp_path)
