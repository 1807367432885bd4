"""Hours of work, compared with a table of every minute of the week."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain.work_hours import (
    DAYS,
    WorkWindow,
    find_next_begin,
    is_work_time,
    parse_window,
)

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
WEEK = 7 * 24 * 60

spans = st.builds(
    WorkWindow,
    days=st.frozensets(st.integers(0, 6), min_size=1),
    begin=st.integers(0, 1439),
    length=st.integers(1, 1440),
)
_FIRST, _LAST = datetime(2000, 1, 1), datetime(2100, 1, 1)  # noqa: DTZ001 - hypothesis adds the zone
moments = st.datetimes(timezones=st.just(UTC), min_value=_FIRST, max_value=_LAST)


def list_minutes(span: WorkWindow) -> set[int]:
    """Return the minutes of the week, from Monday 00:00, that the span covers."""
    return {
        (day * 1440 + span.begin + step) % WEEK for day in span.days for step in range(span.length)
    }


@given(st.lists(spans, min_size=1, max_size=3), moments)
def test_hours_are_open_exactly_in_their_minutes(some: list[WorkWindow], moment: datetime) -> None:
    minute = moment.weekday() * 1440 + moment.hour * 60 + moment.minute
    assert is_work_time(some, moment) == (minute in set().union(*map(list_minutes, some)))


@given(st.lists(spans, min_size=1, max_size=3), moments)
def test_the_next_opening_is_the_first(some: list[WorkWindow], moment: datetime) -> None:
    begin = find_next_begin(some, moment)
    now = moment.replace(second=0, microsecond=0)
    assert now <= begin < now + timedelta(days=7, minutes=1)
    assert is_work_time(some, begin)
    if not is_work_time(some, moment):
        between = range(int((begin - now).total_seconds()) // 60)
        covered = set().union(*map(list_minutes, some))
        start = now.weekday() * 1440 + now.hour * 60 + now.minute
        assert not covered & {(start + step) % WEEK for step in between}


@given(spans)
def test_hours_are_parsed_as_formatted(span: WorkWindow) -> None:
    end = (span.begin + span.length) % 1440
    days = ",".join(DAYS[day] for day in sorted(span.days))
    assert (
        parse_window(
            f"{days} {span.begin // 60:02}:{span.begin % 60:02}-{end // 60:02}:{end % 60:02}"
        )
        == span
    )


@pytest.mark.parametrize(
    ("text", "days", "begin", "length"),
    [
        ("22:00-07:00", set(range(7)), 1320, 540),
        ("00:00-24:00", set(range(7)), 0, 1440),
        ("Mon-Fri 8:00 - 9:30", set(range(5)), 480, 90),
        ("fri-mon 12:00-13:00", {4, 5, 6, 0}, 720, 60),
        ("sat,sun 08:00-20:00", {5, 6}, 480, 720),
    ],
)
def test_formatting_of_hours(text: str, days: set[int], begin: int, length: int) -> None:
    assert parse_window(text) == WorkWindow(frozenset(days), begin, length)


@pytest.mark.parametrize(
    "text", ["", "night", "25:00-07:00", "22:00", "22:60-23:00", "mo 1:00-2:00", "24:00-01:00", "-"]
)
def test_an_invalid_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"span of time|no time|no day|24:00"):
        parse_window(text)


def test_a_night_on_friday_ends_on_saturday() -> None:
    friday = [parse_window("fri 22:00-07:00")]
    at = [MONDAY + timedelta(days=4, hours=hour) for hour in (21, 22, 30, 31)]
    assert [is_work_time(friday, moment) for moment in at] == [False, True, True, False]


def test_without_spans_it_is_always_open() -> None:
    assert is_work_time([], MONDAY)
