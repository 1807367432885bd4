"""Sends notices from the driver process to the daemon."""

import os
import threading
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue

from speakeasyd.cluster.messages import Notice, Notices

MOST = 256  # notices in one message


class NoticeSender:
    """Sends notices in their order, on a thread of its own, so that a busy daemon blocks nobody.

    Notices that wait go together: for the daemon, each message is several system calls, after each of
    which it may wait 5 ms for Python's interpreter lock. Ends the process if the daemon is gone.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._waiting: SimpleQueue[Notice | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
        self._thread.start()

    def send(self, notice: Notice) -> None:
        """Queue a notice. Never blocks. Thread-safe."""
        self._waiting.put(notice)

    def close(self) -> None:
        """Send what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            taken = self._take_waiting()
            is_open = None not in taken
            if together := tuple(notice for notice in taken if notice):
                try:
                    self._conn.send(Notices(together))
                except OSError:
                    os._exit(0)  # the daemon is gone; Ray ends the actors of this process

    def _take_waiting(self) -> list[Notice | None]:
        """Wait for a notice, and return it and those behind it."""
        taken = [self._waiting.get()]
        try:
            while len(taken) < MOST:
                taken.append(self._waiting.get_nowait())
        except Empty:
            pass
        return taken
