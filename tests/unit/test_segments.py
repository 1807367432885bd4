"""Whisper's tokens to stretches of text."""

from speakeasyd.engine.whisper.token_segments import TokenSegment, split_tokens

BEGIN = 1000


def at(seconds: float) -> int:
    return BEGIN + round(seconds / 0.02)


def test_pairs_of_timestamps_part_the_text() -> None:
    tokens = [at(0), 1, 2, at(1.5), at(1.5), 3, at(4)]
    stretches, resume = split_tokens(tokens, timestamp_begin=BEGIN, seconds=10.0)
    assert stretches == [TokenSegment(0.0, 1.5, (1, 2)), TokenSegment(1.5, 4.0, (3,))]
    assert resume is None


def test_a_pair_at_the_end_says_where_to_go_on() -> None:
    stretches, resume = split_tokens([at(0), 1, at(2), at(2)], timestamp_begin=BEGIN, seconds=10.0)
    assert stretches == [TokenSegment(0.0, 2.0, (1,))]
    assert resume == 2.0


def test_text_without_an_end_reaches_the_end_of_the_audio() -> None:
    assert split_tokens([at(0), 1, at(2), at(2.5), 2], timestamp_begin=BEGIN, seconds=6.0) == (
        [TokenSegment(0.0, 2.0, (1,)), TokenSegment(2.5, 6.0, (2,))],
        None,
    )


def test_no_timestamp_lies_behind_the_audio() -> None:
    stretches, _ = split_tokens([at(0), 1, at(14)], timestamp_begin=BEGIN, seconds=6.0)
    assert stretches == [TokenSegment(0.0, 6.0, (1,))]


def test_nothing_is_nothing() -> None:
    assert split_tokens([], timestamp_begin=BEGIN, seconds=6.0) == ([], None)
    assert split_tokens([at(0), at(0)], timestamp_begin=BEGIN, seconds=6.0) == ([], None)
