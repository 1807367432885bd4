"""How a person or a service manager asks the daemon to stop, and to read its configuration again."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last is Windows' CTRL_BREAK
RELOAD = ("SIGHUP",)


@contextmanager
def install(
    *, on_stop: Callable[[], object], on_force: Callable[[], object], on_reload: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Call these on the running loop: `on_stop` at the first request to stop, `on_force` at every further one."""
    loop = asyncio.get_running_loop()
    asked = False

    def stop() -> None:
        nonlocal asked
        (on_force if asked else on_stop)()
        asked = True

    def handler(action: Callable[[], object]) -> Callable[[int, FrameType | None], None]:
        def handle(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(action)  # `loop.add_signal_handler` is not there on Windows

        return handle

    actions = {**dict.fromkeys(STOP, stop), **dict.fromkeys(RELOAD, on_reload)}
    before = {
        number: signal.signal(number, handler(action))
        for name, action in actions.items()
        if (number := getattr(signal, name, None)) is not None
    }
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
