"""The order of the queue: shortest remaining work first, and no job waits forever."""

from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain.queue_order import compute_queue_key, estimate_seconds

HOUR_S = 3600.0


def test_the_length_is_estimated_by_extension() -> None:
    megabyte = 1_000_000
    lengths = [
        estimate_seconds(name, megabyte)
        for name in ("call.amr", "a.mp3", "a.FLAC", "a.wav", "a.mkv")
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == len(lengths)
    assert estimate_seconds("dir.wav/no extension", megabyte) == estimate_seconds("a.mp3", megabyte)
    assert estimate_seconds("empty.wav", 0) == 0.0


def test_a_short_file_goes_before_an_older_long_one() -> None:
    assert compute_queue_key(60.0, 30.0) < compute_queue_key(0.0, HOUR_S)


@given(
    length=st.floats(0, 100 * HOUR_S),
    later_s=st.floats(1, 1e6),
    other_length=st.floats(0, 100 * HOUR_S),
)
def test_a_file_waits_only_for_files_added_within_its_own_length(
    length: float, later_s: float, other_length: float
) -> None:
    goes_first = compute_queue_key(later_s, other_length) < compute_queue_key(0.0, length)
    assert goes_first <= (later_s < length)
