"""Folders that a Windows service does not see are found before they are missed."""

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from speakeasyd.cli.checks import check_mapped_drives
from speakeasyd.config import InboxSettings, Settings


def find_drive_type(root: str) -> int:
    return {"C:\\": 3, "Z:\\": 4}[root]


@pytest.mark.parametrize(
    ("outbox", "warned"),
    [("Z:\\texts", True), ("C:\\texts", False), ("\\\\server\\share\\texts", False)],
)
def test_a_mapped_drive_is_no_place_for_a_service(
    monkeypatch: pytest.MonkeyPatch, outbox: str, warned: bool
) -> None:
    inbox = InboxSettings.model_construct(path=Path("C:\\in"), outbox=Path(outbox))
    settings = Settings.model_construct(state=Path("C:\\state"), inboxes=(inbox,))
    assert list(check_mapped_drives(settings)) == []
    monkeypatch.setattr(sys, "platform", "win32")
    kernel32 = SimpleNamespace(GetDriveTypeW=find_drive_type)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel32), raising=False)
    findings = list(check_mapped_drives(settings))
    assert [outbox in finding.text for finding in findings] == [True] * warned
