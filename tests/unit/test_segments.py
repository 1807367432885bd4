"""Whisper's tokens to segments."""

from speakeasyd.engine.whisper.token_segments import TokenSegment, split_tokens

BEGIN = 1000


def stamp(seconds: float) -> int:
    return BEGIN + round(seconds / 0.02)


def test_pairs_of_timestamps_split_the_text() -> None:
    tokens = [
        stamp(0),
        1,
        2,
        stamp(1.5),
        stamp(1.5),
        3,
        stamp(4),
    ]
    stretches, resume = split_tokens(tokens, timestamp_begin=BEGIN, seconds=10.0)
    assert stretches == [TokenSegment(0.0, 1.5, (1, 2)), TokenSegment(1.5, 4.0, (3,))]
    assert resume is None


def test_a_final_pair_gives_the_next_position() -> None:
    stretches, resume = split_tokens(
        [stamp(0), 1, stamp(2), stamp(2)],
        timestamp_begin=BEGIN,
        seconds=10.0,
    )
    assert stretches == [TokenSegment(0.0, 2.0, (1,))]
    assert resume == 2.0


def test_text_without_an_end_reaches_the_end_of_the_audio() -> None:
    assert split_tokens(
        [stamp(0), 1, stamp(2), stamp(2.5), 2],
        timestamp_begin=BEGIN,
        seconds=6.0,
    ) == (
        [TokenSegment(0.0, 2.0, (1,)), TokenSegment(2.5, 6.0, (2,))],
        None,
    )


def test_timestamps_are_limited_to_the_audio() -> None:
    stretches, _ = split_tokens([stamp(0), 1, stamp(14)], timestamp_begin=BEGIN, seconds=6.0)
    assert stretches == [TokenSegment(0.0, 6.0, (1,))]


def test_no_tokens_give_no_segments() -> None:
    assert split_tokens([], timestamp_begin=BEGIN, seconds=6.0) == ([], None)
    assert split_tokens([stamp(0), stamp(0)], timestamp_begin=BEGIN, seconds=6.0) == ([], None)
