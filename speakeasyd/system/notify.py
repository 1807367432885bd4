"""Messages to systemd's notification socket; without systemd, nothing happens.

Source of the protocol: https://www.freedesktop.org/software/systemd/man/sd_notify.html
"""

import os
import socket
import time


def notify_ready() -> None:
    _send_message("READY=1")


def notify_stopping() -> None:
    _send_message("STOPPING=1")


def notify_reloading() -> None:
    """Report a reload; `notify_ready` has to follow when it is done."""
    _send_message(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def notify_status(words: str) -> None:
    """Set the line that `systemctl status` shows."""
    _send_message(f"STATUS={words}")


def notify_watchdog() -> None:
    """Send a heartbeat; without one for WatchdogSec, systemd restarts the service."""
    _send_message("WATCHDOG=1")


def _send_message(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    family = getattr(socket, "AF_UNIX", None)
    if not address or family is None:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        try:
            channel.connect(address)
            channel.sendall(message.encode())
        except OSError:  # no receiver: the daemon continues without it
            return
