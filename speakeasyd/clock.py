"""The clock as a dependency: the daemon passes `SystemClock`, tests pass a manual clock."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

# Seconds of difference between two measurements from which the wall clock counts as set, rather
# than as adjusted slowly
JUMP_S = 2.0
SHARED_CHECK_S = 2.0  # seconds; checks at least this far apart are due at multiples of it


class Clock(Protocol):
    def utc(self) -> datetime:
        """Return the wall time, timezone-aware, in UTC: for people and for the ledger."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump: for waits, deadlines and debouncing."""
        ...


class SystemClock:
    def utc(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def find_next_check(now: float, delay_s: float) -> float:
    """Return when a periodic check is due, in the seconds of `now`: about `delay_s` later.

    Checks that are at least `SHARED_CHECK_S` apart are due at its multiples, so that a process
    without work wakes up once for all of them: each wake-up costs more than a check.
    """
    due = now + delay_s
    if delay_s < SHARED_CHECK_S:
        return due
    return round(due / SHARED_CHECK_S) * SHARED_CHECK_S


class JumpDetector:
    """Detects that a person or a time server has set the wall clock.

    Compares the wall clock with the monotonic clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._read_offset()

    def measure(self) -> float:
        """Return the seconds by which the wall clock was set since `accept`; 0.0 if it was not.

        Negative: the clock was set back. Slow adjustment is not a jump: call it every few seconds.
        """
        jump = self._read_offset() - self._offset
        if abs(jump) >= JUMP_S:
            return jump
        self._offset += jump
        return 0.0

    def accept(self, jump: float) -> None:
        """Record that the jump has been handled: `measure` no longer returns it."""
        self._offset += jump

    def _read_offset(self) -> float:
        return self._clock.utc().timestamp() - self._clock.monotonic()


def format_utc(moment: datetime) -> str:
    """Return UTC in ISO 8601 with milliseconds and Z.

    Such times sort as text, and SQLite's date functions can read them.
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def add_seconds(moment: str, seconds: float) -> str:
    """Return a time of the ledger plus `seconds`, in the same format."""
    return format_utc(datetime.fromisoformat(moment) + timedelta(seconds=seconds))
