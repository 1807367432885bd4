"""Where Python's search for cyclic garbage is paused."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

from speakeasyd.garbage import exempt_existing_objects, pause_collection


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


class Link:
    """Part of a cycle: only a search finds that it is garbage."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_from_before_is_found_after_the_exemption() -> None:
    old = Link()
    before = weakref.ref(old)
    with exempt_existing_objects():
        new = Link()
        inside = weakref.ref(new)
        del old, new
        gc.collect()
        assert before() is not None
        assert inside() is None
    gc.collect()
    assert before() is None
