"""Limits of uploads at once: each has files open."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from speakeasyd.server.error_answers import RequestRefused

MOST = 32  # uploads at once
MOST_INTO_ONE = 24  # into one inbox: one that does not answer must not use up all


class UploadSlots:
    def __init__(self) -> None:
        self._taken: Counter[str | None] = Counter()

    @contextmanager
    def take(self, inbox: str | None) -> Iterator[None]:
        """Count an upload into this inbox; None: into no inbox.

        Raises RequestRefused: 503 if there are too many.
        """
        if self._taken.total() >= MOST or self._taken[inbox] >= MOST_INTO_ONE:
            raise RequestRefused(503, "too many uploads at once", hint="Retry later.")
        self._taken[inbox] += 1
        try:
            yield
        finally:
            self._taken[inbox] -= 1
