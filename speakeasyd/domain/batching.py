"""Which clips share the next call of the model."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import accumulate, chain
from typing import TypeVar

T = TypeVar("T")


def choose_batch(
    first: Sequence[T],
    later: Iterable[T],
    *,
    key: Callable[[T], Hashable],
    size: Callable[[T], float],
    room: float,
    callers: int,
) -> list[T]:
    """Return the largest group of `first` that can share a call, filled with those of `later`.

    `first`: the clips whose turn it is, not empty; `later`: those of other files. `key`: equal for
    clips that can share a call. `size`: what a clip takes of the `room` of a call; one clip is
    taken even if it is larger. `callers`: how many replicas wait for work; each gets an equal
    share, so that none is idle at the end.
    """
    groups: dict[Hashable, list[T]] = {}
    for clip in first:
        groups.setdefault(key(clip), []).append(clip)
    chosen, group = max(groups.items(), key=lambda item: len(item[1]))
    found = _fill_room(
        chain(group, (clip for clip in later if key(clip) == chosen)), size, room * callers
    )
    share = sum(map(size, found)) / callers
    before = accumulate(map(size, found), initial=0.0)
    mine = (clip for clip, taken in zip(found, before, strict=False) if taken < share)
    return _fill_room(mine, size, room)


def _fill_room(clips: Iterable[T], size: Callable[[T], float], room: float) -> list[T]:
    """Return as many clips as fit into the room, and at least one."""
    found: list[T] = []
    for clip in clips:
        room -= size(clip)
        if found and room < 0:
            break
        found.append(clip)
    return found
