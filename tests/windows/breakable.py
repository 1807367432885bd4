"""Runs the daemon and raises CTRL_BREAK in it after some seconds: breakable.py SECONDS [ARGUMENTS]"""

import signal
import sys
import threading

from speakeasyd.cli import main

if __name__ == "__main__":
    seconds = float(sys.argv.pop(1))
    if seconds and sys.platform == "win32":
        threading.Timer(seconds, signal.raise_signal, [signal.SIGBREAK]).start()
    print("exit status", main(), flush=True)
