"""Which clips share the next call of the model."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain, islice
from typing import TypeVar

T = TypeVar("T")


def choose_batch(
    first: Sequence[T],
    later: Iterable[T],
    *,
    key: Callable[[T], Hashable],
    room: Callable[[T], int],
    callers: int,
) -> list[T]:
    """Return the largest group of `first` that can share a call, filled with those of `later`.

    `first`: the clips whose turn it is, not empty; `later`: those of other files. `key`: equal for
    clips that can share a call. `room`: how many of this kind fit into a call. `callers`: how many
    replicas wait for work; each gets an equal share, so that none is idle at the end.
    """
    groups: dict[Hashable, list[T]] = {}
    for clip in first:
        groups.setdefault(key(clip), []).append(clip)
    chosen, group = max(groups.items(), key=lambda item: len(item[1]))
    mates = (clip for clip in later if key(clip) == chosen)
    found = list(islice(chain(group, mates), room(group[0]) * callers))
    return found[: -(-len(found) // callers)]
