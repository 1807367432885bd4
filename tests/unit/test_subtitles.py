"""Subtitles: players can read every file, and people can read the text."""

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


def build_transcript(
    *draw_segments: Segment, gaps: tuple[tuple[float, float], ...] = (), seconds: float = 60.0
) -> Transcript:
    return Transcript(1, "a.wav", "en", "tiny.en", seconds, draw_segments, gaps)


def build_segment(
    start: float, end: float, text: str, *, channel: int | None = None, words: tuple[Word, ...] = ()
) -> Segment:
    return Segment(start, end, text, -0.2, 1.1, 0.01, channel, words)


def parse_time(stamp: str) -> float:
    hours, minutes, rest = stamp.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def parse_srt(text: str) -> list[tuple[float, float, list[str]]]:
    """Parse as strictly as the strictest player: consecutive numbers, one blank line between
    blocks.
    """
    assert "".join(found.group() + "\n" for found in SRT_BLOCK.finditer(text)) == (
        text + "\n" if text else ""
    )
    parsed = []
    for number, found in enumerate(SRT_BLOCK.finditer(text), 1):
        assert int(found[1]) == number
        parsed.append((parse_time(found[2]), parse_time(found[3]), found[4].splitlines()))
    return parsed


def test_srt_and_vtt_have_their_syntax() -> None:
    transcript = build_transcript(
        build_segment(1.5, 3.0, " Fish & chips --> <b>now</b>."),
        build_segment(3661.0, 3663.5, " Later."),
        seconds=3700,
    )
    assert render_srt(transcript) == (
        "1\n00:00:01,500 --> 00:00:03,147\nFish & chips -> <b>now</b>.\n\n2\n01:01:01,000 --> 01:01:03,500\nLater.\n"
    )
    assert render_vtt(transcript) == (
        "WEBVTT\n\n00:00:01.500 --> 00:00:03.147\nFish &amp; chips --&gt; &lt;b&gt;now&lt;/b&gt;.\n"
        "\n01:01:01.000 --> 01:01:03.500\nLater.\n"
    )


def test_an_empty_transcript_gives_an_empty_file() -> None:
    assert render_srt(build_transcript()) == ""
    assert render_vtt(build_transcript()) == "WEBVTT\n"
    assert render_srt(build_transcript(build_segment(0, 1, "  "))) == ""


def test_a_long_segment_is_split_at_sentences_and_clauses() -> None:
    text = (
        " We met at the harbour in the early morning, when the boats came in. The wind had turned to the north,"
        " and nobody wanted to go out again before noon."
    )
    shown = build_cues(build_transcript(build_segment(0, 12, text)))
    assert [cue.lines for cue in shown] == [
        ("We met at the harbour in the early", "morning, when the boats came in."),
        ("The wind had turned to the north, and", "nobody wanted to go out again before noon."),
    ]


def test_cues_have_the_times_of_words() -> None:
    words = (
        Word(1.0, 1.2, " Yes.", 0.9),
        Word(8.0, 8.5, " Well", 0.9),
        Word(8.5, 9.0, ", no.", 0.9),
    )
    shown = build_cues(build_transcript(build_segment(1.0, 9.0, " Yes. Well, no.", words=words)))
    assert [(cue.start, cue.lines) for cue in shown] == [(1.0, ("Yes.",)), (8.0, ("Well, no.",))]


def test_words_that_differ_from_the_text_are_ignored() -> None:
    shown = build_cues(
        build_transcript(build_segment(1.0, 3.0, " Yes.", words=(Word(0.0, 9.0, " No.", 0.9),)))
    )
    assert shown == [Cue(1.0, 3.0, ("Yes.",))]


def test_a_cue_stays_until_it_can_be_read() -> None:
    line = " These forty columns are said in a hurry."
    shown = build_cues(
        build_transcript(
            build_segment(0, 0.5, line),
            build_segment(10, 10.5, line),
            build_segment(11, 11.2, " Quick."),
        )
    )
    assert [(cue.start, round(cue.end, 2)) for cue in shown] == [(0, 2.35), (10, 11), (11, 12)]


def test_a_short_silence_is_closed() -> None:
    first, _ = build_cues(
        build_transcript(build_segment(0, 3, " One thing."), build_segment(3.2, 5, " Another."))
    )
    assert first.end == 3.2


def test_a_cue_ends_in_long_silence() -> None:
    assert build_cues(build_transcript(build_segment(0, 25, " Thank you.")))[0].end == LONGEST_S


def test_japanese_lines_have_full_width_and_never_begin_with_a_stop() -> None:
    text = (
        "これは長い文章です。字幕の幅を確認するために、もう少し続けて書いてみましょう。はい、そうです。"
        * 3
    )
    shown = build_cues(build_transcript(build_segment(0, 40, text), seconds=40))
    lines = [line for cue in shown for line in cue.lines]
    assert "".join(lines) == text
    assert max(map(measure_width, lines)) <= COLUMNS
    assert not any(line[0] in "。、ょ" for line in lines)


def test_korean_and_arabic_are_broken_between_words() -> None:
    for text in (
        "안녕하세요 저는 오늘 서울에서 온 사람입니다 " * 4,
        "مرحبا بكم في هذا التسجيل الطويل جدا " * 5,
    ):
        lines = [
            line
            for cue in build_cues(build_transcript(build_segment(0, 20, text)))
            for line in cue.lines
        ]
        assert " ".join(lines).split() == text.split()


def test_simultaneous_speakers_are_shown_in_turn() -> None:
    both = build_transcript(
        build_segment(0, 3, " Hello?", channel=0),
        build_segment(0, 3, " Who is there?", channel=1),
        seconds=5,
    )
    assert [(start, lines) for start, _, lines in parse_srt(render_srt(both))] == [
        (0.0, ["Left: Hello?"]),
        (1.0, ["Right: Who is there?"]),
    ]
    assert "<v Right>Who is there?" in render_vtt(both)


def test_a_gap_is_marked() -> None:
    shown = build_cues(
        build_transcript(
            build_segment(0, 3, " Before."), build_segment(40, 42, " After."), gaps=((10, 35),)
        )
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
    [(_, _, lines)] = parse_srt(render_srt(build_transcript(build_segment(0, 5, text))))
    assert all(line.isprintable() for line in lines)
    assert render_vtt(build_transcript(build_segment(0, 5, text))).count("-->") == 1


ALPHABET = st.one_of(
    st.sampled_from("abcdefgh .,!?-"),
    st.sampled_from("日本語。、ー안녕مرحبا\u0301\u200d👩🏽"),
    st.characters(exclude_categories=()),
)
TIMES = st.floats(0, 20_000, allow_nan=False)


@st.composite
def draw_segments(draw: st.DrawFn) -> tuple[Segment, ...]:
    """Draw segments ordered by start, possibly overlapping, with and without words and channels."""
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
            build_segment(
                start, end, text, channel=draw(st.integers(0, 1)) if apart else None, words=words
            )
        )
    return tuple(made)


def join_letters(text: str) -> str:
    return "".join(strip_controls(text).split())


@settings(max_examples=150, deadline=None)
@given(draw_segments())
def test_cues_are_disjoint_fit_their_lines_and_keep_all_words(
    segments: tuple[Segment, ...],
) -> None:
    shown = build_cues(build_transcript(*segments))
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
        expected = join_letters("".join(one.text for one in segments if one.channel == channel))
        assert (
            join_letters("".join("".join(cue.lines) for cue in shown if cue.speaker == name))
            == expected
        )


@settings(max_examples=100, deadline=None)
@given(draw_segments())
def test_rendered_subtitles_can_be_parsed(segments: tuple[Segment, ...]) -> None:
    shown = build_cues(build_transcript(*segments))
    parsed = parse_srt(render_srt(build_transcript(*segments)))
    assert len(parsed) == len(shown)
    for (start, end, _), cue in zip(parsed, shown, strict=True):
        assert start == pytest.approx(cue.start, abs=0.001)
        assert end == pytest.approx(cue.end, abs=0.001)
        assert start < end
    blocks = render_vtt(build_transcript(*segments)).removesuffix("\n").split("\n\n")
    assert blocks[0] == "WEBVTT"
    texts = [
        html.unescape(re.sub(r"^<v \w+>", "", block.split("\n", 1)[1])) for block in blocks[1:]
    ]
    assert texts == ["\n".join(cue.lines) for cue in shown]
