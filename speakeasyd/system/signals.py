"""How a person or a service manager asks to stop, and the daemon to read its configuration again."""

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
    """Call these on the running loop: `on_stop` at the first request to stop, `on_force` at every further one."""
    loop = asyncio.get_running_loop()
    asked = False

    def stop() -> None:
        nonlocal asked
        (on_force if asked else on_stop)()
        asked = True

    def handler(action: Callable[[], object]) -> Handler:
        def handle(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(action)  # `loop.add_signal_handler` is not there on Windows

        return handle

    with _temporary_handlers(
        dict.fromkeys(STOP, handler(stop)) | dict.fromkeys(RELOAD, handler(on_reload))
    ):
        yield


@contextmanager
def watch_for_stop() -> Iterator[threading.Event]:
    """The event is set at a request to stop, which nothing else happens by. Only in the main thread."""
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
