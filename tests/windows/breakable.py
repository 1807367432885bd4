"""The daemon, with CTRL_BREAK raised in it after so many seconds: breakable.py SECONDS [speakeasyd's arguments]"""

import signal
import sys
import threading

from speakeasyd.cli import main

if __name__ == "__main__":
    seconds = float(sys.argv.pop(1))
    if seconds and sys.platform == "win32":
        threading.Timer(seconds, signal.raise_signal, [signal.SIGBREAK]).start()
    print("left with status", main(), flush=True)
