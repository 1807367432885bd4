"""When a recording ends by itself, and the ring buffer between the audio thread and the writer."""

import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain.recording import (
    FLOOR_DB,
    SOUND_DB,
    RecordingLimits,
    RecordingProgress,
    build_stem,
    find_stop_reason,
    to_decibels,
)
from speakeasyd.recorder.ring_buffer import RingBuffer

LOUD, QUIET = SOUND_DB + 10, SOUND_DB - 10


def test_silence_is_measured_from_the_last_sound() -> None:
    limits = RecordingLimits(until_silence_s=2)
    heard = RecordingProgress().add_block(60, QUIET)
    assert find_stop_reason(limits, heard) is None, "nobody is cut off before the first word"
    heard = heard.add_block(1, LOUD).add_block(1.9, QUIET)
    assert find_stop_reason(limits, heard) is None
    assert find_stop_reason(limits, heard.add_block(1, LOUD)) is None
    assert find_stop_reason(limits, heard.add_block(0.1, QUIET)) == "2 s of silence"


def test_a_recording_ends_at_its_longest_length() -> None:
    assert find_stop_reason(RecordingLimits(max_s=3), RecordingProgress(2.9)) is None
    assert find_stop_reason(RecordingLimits(max_s=3), RecordingProgress(3.0)) == "it is 3 s long"
    assert find_stop_reason(RecordingLimits(), RecordingProgress(1e9, 0.0)) is None


@pytest.mark.parametrize(("peak", "db"), [(0, FLOOR_DB), (1, -90.3), (16384, -6.0), (32768, 0.0)])
def test_decibels(peak: int, db: float) -> None:
    assert to_decibels(peak) == pytest.approx(db, abs=0.05)


@given(st.datetimes(timezones=st.just(UTC)).filter(lambda moment: 1990 < moment.year < 2100))
def test_names_are_valid_in_every_file_system(moment: datetime) -> None:
    assert not set(build_stem(moment)) & set('\\/:*?"<>|')


@given(st.integers(1, 20), st.lists(st.one_of(st.none(), st.binary(max_size=25)), max_size=60))
def test_a_ring_buffer_keeps_order(size: int, steps: list[bytes | None]) -> None:
    """A step of None reads. A block without room is refused completely."""
    ring, waiting, came, wanted = RingBuffer(size), b"", b"", b""
    for step in steps:
        if step is None:
            block = ring.take()
            assert block == waiting
            came, waiting = came + block, b""
        elif ring.put(memoryview(step)):
            waiting, wanted = waiting + step, wanted + step
            assert len(waiting) <= size
        else:
            assert len(waiting) + len(step) > size
    assert came + ring.take() == wanted


def test_two_threads_share_a_ring_buffer_without_a_lock() -> None:
    ring, whole = RingBuffer(1000), bytes(range(256)) * 40
    blocks = [whole[start : start + 96] for start in range(0, len(whole), 96)]

    def put() -> None:
        for block in blocks:
            while not ring.put(memoryview(block)):
                pass

    putting = threading.Thread(target=put)
    putting.start()
    came = bytearray()
    while putting.is_alive() or len(came) < len(whole):
        came += ring.take()
    putting.join()
    assert bytes(came) == whole
