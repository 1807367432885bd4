"""Where Python's search for cyclic garbage is paused."""

import gc
from collections.abc import Iterator
from contextlib import suppress

import pytest

from speakeasyd.garbage import pause_collection


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_pause_leaves_the_setting_as_it_was(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    with suppress(ImportError), pause_collection():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() == enabled
