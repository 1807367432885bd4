"""Runs the daemon and raises CTRL_BREAK some seconds after it is ready for it: breakable.py SECONDS [ARGUMENTS]"""

import signal
import sys
import threading
import time

from speakeasyd.cli import main


def raise_break(seconds: float) -> None:
    """Raise CTRL_BREAK once the daemon handles it: before, it would just end the process."""
    while signal.getsignal(signal.SIGBREAK) is signal.SIG_DFL:  # type: ignore[attr-defined] # Windows
        time.sleep(0.2)
    time.sleep(seconds)
    signal.raise_signal(signal.SIGBREAK)  # type: ignore[attr-defined] # Windows


if __name__ == "__main__":
    seconds = float(sys.argv.pop(1))
    if seconds and sys.platform == "win32":
        threading.Thread(target=raise_break, args=[seconds], daemon=True).start()
    print("exit status", main(), flush=True)
