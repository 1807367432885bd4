"""Time, as an argument: the daemon passes `SystemClock`, tests pass one they turn by hand."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

# Seconds between two looks that tell a clock that was set from one that is adjusted slowly
JUMP_S = 2.0


class Clock(Protocol):
    def utc(self) -> datetime:
        """Wall time, aware, in UTC: for people and for the ledger."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump: for waiting and for judging stillness."""
        ...


class SystemClock:
    def utc(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class JumpDetector:
    """Finds out that the wall clock was set, by a person or a time server, while the monotonic one went on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._read_offset()

    def measure(self) -> float:
        """Seconds by which the wall clock was set since `accept`; negative: it was set back. 0.0: it was not.

        Slow adjustment is no jump: looks come every second or so.
        """
        jump = self._read_offset() - self._offset
        if abs(jump) >= JUMP_S:
            return jump
        self._offset += jump
        return 0.0

    def accept(self, jump: float) -> None:
        """The jump has been dealt with."""
        self._offset += jump

    def _read_offset(self) -> float:
        return self._clock.utc().timestamp() - self._clock.monotonic()


def format_utc(moment: datetime) -> str:
    """UTC ISO 8601 with milliseconds and Z: sorts as text, and SQLite's date functions read it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def add_seconds(moment: str, seconds: float) -> str:
    """A time of the ledger, so much later."""
    return format_utc(datetime.fromisoformat(moment) + timedelta(seconds=seconds))
