"""When a file counts as complete."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain import debounce
from speakeasyd.domain.debounce import (
    AccessProblem,
    DebounceState,
    Decision,
    Forget,
    GiveUp,
    Observation,
    Settled,
    WaitUntil,
)
from speakeasyd.domain.job import Signature

SETTLE_S, EMPTY_S = 2.0, 30.0


def seen(
    size: int, mtime_ns: int = 0, sidecar: Signature | None = None, rested: float = 0.0
) -> Observation:
    return Observation(Signature(size, mtime_ns, 1), sidecar, rested)


class Watched:
    """One file under a clock."""

    def __init__(self, *, settle_s: float = SETTLE_S) -> None:
        self.now = 1000.0
        self.settle_s = settle_s
        self.still: DebounceState = debounce.begin_debounce(self.now)

    def look(
        self, found: Observation | AccessProblem, *, after: float = 0.0, hint: bool = False
    ) -> Decision:
        self.now += after
        self.still, decision = debounce.update_debounce(
            self.still, found, now=self.now, hint=hint, settle_s=self.settle_s, empty_s=EMPTY_S
        )
        return decision


def test_a_still_file_settles_after_the_settle_time_and_not_before() -> None:
    file = Watched()
    assert file.look(seen(5)) == WaitUntil(1002.0)
    assert file.look(seen(5), after=1.9) == WaitUntil(1002.0)
    assert file.look(seen(5), after=0.1) == Settled(seen(5))


def test_every_change_begins_the_wait_anew() -> None:
    file = Watched()
    file.look(seen(5))
    assert file.look(seen(6), after=2.0) == WaitUntil(1004.0)
    assert file.look(seen(6, mtime_ns=1), after=2.0) == WaitUntil(
        1006.0
    )  # a preallocated copy changes in time only
    assert file.look(seen(6, mtime_ns=1, sidecar=Signature(1, 1, 2)), after=2.0) == WaitUntil(
        1008.0
    )


@pytest.mark.parametrize(
    ("settle_s", "shortened"), [(2.0, 0.5), (10.0, 2.5), (1.0, 0.3), (0.2, 0.2)]
)
def test_a_hint_shortens_the_wait_but_takes_no_look_away(settle_s: float, shortened: float) -> None:
    file = Watched(settle_s=settle_s)
    decision = file.look(seen(5), hint=True)
    assert isinstance(decision, WaitUntil)
    assert decision.until == pytest.approx(1000.0 + shortened)
    assert file.look(seen(5), after=shortened + 1e-6) == Settled(seen(5))


def test_a_hint_is_void_once_the_file_changes() -> None:
    file = Watched()
    file.look(seen(5), hint=True)
    assert file.look(seen(6), after=0.5) == WaitUntil(1002.5)


def test_no_settle_time_still_takes_two_looks() -> None:
    file = Watched(settle_s=0.0)
    decision = file.look(seen(5))
    assert isinstance(decision, WaitUntil)
    assert decision.until > file.now
    assert file.look(seen(5), after=0.1) == Settled(seen(5))


def test_the_rest_before_the_first_look_counts() -> None:
    assert Watched().look(seen(5, rested=2.0)) == Settled(seen(5))
    file = Watched()
    assert file.look(seen(5, rested=1.5)) == WaitUntil(1000.5)
    assert file.look(seen(6, rested=0.1), after=0.5) == WaitUntil(1002.4)
    assert isinstance(Watched(settle_s=0.0).look(seen(5, rested=0.05)), WaitUntil)


def test_zero_bytes_are_waited_for_and_then_given_up() -> None:
    file = Watched()
    assert file.look(seen(0)) == WaitUntil(1002.0)
    assert file.look(seen(0), after=29.0) == WaitUntil(1030.0)
    assert file.still.reason == "it has zero bytes so far"
    assert file.look(seen(0), after=1.0) == GiveUp(seen(0))


def test_zero_bytes_that_become_some_settle_as_usual() -> None:
    file = Watched()
    file.look(seen(0))
    assert file.look(seen(5), after=29.0) == WaitUntil(1031.0)
    assert file.look(seen(5), after=2.0) == Settled(seen(5))


def test_what_is_gone_is_forgotten() -> None:
    assert Watched().look(AccessProblem.GONE) == Forget()


def test_what_cannot_be_read_is_tried_less_and_less_often_with_the_reason_at_hand() -> None:
    file = Watched()
    assert file.look(AccessProblem.LOCKED) == WaitUntil(1002.0)
    assert file.look(AccessProblem.LOCKED, after=100.0) == WaitUntil(1125.0)
    assert file.look(AccessProblem.UNREADABLE, after=1000.0) == WaitUntil(2160.0)
    assert file.still.reason == AccessProblem.UNREADABLE.value
    assert file.still.waits_long(file.now, SETTLE_S)


def test_a_denied_permission_is_told_at_once_and_looked_at_every_few_seconds() -> None:
    file = Watched()
    for _ in range(2):
        file.look(seen(5), after=2.0)
    for trouble in (AccessProblem.DENIED, AccessProblem.SIDECAR_DENIED):
        assert file.look(trouble) == WaitUntil(file.now + 2.0)
        assert file.still.waits_long(file.now, SETTLE_S)
    assert file.look(AccessProblem.DENIED, after=1000.0) == WaitUntil(file.now + 5.0)
    assert isinstance(file.look(seen(5), after=5.0), Settled)
    assert file.still.reason == AccessProblem.DENIED.value  # until it was read


def test_one_that_changed_while_it_was_read_has_to_settle_from_the_beginning() -> None:
    file = Watched()
    file.look(seen(5))
    file.look(seen(5), after=2.0)
    assert file.look(AccessProblem.CHANGED) == WaitUntil(1004.0)
    assert file.look(seen(5), after=2.0) == WaitUntil(1006.0)


@dataclass(frozen=True)
class Step:
    after: float
    found: Observation | AccessProblem
    hint: bool


steps = st.lists(
    st.builds(
        Step,
        after=st.floats(0, 100),
        found=st.one_of(
            st.sampled_from([seen(0), seen(1), seen(2), seen(2, 1)]),
            st.sampled_from([AccessProblem.LOCKED, AccessProblem.DENIED, AccessProblem.CHANGED]),
        ),
        hint=st.booleans(),
    ),
    max_size=30,
)


@given(steps=steps, settle_s=st.floats(0, 100))
def test_nothing_settles_that_was_not_the_same_in_two_looks_far_enough_apart(
    steps: list[Step], settle_s: float
) -> None:
    file = Watched(settle_s=settle_s)
    history: list[tuple[float, Observation | AccessProblem]] = []
    for step in steps:
        decision = file.look(step.found, after=step.after, hint=step.hint)
        history.append((file.now, step.found))
        if isinstance(decision, Settled | GiveUp):
            assert decision.seen == step.found
            same = [when for when, found in history if found == step.found]
            assert len(same) >= 2
            assert file.now - same[0] >= min(settle_s, max(settle_s / 4, 0.3)) - 1e-9
            break
        assert isinstance(decision, WaitUntil)
        assert decision.until > file.now, "or the loop would spin"


@given(steps=steps, settle_s=st.floats(0, 100), size=st.integers(0, 3))
def test_whatever_was_before_a_still_file_settles_in_bounded_time(
    steps: list[Step], settle_s: float, size: int
) -> None:
    file = Watched(settle_s=settle_s)
    for step in steps:
        if isinstance(file.look(step.found, after=step.after, hint=step.hint), Settled | GiveUp):
            return
    began, looks = file.now, 0
    decision = file.look(seen(size, 7))
    while isinstance(decision, WaitUntil):
        looks += 1
        assert looks < 50
        decision = file.look(seen(size, 7), after=decision.until - file.now)
    assert isinstance(decision, Settled if size else GiveUp)
    assert file.now - began <= max(settle_s, EMPTY_S) + 2 * max(settle_s, 1.0)
