"""The table of files that are not in the ledger yet."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from speakeasyd.domain.debounce import AccessProblem, Forget, GiveUp, Observation, Settled
from speakeasyd.domain.job import Signature
from speakeasyd.services.arrivals import Arrivals

PATHS = (b"a.wav", b"b.wav")


class Machine(RuleBasedStateMachine):
    """Events, looks, readings and time in any order: no file is handed on twice at once, none is left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals = Arrivals(settle_s=2.0, empty_s=5.0)
        self.now = 0.0
        self.files: dict[bytes, int | None] = dict.fromkeys(
            PATHS, 1
        )  # the size of each; None: gone
        self.noticed: set[bytes] = set()
        self.in_hand: list[bytes] = []  # being looked at
        self.taken: list[bytes] = []  # being read

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 1.5, 2.0, 7.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(path=st.sampled_from(PATHS), announced=st.booleans(), hint=st.booleans())
    def notice(self, path: bytes, announced: bool, hint: bool) -> None:
        self.arrivals.notice_file(path, self.now, announced=announced, hint=hint)
        self.noticed.add(path)

    @rule(path=st.sampled_from(PATHS), size=st.sampled_from([0, 1, 2, None]))
    def change(self, path: bytes, size: int | None) -> None:
        self.files[path] = size

    @precondition(lambda self: not self.in_hand)
    @rule()
    def begin_look(self) -> None:
        self.in_hand = self.arrivals._take_due(self.now, 10)
        assert len(set(self.in_hand)) == len(self.in_hand)
        assert not set(self.in_hand) & set(self.taken)

    @rule()
    def end_look(self) -> None:
        for path in self.in_hand:
            size = self.files[path]
            found = AccessProblem.GONE if size is None else Observation(Signature(size, 0, 1))
            match self.arrivals.record_observation(path, found, self.now):
                case Settled() | GiveUp():
                    self.taken.append(path)
                case Forget():
                    self.noticed.discard(path)
        self.in_hand = []

    @precondition(lambda self: self.taken)
    @rule(trouble=st.sampled_from([None, AccessProblem.CHANGED, AccessProblem.DENIED]))
    def end_reading(self, trouble: AccessProblem | None) -> None:
        path = self.taken.pop(0)
        if trouble:
            self.arrivals.record_observation(path, trouble, self.now)
        else:
            self.arrivals.mark_admitted(path, self.now)
            if path not in self.arrivals._by_path:
                self.noticed.discard(path)

    @invariant()
    def none_is_left_behind(self) -> None:
        assert self.noticed == set(self.arrivals._by_path)
        waiting = self.noticed - set(self.taken) - set(self.in_hand)
        queue = set(self.arrivals._queue)
        assert all((self.arrivals._by_path[path].due, path) in queue for path in waiting)


TestArrivals = Machine.TestCase


def test_an_event_while_a_file_is_read_makes_it_a_new_arrival() -> None:
    arrivals = Arrivals(settle_s=0.0, empty_s=1.0)
    found = Observation(Signature(1, 0, 1))
    arrivals.notice_file(b"a.wav", 0.0, announced=True)
    for now in (0.0, 0.1):
        [path] = arrivals._take_due(now, 10)
        decision = arrivals.record_observation(path, found, now)
    assert decision == Settled(found)
    assert arrivals._take_due(9.0, 10) == []
    arrivals.notice_file(b"a.wav", 0.2, announced=True, hint=True)
    arrivals.mark_admitted(b"a.wav", 0.3)
    assert arrivals._take_due(0.3, 10) == [b"a.wav"]


def test_what_has_not_let_itself_be_read_for_long_does_not_keep_the_rest_waiting() -> None:
    arrivals = Arrivals(settle_s=1.0, empty_s=1.0)
    assert arrivals.is_idle(0.0)
    arrivals.notice_file(b"a.wav", 0.0, announced=True)
    assert not arrivals.is_idle(0.0)
    [path] = arrivals._take_due(0.0, 1)
    arrivals.record_observation(path, AccessProblem.LOCKED, 0.0)
    assert not arrivals.is_idle(5.0)
    assert arrivals.is_idle(20.0)


def test_a_file_that_no_event_told_of_is_remembered_as_missed() -> None:
    for announced in (True, False):
        arrivals = Arrivals(settle_s=0.0, empty_s=1.0)
        arrivals.notice_file(b"a.wav", 0.0, announced=announced)
        for now in (0.0, 0.1):
            [path] = arrivals._take_due(now, 1)
            arrivals.record_observation(path, Observation(Signature(1, 0, 1)), now)
        assert arrivals.missed is not announced


def test_an_event_during_the_look_that_settles_a_file_does_not_hand_it_on_twice() -> None:
    arrivals = Arrivals(settle_s=2.0, empty_s=5.0)
    seen = Observation(Signature(1, 0, 1))
    arrivals.notice_file(b"a.wav", 0.0, announced=True)
    arrivals._take_due(0.0, 10)
    arrivals.record_observation(b"a.wav", seen, 0.0)
    assert arrivals._take_due(2.0, 10) == [b"a.wav"]
    arrivals.notice_file(b"a.wav", 2.0, announced=True, hint=True)
    assert isinstance(arrivals.record_observation(b"a.wav", seen, 2.0), Settled)
    assert arrivals._take_due(2.0, 10) == []
