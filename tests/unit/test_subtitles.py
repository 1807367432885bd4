"""Subtitles: whatever the transcript, players can read the file and people can read the text."""

import html
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakeasyd.domain.readable_text import strip_controls
from speakeasyd.domain.subtitles import (
    FLICKER_S,
    LONGEST_S,
    SHORTEST_S,
    Cue,
    build_cues,
    render_srt,
    render_vtt,
)
from speakeasyd.domain.transcript import Segment, Transcript, Word
from speakeasyd.domain.typesetting import COLUMNS, measure_width

SRT_BLOCK = re.compile(r"(\d+)\n(\S+) --> (\S+)\n((?:[^\n]+\n){1,2})")


def transcript(
    *segments: Segment, gaps: tuple[tuple[float, float], ...] = (), seconds: float = 60.0
) -> Transcript:
    return Transcript(1, "a.wav", "en", "tiny.en", seconds, segments, gaps)


def segment(
    start: float, end: float, text: str, *, channel: int | None = None, words: tuple[Word, ...] = ()
) -> Segment:
    return Segment(start, end, text, -0.2, 1.1, 0.01, channel, words)


def seconds(stamp: str) -> float:
    hours, minutes, rest = stamp.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def parse_srt(text: str) -> list[tuple[float, float, list[str]]]:
    """As strict as the strictest player: numbers in order, one blank line between blocks, nothing else."""
    assert "".join(found.group() + "\n" for found in SRT_BLOCK.finditer(text)) == (
        text + "\n" if text else ""
    )
    parsed = []
    for number, found in enumerate(SRT_BLOCK.finditer(text), 1):
        assert int(found[1]) == number
        parsed.append((seconds(found[2]), seconds(found[3]), found[4].splitlines()))
    return parsed


def test_srt_and_vtt_look_as_they_should() -> None:
    said = transcript(
        segment(1.5, 3.0, " Fish & chips --> <b>now</b>."),
        segment(3661.0, 3663.5, " Later."),
        seconds=3700,
    )
    assert render_srt(said) == (
        "1\n00:00:01,500 --> 00:00:03,147\nFish & chips -> <b>now</b>.\n\n2\n01:01:01,000 --> 01:01:03,500\nLater.\n"
    )
    assert render_vtt(said) == (
        "WEBVTT\n\n00:00:01.500 --> 00:00:03.147\nFish &amp; chips --&gt; &lt;b&gt;now&lt;/b&gt;.\n"
        "\n01:01:01.000 --> 01:01:03.500\nLater.\n"
    )


def test_nothing_said_is_an_empty_file() -> None:
    assert render_srt(transcript()) == ""
    assert render_vtt(transcript()) == "WEBVTT\n"
    assert render_srt(transcript(segment(0, 1, "  "))) == ""


def test_a_long_segment_is_parted_where_sentences_and_clauses_end() -> None:
    text = (
        " We met at the harbour in the early morning, when the boats came in. The wind had turned to the north,"
        " and nobody wanted to go out again before noon."
    )
    shown = build_cues(transcript(segment(0, 12, text)))
    assert [cue.lines for cue in shown] == [
        ("We met at the harbour in the early", "morning, when the boats came in."),
        ("The wind had turned to the north, and", "nobody wanted to go out again before noon."),
    ]


def test_words_give_the_times() -> None:
    words = (
        Word(1.0, 1.2, " Yes.", 0.9),
        Word(8.0, 8.5, " Well", 0.9),
        Word(8.5, 9.0, ", no.", 0.9),
    )
    shown = build_cues(transcript(segment(1.0, 9.0, " Yes. Well, no.", words=words)))
    assert [(cue.start, cue.lines) for cue in shown] == [(1.0, ("Yes.",)), (8.0, ("Well, no.",))]


def test_words_that_say_something_else_are_not_believed() -> None:
    shown = build_cues(transcript(segment(1.0, 3.0, " Yes.", words=(Word(0.0, 9.0, " No.", 0.9),))))
    assert shown == [Cue(1.0, 3.0, ("Yes.",))]


def test_a_cue_stays_into_the_silence_until_it_is_read_but_not_into_the_next() -> None:
    line = " These forty columns are said in a hurry."
    shown = build_cues(
        transcript(segment(0, 0.5, line), segment(10, 10.5, line), segment(11, 11.2, " Quick."))
    )
    assert [(cue.start, round(cue.end, 2)) for cue in shown] == [(0, 2.35), (10, 11), (11, 12)]


def test_a_short_silence_is_closed() -> None:
    first, _ = build_cues(transcript(segment(0, 3, " One thing."), segment(3.2, 5, " Another.")))
    assert first.end == 3.2


def test_a_cue_does_not_stay_for_ever() -> None:
    assert build_cues(transcript(segment(0, 25, " Thank you.")))[0].end == LONGEST_S


def test_japanese_is_set_in_full_width_lines_and_no_line_begins_with_a_full_stop() -> None:
    text = (
        "これは長い文章です。字幕の幅を確認するために、もう少し続けて書いてみましょう。はい、そうです。"
        * 3
    )
    shown = build_cues(transcript(segment(0, 40, text), seconds=40))
    lines = [line for cue in shown for line in cue.lines]
    assert "".join(lines) == text
    assert max(map(measure_width, lines)) <= COLUMNS
    assert not any(line[0] in "。、ょ" for line in lines)


def test_korean_and_arabic_are_broken_between_words() -> None:
    for text in (
        "안녕하세요 저는 오늘 서울에서 온 사람입니다 " * 4,
        "مرحبا بكم في هذا التسجيل الطويل جدا " * 5,
    ):
        lines = [line for cue in build_cues(transcript(segment(0, 20, text))) for line in cue.lines]
        assert " ".join(lines).split() == text.split()


def test_two_who_speak_at_once_are_shown_one_after_the_other_with_their_names() -> None:
    both = transcript(
        segment(0, 3, " Hello?", channel=0), segment(0, 3, " Who is there?", channel=1), seconds=5
    )
    assert [(start, lines) for start, _, lines in parse_srt(render_srt(both))] == [
        (0.0, ["Left: Hello?"]),
        (1.0, ["Right: Who is there?"]),
    ]
    assert "<v Right>Who is there?" in render_vtt(both)


def test_a_gap_is_marked() -> None:
    shown = build_cues(
        transcript(segment(0, 3, " Before."), segment(40, 42, " After."), gaps=((10, 35),))
    )
    assert [(cue.start, " ".join(cue.lines)) for cue in shown] == [
        (0, "Before."),
        (10, "[gap 00:10-00:35: could not be transcribed]"),
        (40, "After."),
    ]


@pytest.mark.parametrize(
    "text",
    [" a\nb\n\n2\n00:00:01,000 --> 00:00:02,000\nforged", " \x00\x1b[2J\x85\u2028x\ufeff\ud800"],
)
def test_no_text_can_forge_a_cue(text: str) -> None:
    [(_, _, lines)] = parse_srt(render_srt(transcript(segment(0, 5, text))))
    assert all(line.isprintable() for line in lines)
    assert render_vtt(transcript(segment(0, 5, text))).count("-->") == 1


ALPHABET = st.one_of(
    st.sampled_from("abcdefgh .,!?-"),
    st.sampled_from("日本語。、ー안녕مرحبا\u0301\u200d👩🏽"),
    st.characters(exclude_categories=()),
)
TIMES = st.floats(0, 20_000, allow_nan=False)


@st.composite
def segments(draw: st.DrawFn) -> tuple[Segment, ...]:
    """In order of their start, but overlapping and of any length, with and without words and channels."""
    made = []
    apart = draw(st.booleans())
    for start in sorted(draw(st.lists(TIMES, max_size=8))):
        end = start + draw(st.floats(0, 40))
        text = draw(st.text(ALPHABET, max_size=200))
        words: tuple[Word, ...] = ()
        if draw(st.booleans()):
            cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
            parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            words = tuple(Word(draw(TIMES), draw(TIMES), part, 0.5) for part in parts)
        made.append(
            segment(
                start, end, text, channel=draw(st.integers(0, 1)) if apart else None, words=words
            )
        )
    return tuple(made)


def letters(text: str) -> str:
    return "".join(strip_controls(text).split())


@settings(max_examples=150, deadline=None)
@given(segments())
def test_cues_never_overlap_fit_their_lines_and_keep_every_word_in_order(
    said: tuple[Segment, ...],
) -> None:
    shown = build_cues(transcript(*said))
    for cue, following in pairwise(shown):
        assert cue.end <= following.start
    for cue in shown:
        assert 0 <= cue.start < cue.end <= cue.start + max(LONGEST_S, SHORTEST_S) + FLICKER_S
        assert len(cue.lines) in {1, 2}
        label = len(cue.speaker) + 2 if cue.speaker else 0
        assert all(line.strip() for line in cue.lines)
        assert measure_width(cue.lines[0]) + label <= COLUMNS
        assert all(measure_width(line) <= COLUMNS for line in cue.lines)
    for channel, name in ((None, ""), (0, "Left"), (1, "Right")):
        heard = letters("".join(one.text for one in said if one.channel == channel))
        assert letters("".join("".join(cue.lines) for cue in shown if cue.speaker == name)) == heard


@settings(max_examples=100, deadline=None)
@given(segments())
def test_what_is_written_can_be_read_back(said: tuple[Segment, ...]) -> None:
    shown = build_cues(transcript(*said))
    parsed = parse_srt(render_srt(transcript(*said)))
    assert len(parsed) == len(shown)
    for (start, end, _), cue in zip(parsed, shown, strict=True):
        assert start == pytest.approx(cue.start, abs=0.001)
        assert end == pytest.approx(cue.end, abs=0.001)
        assert start < end
    blocks = render_vtt(transcript(*said)).removesuffix("\n").split("\n\n")
    assert blocks[0] == "WEBVTT"
    texts = [
        html.unescape(re.sub(r"^<v \w+>", "", block.split("\n", 1)[1])) for block in blocks[1:]
    ]
    assert texts == ["\n".join(cue.lines) for cue in shown]
