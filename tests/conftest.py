"""Fixtures and helpers of all tests."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

REPOSITORY = Path(__file__).resolve().parent.parent
SPEECH = REPOSITORY.parent / "shared" / "data"  # real recordings with references, if they are there
HOMES = (
    "HOME",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
)
SERVER_VARIABLE = "SPEAKEASYD_SERVER__ENABLED"
PATIENCE_S = 300.0  # seconds; only a failing test waits so long


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the modules with slow tests first, so that all processes are busy to the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def scratch_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own home folder, so that none touches the real one."""
    home = tmp_path_factory.mktemp("home")
    for name in HOMES:
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv(SERVER_VARIABLE, "false")  # tests of the server enable it
    return home


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo what a command that ran in this process has set: handlers and levels."""
    root, ours = logging.getLogger(), logging.getLogger("speakeasyd")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.fixture(scope="session")
def speech() -> Path:
    """Return the folder of real recordings, or skip the test."""
    if not (SPEECH / "manifest.jsonl").is_file():
        pytest.skip("there are no recordings (shared/data beside the repository)")
    return SPEECH


async def wait_until(
    condition: Callable[[], object], what: str, *, patience_s: float = PATIENCE_S
) -> None:
    """Wait until the condition is true. `what` describes it in the failure."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s:.0f} s for {what}"
        await asyncio.sleep(0.01)


def poll_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of the condition, outside of an event loop."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s for {what}"
        time.sleep(0.02)
    return value
