"""Signals that request a stop or a reload of the configuration."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

STOP = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last is Windows' CTRL_BREAK
RELOAD = ("SIGHUP",)

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def install_handlers(
    *,
    on_stop: Callable[[], object],
    on_force: Callable[[], object],
    on_reload: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Call functions on the running loop: `on_stop` at the first stop signal, then `on_force`.

    The handlers before are restored at the end.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def stop() -> None:
        nonlocal asked
        (on_force if asked else on_stop)()
        asked = True

    def handler(action: Callable[[], object]) -> Handler:
        def handle(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(action)  # Windows has no `loop.add_signal_handler`

        return handle

    with _temporary_handlers(
        dict.fromkeys(STOP, handler(stop)) | dict.fromkeys(RELOAD, handler(on_reload))
    ):
        yield


@contextmanager
def watch_for_stop() -> Iterator[threading.Event]:
    """Yield an event that a stop signal sets, without another effect. Main thread only."""
    asked = threading.Event()
    with _temporary_handlers(dict.fromkeys(STOP, lambda _number, _frame: asked.set())):
        yield asked


@contextmanager
def _temporary_handlers(handlers: Mapping[str, Handler]) -> Iterator[None]:
    before = {
        number: signal.signal(number, handler)
        for name, handler in handlers.items()
        if (number := getattr(signal, name, None)) is not None
    }
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
