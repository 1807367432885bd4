"""The priority of lines that go to systemd's journal: see sd-daemon(3)."""

import logging
import os
from typing import TextIO

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (0, 7),
)
"""Syslog priorities by logging level."""


def is_journal(stream: TextIO) -> bool:
    """Return whether the stream goes to systemd's journal.

    The journal gives the stream's device and inode in JOURNAL_STREAM.
    """
    journal_stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        state = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{state.st_dev}:{state.st_ino}"


def add_priority(text: str, level: int) -> str:
    """Mark each line with the syslog priority of a level of `logging`."""
    priority = next(number for lowest, number in _PRIORITIES if level >= lowest)
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())
