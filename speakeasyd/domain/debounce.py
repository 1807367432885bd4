"""Debounce: decides from repeated observations when a new file is complete. Pure.

The time without a change is measured by our own monotonic clock, from look to look. Modification
times are not used: copies keep old ones, and the clocks of other machines may be wrong. Time before
the first look counts only if the kernel of this machine recorded the last change.
"""

from dataclasses import dataclass, field, replace
from enum import Enum

from speakeasyd.domain.job import Signature

# Divisor of the settle time for a file that was closed by its writer or moved in
HINTED_SHARE = 4
HINTED_LEAST_S = 0.3  # seconds: the lower limit of that shortened time
LOOK_AGAIN_S = 0.1  # seconds between two looks at a file, at least
LOOK_MOST_S = 60.0  # seconds between two looks at a file that cannot be read, at most
HELD_LOOK_MOST_S = 5.0
"""Seconds, at most, between looks at a file that is open for writing or lacks permission.

Such looks are cheap.
"""
LOOK_LEAST_S = 1.0  # seconds between two looks at such a file or an empty one, at least
LONG_S = 10.0  # seconds beyond the settle time after which a waiting file is reported to users


class Openness(Enum):
    """Whether a program has a file open for writing."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"
    """Not detectable: another user's file, a filesystem without leases, or not Linux."""


class AccessProblem(Enum):
    """Why a file cannot be read now; the values are messages for users."""

    GONE = "it is gone, or no longer a file"
    CHANGED = "it is still being written"
    LOCKED = "another program keeps it to itself"
    DENIED = "there is no permission to read it"
    SIDECAR_DENIED = "there is no permission to read its sidecar"
    UNREADABLE = "the system cannot read it"


NO_PERMISSION = frozenset({AccessProblem.DENIED, AccessProblem.SIDECAR_DENIED})
"""Problems that only a user can solve, by changing a permission."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that does not change but is open for writing: its writer may continue at any time."""

    by: str = ""  # the program, for users; "" if unknown

    @property
    def value(self) -> str:
        """The message for users, like `AccessProblem.value`."""
        return f"still open for writing by {self.by or 'another program'}"


@dataclass(frozen=True, slots=True)
class Observation:
    """The state of a file and its sidecar at one look. Both are debounced together."""

    file: Signature
    sidecar: Signature | None = None
    rested: float = field(
        default=0.0, compare=False
    )  # seconds since the last change, where that is known for sure


@dataclass(frozen=True, slots=True)
class DebounceState:
    """The state of one file between two looks. Times are monotonic seconds."""

    first: float  # when the file was noticed
    since: float  # when the current observation was first made
    seen: Observation | None = None
    looks: int = 0  # consecutive looks with the current observation
    hinted: bool = False  # it was closed or moved in, and has not changed since
    # The problem of the latest attempt to read it; kept until it can be read
    trouble: AccessProblem | OpenFile | None = None

    def waits_long(self, now: float, settle_s: float) -> bool:
        """Return whether to report the file to users.

        A denied permission is reported at once, because it does not resolve itself.
        """
        if self.trouble in NO_PERMISSION:
            return True
        return now - self.first > settle_s + LONG_S

    @property
    def reason(self) -> str:
        """Why the file has not settled, as a message for users."""
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
    """The file is gone. If it returns, debouncing starts from the beginning."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The file had zero bytes for too long: it fails as `empty_file`."""

    seen: Observation


Decision = WaitUntil | Settled | Forget | GiveUp


def begin_debounce(now: float) -> DebounceState:
    """Return the state of a file that was noticed but not yet observed; `now` is monotonic."""
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
    """Return the next state and the decision after one more look.

    `hint`: since the last look, the file was closed by its writer or moved in. A file settles after
    at least two equal looks, `settle_s` seconds apart, or after one look if it is known to have
    rested that long. A hint shortens the time but does not reduce the number of looks. An empty
    file is given up after `empty_s` seconds.
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
    """Schedule observations with backoff. A file that changed during hashing is debounced again."""
    if trouble is AccessProblem.CHANGED:
        return DebounceState(first=before.first, since=now, trouble=trouble), WaitUntil(
            now + max(settle_s, LOOK_AGAIN_S)
        )
    looks_often = isinstance(trouble, OpenFile) or trouble in NO_PERMISSION
    most = HELD_LOOK_MOST_S if looks_often else LOOK_MOST_S
    patience = min(max(settle_s, (now - before.first) / 4, LOOK_LEAST_S), most)
    return replace(before, trouble=trouble), WaitUntil(now + patience)
