"""`Arrivals`: files without a job."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from speakeasyd.domain.debounce import AccessProblem, Forget, GiveUp, Observation, Settled
from speakeasyd.domain.job import Signature
from speakeasyd.services.arrivals import Arrivals

PATHS = (b"a.wav", b"b.wav")


class ArrivalsMachine(RuleBasedStateMachine):
    """Events, observations, hashing and time in any order.

    No file is processed twice at once, and none is forgotten.
    """

    def __init__(self) -> None:
        super().__init__()
        self.arrivals = Arrivals(settle_s=2.0, empty_s=5.0)
        self.now = 0.0
        self.files: dict[bytes, int | None] = dict.fromkeys(
            PATHS, 1
        )  # size of each file; None: deleted
        self.noticed: set[bytes] = set()
        self.in_hand: list[bytes] = []  # under observation
        self.taken: list[bytes] = []  # being hashed

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 1.5, 2.0, 7.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(path=st.sampled_from(PATHS), announced=st.booleans(), hint=st.booleans())
    def notice_file(self, path: bytes, announced: bool, hint: bool) -> None:
        self.arrivals.notice_file(path, self.now, announced=announced, hint=hint)
        self.noticed.add(path)

    @rule(path=st.sampled_from(PATHS), size=st.sampled_from([0, 1, 2, None]))
    def change_file(self, path: bytes, size: int | None) -> None:
        self.files[path] = size

    @precondition(lambda self: not self.in_hand)
    @rule()
    def begin_observation(self) -> None:
        self.in_hand = self.arrivals._take_due(self.now, 10)
        assert len(set(self.in_hand)) == len(self.in_hand)
        assert not set(self.in_hand) & set(self.taken)

    @rule()
    def end_observation(self) -> None:
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
    def end_hashing(self, trouble: AccessProblem | None) -> None:
        path = self.taken.pop(0)
        if trouble:
            self.arrivals.record_observation(path, trouble, self.now)
        else:
            self.arrivals.mark_admitted(path, self.now)
            if path not in self.arrivals._by_path:
                self.noticed.discard(path)

    @invariant()
    def check_no_file_is_forgotten(self) -> None:
        assert self.noticed == set(self.arrivals._by_path)
        waiting = self.noticed - set(self.taken) - set(self.in_hand)
        queue = set(self.arrivals._queue)
        assert all((self.arrivals._by_path[path].due, path) in queue for path in waiting)


TestArrivals = ArrivalsMachine.TestCase


def test_an_event_during_hashing_makes_a_new_arrival() -> None:
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


def test_a_file_that_stays_unreadable_delays_no_others() -> None:
    arrivals = Arrivals(settle_s=1.0, empty_s=1.0)
    assert arrivals.is_idle(0.0)
    arrivals.notice_file(b"a.wav", 0.0, announced=True)
    assert not arrivals.is_idle(0.0)
    [path] = arrivals._take_due(0.0, 1)
    arrivals.record_observation(path, AccessProblem.LOCKED, 0.0)
    assert not arrivals.is_idle(5.0)
    assert arrivals.is_idle(20.0)


def test_a_file_without_an_event_counts_as_missed() -> None:
    for announced in (True, False):
        arrivals = Arrivals(settle_s=0.0, empty_s=1.0)
        arrivals.notice_file(b"a.wav", 0.0, announced=announced)
        for now in (0.0, 0.1):
            [path] = arrivals._take_due(now, 1)
            arrivals.record_observation(path, Observation(Signature(1, 0, 1)), now)
        assert arrivals.missed is not announced


def test_an_event_during_the_last_observation_repeats_nothing() -> None:
    arrivals = Arrivals(settle_s=2.0, empty_s=5.0)
    seen = Observation(Signature(1, 0, 1))
    arrivals.notice_file(b"a.wav", 0.0, announced=True)
    arrivals._take_due(0.0, 10)
    arrivals.record_observation(b"a.wav", seen, 0.0)
    assert arrivals._take_due(2.0, 10) == [b"a.wav"]
    arrivals.notice_file(b"a.wav", 2.0, announced=True, hint=True)
    assert isinstance(arrivals.record_observation(b"a.wav", seen, 2.0), Settled)
    assert arrivals._take_due(2.0, 10) == []
