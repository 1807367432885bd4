"""Exponential backoff with full jitter."""

import random
from collections.abc import Callable
from typing import Protocol

HOLD_S = 300.0  # seconds that jobs wait for a model that failed to load
_MAX_DOUBLINGS = 30  # far above any limit; keeps the power finite


class BackoffSettings(Protocol):
    """The settings of a backoff, in seconds: the first ceiling and the highest one."""

    @property
    def retry_s(self) -> float: ...

    @property
    def retry_max_s(self) -> float: ...


def compute_backoff(
    attempts: int,
    backoff_settings: BackoffSettings,
    *,
    random_fraction: Callable[[], float] = random.random,
) -> float:
    """Return the seconds to wait after this many attempts, 1 or more.

    Jitter over the whole range spreads the retries of jobs that failed together.
    """
    ceiling = compute_backoff_ceiling(
        attempts, base=backoff_settings.retry_s, limit=backoff_settings.retry_max_s
    )
    return random_fraction() * ceiling


def longest_wait(crashes: int, backoff_settings: BackoffSettings) -> float:
    """Return the longest wait, in seconds, of a job that ended this many workers."""
    if not crashes:
        return HOLD_S
    return compute_backoff_ceiling(
        crashes, base=backoff_settings.retry_s, limit=backoff_settings.retry_max_s
    )


def compute_backoff_ceiling(attempts: int, *, base: float, limit: float) -> float:
    """Return the longest wait after this many attempts: `base` doubled each time, up to `limit`."""
    return min(limit, base * 2.0 ** min(max(attempts, 1) - 1, _MAX_DOUBLINGS))
