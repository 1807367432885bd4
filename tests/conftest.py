"""What every test may rely on."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

REPOSITORY = Path(__file__).resolve().parent.parent
SPEECH = (
    REPOSITORY.parent / "shared" / "data"
)  # real recordings with references; not everybody has them
HOMES = (
    "HOME",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
)
PATIENCE_S = 300.0  # seconds: only a failure waits for so long, however busy the machine is


@pytest.fixture(autouse=True)
def scratch_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for each test: none may touch the real one."""
    home = tmp_path_factory.mktemp("home")
    for name in HOMES:
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SPEAKEASYD_SERVER__ENABLED", "false")  # but where it is what is tested
    return home


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of real recordings; skips where it is not."""
    if not (SPEECH / "manifest.jsonl").is_file():
        pytest.skip("the recordings are not here (shared/data beside the repository)")
    return SPEECH


async def eventually(
    condition: Callable[[], object], what: str, *, patience_s: float = PATIENCE_S
) -> None:
    """Wait until `condition()` is true; fails with `what` was waited for."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s:.0f} s in vain for: {what}"
        await asyncio.sleep(0.01)
