"""The time over which speed is measured."""

from speakeasyd.ledger.overview import _covered_s


def clock_at(minute: int) -> str:
    return f"2026-01-01T00:{minute:02}:00.000Z"


def test_time_without_work_does_not_count() -> None:
    assert _covered_s([(clock_at(0), clock_at(1)), (clock_at(50), clock_at(51))]) == 120.0


def test_time_with_several_jobs_counts_once() -> None:
    assert (
        _covered_s(
            [
                (clock_at(0), clock_at(10)),
                (clock_at(2), clock_at(3)),
                (clock_at(9), clock_at(11)),
            ]
        )
        == 11 * 60.0
    )


def test_no_work_at_all() -> None:
    assert _covered_s([]) == 0.0
