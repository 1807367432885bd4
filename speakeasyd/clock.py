"""Time, as an argument: the daemon passes `SystemClock`, tests pass one they turn by hand."""

import time
from datetime import UTC, datetime
from typing import Protocol


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


def iso(moment: datetime) -> str:
    """UTC ISO 8601 with milliseconds and Z: sorts as text, and SQLite's date functions read it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
