from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain.retry import compute_backoff, compute_backoff_ceiling


@dataclass(frozen=True)
class Waits:
    retry_s: float = 5.0
    retry_max_s: float = 900.0


def test_the_ceiling_doubles_up_to_the_limit() -> None:
    waits = [
        compute_backoff(attempts, Waits(), random_fraction=lambda: 1.0) for attempts in range(1, 11)
    ]
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]


@given(attempts=st.integers(-5, 10**9), random_fraction=st.floats(0, 1))
def test_jitter_stays_within_the_ceiling(attempts: int, random_fraction: float) -> None:
    wait = compute_backoff(attempts, Waits(), random_fraction=lambda: random_fraction)
    assert 0 <= wait <= compute_backoff_ceiling(attempts, base=5.0, limit=900.0) <= 900.0


def test_jobs_that_fail_together_are_retried_apart() -> None:
    assert len({compute_backoff(3, Waits()) for _ in range(20)}) > 1
