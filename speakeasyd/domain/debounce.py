"""When a file that has appeared is complete: what one look after the other says. Pure.

Stillness is judged by our own monotonic clock, from look to look. Dates are not asked: copies keep old ones, and clocks
of other machines are wrong. Only what the kernel of this machine noted of the last change counts for time that passed
before the first look.
"""

from dataclasses import dataclass, field, replace
from enum import Enum

from speakeasyd.domain.job import Signature

# A file that was closed or moved in need be still for this part of the settle time only
HINTED_SHARE = 4
HINTED_LEAST_S = 0.3  # seconds, but never for less than this
LOOK_AGAIN_S = 0.1  # seconds between two looks at a file, at least
LOOK_MOST_S = 60.0  # seconds between two looks at a file that cannot be read, at most
HELD_LOOK_MOST_S = 5.0
"""Seconds between two looks at a file that is open for writing or may not be read, at most: they are cheap."""
LOOK_LEAST_S = 1.0  # seconds between two looks at such a file or an empty one, at least
LONG_S = 10.0  # seconds beyond the settle time after which people are told that a file waits


class Openness(Enum):
    """Whether somebody has a file open for writing."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"
    """The system cannot tell: another user's file, a filesystem without leases, another operating system."""


class AccessProblem(Enum):
    """Why a file cannot be had now; the values are for people."""

    GONE = "it is gone, or no longer a file"
    CHANGED = "it is still being written"
    LOCKED = "another program keeps it to itself"
    DENIED = "there is no permission to read it"
    SIDECAR_DENIED = "there is no permission to read its sidecar"
    UNREADABLE = "the system cannot read it"


NO_PERMISSION = frozenset({AccessProblem.DENIED, AccessProblem.SIDECAR_DENIED})
"""What a person has to mend, by changing a permission."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is still, but open for writing: its writer may go on at any time."""

    by: str = ""  # the program, for people; "" where it is not known

    @property
    def value(self) -> str:
        """For people, as that of a `AccessProblem`."""
        return f"still open for writing by {self.by or 'another program'}"


@dataclass(frozen=True, slots=True)
class Observation:
    """A file and its sidecar, as one look found them. They settle together."""

    file: Signature
    sidecar: Signature | None = None
    rested: float = field(
        default=0.0, compare=False
    )  # seconds since the last change, where that is known for sure


@dataclass(frozen=True, slots=True)
class DebounceState:
    """What is remembered of a file from look to look. Times are monotonic seconds."""

    first: float  # when it was noticed
    since: float  # when the present state of it was first seen
    seen: Observation | None = None
    looks: int = 0  # in a row that found the present state
    hinted: bool = False  # it was closed or moved in, and has not changed since
    # What the latest try to read it met; kept until it can be read
    trouble: AccessProblem | OpenFile | None = None

    def waits_long(self, now: float, settle_s: float) -> bool:
        """Whether people should be told. A denied permission does not pass by itself: it is told at once."""
        if self.trouble in NO_PERMISSION:
            return True
        return now - self.first > settle_s + LONG_S

    @property
    def reason(self) -> str:
        """Why it has not settled, for people."""
        if self.trouble:
            return self.trouble.value
        return (
            "it has zero bytes so far"
            if self.seen and not self.seen.file.size
            else AccessProblem.CHANGED.value
        )


@dataclass(frozen=True, slots=True)
class WaitUntil:
    until: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class Settled:
    seen: Observation


@dataclass(frozen=True, slots=True)
class Forget:
    """It is gone; should it come back, it begins anew."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Zero bytes for too long: an `empty_file`."""

    seen: Observation


Decision = WaitUntil | Settled | Forget | GiveUp


def begin_debounce(now: float) -> DebounceState:
    """A file was noticed but not yet looked at."""
    return DebounceState(first=now, since=now)


def update_debounce(
    before: DebounceState,
    found: Observation | AccessProblem | OpenFile,
    *,
    now: float,
    hint: bool,
    settle_s: float,
    empty_s: float,
) -> tuple[DebounceState, Decision]:
    """What one more look makes of a file. `hint`: it was closed by its writer or moved in since the last look.

    It takes two looks at least, `settle_s` apart, to settle, or one at a file that has rested so long; a hint shortens
    the time, and takes no look away.
    """
    if found is AccessProblem.GONE:
        return before, Forget()
    if isinstance(found, AccessProblem | OpenFile):
        return _handle_problem(before, found, now, settle_s)
    if found == before.seen:
        after = replace(before, looks=before.looks + 1, hinted=before.hinted or hint)
    else:
        after = DebounceState(
            first=before.first, since=now - found.rested, seen=found, looks=1, hinted=hint
        )
    return after, _decide_settled(after, found, now, settle_s, empty_s)


def _decide_settled(
    after: DebounceState, seen: Observation, now: float, settle_s: float, empty_s: float
) -> Decision:
    needed = (
        empty_s if not seen.file.size else _shorten_wait(settle_s) if after.hinted else settle_s
    )
    once_is_enough = seen.rested >= max(needed, LOOK_AGAIN_S)
    if now - after.since < needed or (after.looks < 2 and not once_is_enough):
        until = max(now + LOOK_AGAIN_S, after.since + needed)
        return WaitUntil(until if seen.file.size else min(until, now + max(settle_s, LOOK_LEAST_S)))
    return Settled(seen) if seen.file.size else GiveUp(seen)


def _shorten_wait(settle_s: float) -> float:
    return min(settle_s, max(settle_s / HINTED_SHARE, HINTED_LEAST_S))


def _handle_problem(
    before: DebounceState, trouble: AccessProblem | OpenFile, now: float, settle_s: float
) -> tuple[DebounceState, Decision]:
    """Look again, less and less often. One that changed while it was read has to become still from the beginning."""
    if trouble is AccessProblem.CHANGED:
        return DebounceState(first=before.first, since=now, trouble=trouble), WaitUntil(
            now + max(settle_s, LOOK_AGAIN_S)
        )
    looks_often = isinstance(trouble, OpenFile) or trouble in NO_PERMISSION
    most = HELD_LOOK_MOST_S if looks_often else LOOK_MOST_S
    patience = min(max(settle_s, (now - before.first) / 4, LOOK_LEAST_S), most)
    return replace(before, trouble=trouble), WaitUntil(now + patience)
