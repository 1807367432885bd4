"""Debounce: when a file counts as complete."""

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


def build_observation(
    size: int, mtime_ns: int = 0, sidecar: Signature | None = None, rested: float = 0.0
) -> Observation:
    return Observation(Signature(size, mtime_ns, 1), sidecar, rested)


class ObservedFile:
    """One file and a manual clock."""

    def __init__(self, *, settle_s: float = SETTLE_S) -> None:
        self.now = 1000.0
        self.settle_s = settle_s
        self.still: DebounceState = debounce.begin_debounce(self.now)

    def observe(
        self, found: Observation | AccessProblem, *, after: float = 0.0, hint: bool = False
    ) -> Decision:
        self.now += after
        self.still, decision = debounce.update_debounce(
            self.still, found, now=self.now, hint=hint, settle_s=self.settle_s, empty_s=EMPTY_S
        )
        return decision


def test_an_unchanged_file_settles_after_the_settle_time() -> None:
    file = ObservedFile()
    assert file.observe(build_observation(5)) == WaitUntil(1002.0)
    assert file.observe(build_observation(5), after=1.9) == WaitUntil(1002.0)
    assert file.observe(build_observation(5), after=0.1) == Settled(build_observation(5))


def test_every_change_restarts_the_wait() -> None:
    file = ObservedFile()
    file.observe(build_observation(5))
    assert file.observe(build_observation(6), after=2.0) == WaitUntil(1004.0)
    assert file.observe(build_observation(6, mtime_ns=1), after=2.0) == WaitUntil(
        1006.0
    )  # a preallocated copy changes only its time
    assert file.observe(
        build_observation(6, mtime_ns=1, sidecar=Signature(1, 1, 2)), after=2.0
    ) == WaitUntil(1008.0)


@pytest.mark.parametrize(
    ("settle_s", "shortened"), [(2.0, 0.5), (10.0, 2.5), (1.0, 0.3), (0.2, 0.2)]
)
def test_a_hint_shortens_the_wait_but_needs_two_observations(
    settle_s: float, shortened: float
) -> None:
    file = ObservedFile(settle_s=settle_s)
    decision = file.observe(build_observation(5), hint=True)
    assert isinstance(decision, WaitUntil)
    assert decision.until == pytest.approx(1000.0 + shortened)
    assert file.observe(build_observation(5), after=shortened + 1e-6) == Settled(
        build_observation(5)
    )


def test_a_change_cancels_a_hint() -> None:
    file = ObservedFile()
    file.observe(build_observation(5), hint=True)
    assert file.observe(build_observation(6), after=0.5) == WaitUntil(1002.5)


def test_without_settle_time_two_observations_are_needed() -> None:
    file = ObservedFile(settle_s=0.0)
    decision = file.observe(build_observation(5))
    assert isinstance(decision, WaitUntil)
    assert decision.until > file.now
    assert file.observe(build_observation(5), after=0.1) == Settled(build_observation(5))


def test_rest_before_the_first_observation_counts() -> None:
    assert ObservedFile().observe(build_observation(5, rested=2.0)) == Settled(build_observation(5))
    file = ObservedFile()
    assert file.observe(build_observation(5, rested=1.5)) == WaitUntil(1000.5)
    assert file.observe(build_observation(6, rested=0.1), after=0.5) == WaitUntil(1002.4)
    assert isinstance(
        ObservedFile(settle_s=0.0).observe(build_observation(5, rested=0.05)), WaitUntil
    )


def test_an_empty_file_waits_and_then_fails() -> None:
    file = ObservedFile()
    assert file.observe(build_observation(0)) == WaitUntil(1002.0)
    assert file.observe(build_observation(0), after=29.0) == WaitUntil(1030.0)
    assert file.still.reason == "it has zero bytes so far"
    assert file.observe(build_observation(0), after=1.0) == GiveUp(build_observation(0))


def test_an_empty_file_that_grows_settles_as_usual() -> None:
    file = ObservedFile()
    file.observe(build_observation(0))
    assert file.observe(build_observation(5), after=29.0) == WaitUntil(1031.0)
    assert file.observe(build_observation(5), after=2.0) == Settled(build_observation(5))


def test_a_deleted_file_is_forgotten() -> None:
    assert ObservedFile().observe(AccessProblem.GONE) == Forget()


def test_an_unreadable_file_is_retried_with_backoff() -> None:
    file = ObservedFile()
    assert file.observe(AccessProblem.LOCKED) == WaitUntil(1002.0)
    assert file.observe(AccessProblem.LOCKED, after=100.0) == WaitUntil(1125.0)
    assert file.observe(AccessProblem.UNREADABLE, after=1000.0) == WaitUntil(2160.0)
    assert file.still.reason == AccessProblem.UNREADABLE.value
    assert file.still.waits_long(file.now, SETTLE_S)


def test_a_denied_permission_is_reported_and_checked_often() -> None:
    file = ObservedFile()
    for _ in range(2):
        file.observe(build_observation(5), after=2.0)
    for trouble in (AccessProblem.DENIED, AccessProblem.SIDECAR_DENIED):
        assert file.observe(trouble) == WaitUntil(file.now + 2.0)
        assert file.still.waits_long(file.now, SETTLE_S)
    assert file.observe(AccessProblem.DENIED, after=1000.0) == WaitUntil(file.now + 5.0)
    assert isinstance(file.observe(build_observation(5), after=5.0), Settled)
    assert file.still.reason == AccessProblem.DENIED.value  # until hashing


def test_a_change_during_hashing_restarts_the_debounce() -> None:
    file = ObservedFile()
    file.observe(build_observation(5))
    file.observe(build_observation(5), after=2.0)
    assert file.observe(AccessProblem.CHANGED) == WaitUntil(1004.0)
    assert file.observe(build_observation(5), after=2.0) == WaitUntil(1006.0)


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
            st.sampled_from(
                [
                    build_observation(0),
                    build_observation(1),
                    build_observation(2),
                    build_observation(2, 1),
                ]
            ),
            st.sampled_from([AccessProblem.LOCKED, AccessProblem.DENIED, AccessProblem.CHANGED]),
        ),
        hint=st.booleans(),
    ),
    max_size=30,
)


@given(steps=steps, settle_s=st.floats(0, 100))
def test_only_two_equal_observations_settle_a_file(steps: list[Step], settle_s: float) -> None:
    file = ObservedFile(settle_s=settle_s)
    history: list[tuple[float, Observation | AccessProblem]] = []
    for step in steps:
        decision = file.observe(step.found, after=step.after, hint=step.hint)
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
def test_an_unchanged_file_always_settles_in_bounded_time(
    steps: list[Step], settle_s: float, size: int
) -> None:
    file = ObservedFile(settle_s=settle_s)
    for step in steps:
        if isinstance(file.observe(step.found, after=step.after, hint=step.hint), Settled | GiveUp):
            return
    began, looks = file.now, 0
    decision = file.observe(build_observation(size, 7))
    while isinstance(decision, WaitUntil):
        looks += 1
        assert looks < 50
        decision = file.observe(build_observation(size, 7), after=decision.until - file.now)
    assert isinstance(decision, Settled if size else GiveUp)
    assert file.now - began <= max(settle_s, EMPTY_S) + 2 * max(settle_s, 1.0)
