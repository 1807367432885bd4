"""How long to wait before trying again."""

import random
from collections.abc import Callable
from typing import Protocol

HOLD_S = 300.0  # seconds that jobs wait for a model that would not load
_MAX_DOUBLINGS = 30  # far above any limit; keeps the power finite


class BackoffSettings(Protocol):
    """The part of the settings that says how patient to be."""

    @property
    def retry_s(self) -> float: ...

    @property
    def retry_max_s(self) -> float: ...


def compute_backoff(
    attempts: int, waits: BackoffSettings, *, dice: Callable[[], float] = random.random
) -> float:
    """Seconds to wait after so many attempts, 1 or more: full jitter under a ceiling that doubles.

    Jitter over the whole range keeps jobs that failed together from coming back together.
    """
    return dice() * compute_backoff_ceiling(attempts, base=waits.retry_s, limit=waits.retry_max_s)


def longest_wait(crashes: int, waits: BackoffSettings) -> float:
    """Seconds that a job which has crashed so often may have to wait, whatever for."""
    return (
        compute_backoff_ceiling(crashes, base=waits.retry_s, limit=waits.retry_max_s)
        if crashes
        else HOLD_S
    )


def compute_backoff_ceiling(attempts: int, *, base: float, limit: float) -> float:
    """The longest wait after so many attempts: `base`, doubled each time, never above `limit`."""
    return min(limit, base * 2.0 ** min(max(attempts, 1) - 1, _MAX_DOUBLINGS))
