"""Rate limit for repeated log lines: they are counted instead of written.

A client must not be able to fill the disk with log lines.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

PERIOD_S = 30.0  # seconds after a line in which equal lines are only counted
KEPT = 1000  # number of different lines that are remembered
KEY_CHARACTERS = 300  # characters of a message that are compared

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+|\bfd=\d+|Task-\d+|\('[^']*', \d+\)")
"""Parts that differ although the cause is the same: memory addresses, descriptors, ports."""


@dataclass(slots=True)
class _Seen:
    record: logging.LogRecord
    until: float  # monotonic seconds
    count: int = 0  # lines that were not written


class CountingHandler(logging.StreamHandler[TextIO]):
    """Writes each line once per period, then the number of repetitions.

    Lines are equal if logger, level, job and message are equal. The count is written before the
    first line after the period, or when the handler is closed.
    """

    def __init__(self, stream: TextIO, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._monotonic = monotonic
        self._seen: dict[tuple[object, ...], _Seen] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = self._monotonic()
        self._write_counts(now)
        key = _build_key(record)
        if seen := self._seen.get(key):
            seen.count += 1
            return
        if len(self._seen) >= KEPT:
            self._write_count(self._seen.pop(next(iter(self._seen))))
        self._seen[key] = _Seen(record, now + PERIOD_S)
        super().emit(record)

    def close(self) -> None:
        for seen in self._seen.values():
            self._write_count(seen)
        self._seen.clear()
        super().close()

    def _write_counts(self, now: float) -> None:
        """Write the counts of the lines whose period is over. `_seen` is ordered by that time."""
        while self._seen:
            key, oldest = next(iter(self._seen.items()))
            if oldest.until > now:
                return
            del self._seen[key]
            self._write_count(oldest)

    def _write_count(self, seen: _Seen) -> None:
        if not seen.count:
            return
        times = f"{seen.count} times" if seen.count > 1 else "once"
        first = seen.record
        record = logging.LogRecord(
            first.name,
            first.levelno,
            first.pathname,
            first.lineno,
            f"{times} more: %s",
            (first.getMessage(),),
            None,
        )
        record.job = getattr(first, "job", None)
        super().emit(record)


def _build_key(record: logging.LogRecord) -> tuple[object, ...]:
    message = _ADDRESS.sub("", record.getMessage()[:KEY_CHARACTERS])
    cause = record.exc_info[0] if record.exc_info else None
    return record.name, record.levelno, getattr(record, "job", None), message, cause
