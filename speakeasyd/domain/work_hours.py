"""Working hours such as `mon-fri 22:00-07:00`: whether they apply, and when they begin. Pure.

All times are local wall-clock times. On the two days of a change to or from daylight saving time, a
window may be one hour shorter or longer.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MIN = 24 * 60  # minutes
_SHAPE = re.compile(r"(?:(?P<days>[a-z,\-]+)\s+)?(?P<from>\d\d?:\d\d)\s*-\s*(?P<to>\d\d?:\d\d)")


@dataclass(frozen=True, slots=True)
class WorkWindow:
    """A window from a time of day to another, which may lie on the next day.

    `days`: weekdays on which the window begins; Monday is 0.
    """

    days: frozenset[int]
    begin: int  # minutes from midnight
    length: int  # minutes, 1 to 1440

    def contains_time(self, local: datetime) -> bool:
        """Return whether the local time lies in the window."""
        now = local.hour * 60 + local.minute
        today, yesterday = local.weekday(), (local.weekday() - 1) % 7
        begun_today = today in self.days and self.begin <= now < self.begin + self.length
        return begun_today or (yesterday in self.days and now + _DAY_MIN < self.begin + self.length)


def parse_window(text: str) -> WorkWindow:
    """Parse a window. Raises ValueError, with a message for users, if the text is none."""
    found = _SHAPE.fullmatch(text.strip().lower())
    if not found:
        raise ValueError(
            f'{text!r} is no span of time; write "22:00-07:00" or "sat,sun 08:00-20:00"'
        )
    begin, end = _parse_minutes(found["from"]), _parse_minutes(found["to"])
    if begin == _DAY_MIN:
        raise ValueError(f"{text!r} begins at 24:00; write 00:00 of the next day")
    return WorkWindow(_parse_days(found["days"]), begin, (end - begin) % _DAY_MIN or _DAY_MIN)


def is_work_time(spans: Sequence[WorkWindow], local: datetime) -> bool:
    """Return whether the local time lies in one of the windows; True if there are none."""
    return not spans or any(span.contains_time(local) for span in spans)


def find_next_begin(spans: Sequence[WorkWindow], local: datetime) -> datetime:
    """Return the next beginning of a window, now included.

    Raises ValueError if there is no window.
    """
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    this_minute = local.replace(second=0, microsecond=0)
    begins = (
        midnight + timedelta(days=day, minutes=span.begin)
        for span in spans
        for day in range(8)
        if (midnight + timedelta(days=day)).weekday() in span.days
    )
    return min(begin for begin in begins if begin >= this_minute)


def _parse_minutes(clock: str) -> int:
    hours, minutes = map(int, clock.split(":"))
    if minutes > 59 or hours * 60 + minutes > _DAY_MIN:
        raise ValueError(f"there is no time {clock}")
    return hours * 60 + minutes


def _parse_days(text: str | None) -> frozenset[int]:
    return (
        frozenset(day for part in text.split(",") for day in _expand_day_range(part))
        if text
        else frozenset(range(7))
    )


def _expand_day_range(part: str) -> Iterator[int]:
    """Return the weekdays of a range; `fri-mon` crosses the end of the week."""
    first, _, last = part.partition("-")
    for name in (first, last or first):
        if name not in DAYS:
            raise ValueError(f"there is no day {name!r}; the days are {', '.join(DAYS)}")
    begin = DAYS.index(first)
    return ((begin + step) % 7 for step in range((DAYS.index(last or first) - begin) % 7 + 1))
