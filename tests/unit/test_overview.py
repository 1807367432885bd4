"""What the speed is measured over."""

from speakeasyd.ledger.overview import _covered_s


def at(minute: int) -> str:
    return f"2026-01-01T00:{minute:02}:00.000Z"


def test_time_without_work_does_not_count() -> None:
    assert _covered_s([(at(0), at(1)), (at(50), at(51))]) == 120.0


def test_time_with_several_jobs_counts_once() -> None:
    assert _covered_s([(at(0), at(10)), (at(2), at(3)), (at(9), at(11))]) == 11 * 60.0


def test_no_work_at_all() -> None:
    assert _covered_s([]) == 0.0
