"""Which clips share a call: here a clip is its kind."""

from collections.abc import Sequence

import pytest

from speakeasyd.domain.batching import choose_batch


def choose(first: str, later: str = "", *, room: int = 4, callers: int = 1) -> str:
    batch = choose_batch(
        first, later, key=str.lower, size=lambda _: 1.0, room=room, callers=callers
    )
    return "".join(batch)


@pytest.mark.parametrize(
    ("first", "later", "chosen"),
    [
        ("a", "", "a"),
        ("abB", "", "bB"),  # the largest group
        ("ab", "bbb", "a"),  # whose turn it is, not what is most
        ("a", "bAbAA", "aAAA"),  # filled from other files
        ("aaaaa", "aaa", "aaaa"),  # no more than fit
    ],
)
def test_one_call_takes_the_largest_group_of_the_next_file(
    first: str, later: str, chosen: str
) -> None:
    assert choose(first, later) == chosen


@pytest.mark.parametrize(("waiting", "shares"), [("aaaa", [2, 2]), ("aaa", [2, 1]), ("a", [1])])
def test_replicas_that_wait_share_what_is_left(waiting: str, shares: Sequence[int]) -> None:
    remaining = waiting
    for callers, share in zip((2, 1), shares, strict=False):
        batch = choose(remaining, callers=callers)
        assert len(batch) == share
        remaining = remaining[len(batch) :]
    assert not remaining


def test_a_full_queue_is_not_shared_out() -> None:
    assert len(choose("a" * 8, callers=2)) == 4


def test_a_clip_that_needs_more_than_a_call_is_taken_alone() -> None:
    assert choose("aa", room=1) == "a"


@pytest.mark.parametrize(
    ("sizes", "callers", "chosen"),
    [
        ([3, 3, 3, 3, 1], 1, [3, 3, 3]),
        ([11, 1], 1, [11]),  # larger than the room
        ([1, 1, 6, 2], 2, [1, 1, 6]),  # half of the work is reached with the third
        ([6, 1, 1, 2], 2, [6]),
        ([6, 6, 6], 2, [6]),  # half of the work is more than the room
    ],
)
def test_clips_of_different_lengths_fill_a_call(
    sizes: Sequence[int], callers: int, chosen: Sequence[int]
) -> None:
    batch = choose_batch(
        sizes, (), key=lambda _: None, size=lambda size: size, room=10, callers=callers
    )
    assert batch == chosen
