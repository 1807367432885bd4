"""Timestamps to positions on the timeline."""

from collections.abc import Sequence
from itertools import pairwise, repeat

import pytest

from speakeasyd.engine.timeline import Stamp, Timeline

FRAME = 0.02  # seconds


def place_frames(
    times: Sequence[float | None], *, start: float | None = 0.0, broadcast: bool = False
) -> Timeline:
    timeline = Timeline(start, broadcast=broadcast)
    stamps = [Stamp(time, FRAME) for time in times]
    for stamp, following in pairwise([*stamps, None]):
        assert stamp is not None
        timeline.place(stamp, following)
    return timeline


def create_steady_times(begin: float, count: int) -> list[float]:
    return [begin + number * FRAME for number in range(count)]


def test_steady_timestamps_make_no_gaps() -> None:
    timeline = place_frames(create_steady_times(0.0, 500))
    assert timeline.end == pytest.approx(10.0)
    assert timeline.jumps == 0


def test_without_timestamps_there_are_no_gaps() -> None:
    assert place_frames(list(repeat(None, 100))).end == pytest.approx(2.0)


def test_jitter_makes_no_gaps() -> None:
    times = [
        time + (0.015 if number % 2 else -0.015)
        for number, time in enumerate(create_steady_times(0.1, 500))
    ]
    timeline = Timeline(times[0])
    gaps = [timeline.place(Stamp(a, FRAME), Stamp(b, FRAME)) for a, b in pairwise(times)]
    assert set(gaps) == {0.0}


@pytest.mark.parametrize("hole", [0.05, 0.4, 20.0, 72_000.0])
def test_a_hole_is_silence(hole: float) -> None:
    timeline = place_frames([*create_steady_times(0.0, 100), *create_steady_times(2.0 + hole, 100)])
    assert timeline.end == pytest.approx(4.0 + hole)
    assert timeline.jumps == 0


def test_a_late_start_is_silence() -> None:
    assert place_frames(create_steady_times(5.0, 100)).end == pytest.approx(7.0)


def test_timestamps_start_at_0() -> None:
    assert place_frames(create_steady_times(95_443.7, 100), start=None).end == pytest.approx(2.0)
    assert place_frames(create_steady_times(95_443.7, 100), start=95_443.7).end == pytest.approx(
        2.0
    )
    assert place_frames(create_steady_times(-3.0, 100)).end == pytest.approx(2.0)


def test_lost_packets_add_up() -> None:
    """Each gap is within the tolerance, but their sum is not."""
    times = [number * (FRAME + 0.001) for number in range(1000)]
    assert place_frames(times).end == pytest.approx(1000 * (FRAME + 0.001), abs=0.05)


def test_a_clock_slower_than_the_samples_is_followed() -> None:
    times = [number * (FRAME - 0.0001) for number in range(10_000)]
    timeline = place_frames(times)
    assert timeline.end == pytest.approx(10_000 * (FRAME - 0.0001), abs=0.07)
    assert timeline.jumps == 0


def test_a_restarted_clock_loses_nothing() -> None:
    timeline = place_frames([*create_steady_times(0.0, 100), *create_steady_times(0.0, 100)])
    assert timeline.end == pytest.approx(4.0)
    assert timeline.jumps == 1


def test_one_wrong_timestamp_moves_nothing() -> None:
    for wrong in (1e9, 30.0, -1e9, 0.0):
        times = create_steady_times(10.0, 100)
        times[50] = wrong
        assert place_frames(times, start=10.0).end == pytest.approx(2.0)


def test_constant_timestamps_lose_nothing() -> None:
    times = [*create_steady_times(0.0, 100), *repeat(2.0, 100), *create_steady_times(4.0, 100)]
    timeline = place_frames(times)
    assert timeline.end == pytest.approx(6.0)


def test_a_clock_that_recovers_leaves_no_shift() -> None:
    times = [
        *create_steady_times(0.0, 500),
        *create_steady_times(5.0, 100),
        *create_steady_times(12.0, 100),
    ]
    assert place_frames(times).end == pytest.approx(14.0)


def test_a_broadcast_has_no_hole_at_its_start() -> None:
    times = [*create_steady_times(0.0, 100), *create_steady_times(40_000.0, 100)]
    timeline = place_frames(times, broadcast=True)
    assert timeline.end == pytest.approx(4.0)
    assert timeline.jumps == 1
    assert place_frames(
        [*create_steady_times(0.0, 100), *create_steady_times(1e9, 100)]
    ).end == pytest.approx(4.0)
