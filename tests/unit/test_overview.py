"""The time over which speed is measured, and the time left."""

import pytest

from speakeasyd.ledger.overview import _covered_s, estimate_time_left


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


def test_a_device_computes_one_file_after_the_other() -> None:
    """Two devices do 20 seconds of audio a second together: each does 10."""
    rows: list[dict[str, object]] = [
        {"job_id": 1, "device": "cuda:0", "progress": 0.0, "seconds": 50.0},
        {"job_id": 2, "device": "cuda:0", "progress": 0.5, "seconds": 300.0},
        {"job_id": 3, "device": "cuda:1", "progress": 0.1, "seconds": 100.0},
        {"job_id": 4, "device": "cuda:1", "progress": 0.0, "seconds": None},
    ]
    left = estimate_time_left(rows, 20.0)
    assert left == {1: pytest.approx(35.0), 2: pytest.approx(30.0), 3: pytest.approx(10.0)}
