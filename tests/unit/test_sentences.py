"""Timed words to sentences."""

import pytest

from speakeasyd.domain.sentences import split_sentences, trim_to_speech
from speakeasyd.domain.transcript import Word


def say(text: str, *, start: float = 0.0, word_s: float = 0.5) -> list[Word]:
    """Return the words of a text, spoken without pauses."""
    return [
        Word(start + index * word_s, start + (index + 1) * word_s, f" {word}", 1.0)
        for index, word in enumerate(text.split())
    ]


def split_texts(words: list[Word]) -> list[str]:
    return ["".join(word.text for word in part) for part in split_sentences(words)]


@pytest.mark.parametrize(
    "text",
    [
        "It rains. | It pours! | Does it?",
        'He said: "Stop." | Then he left.',
        "\u4ed6\u6765\u4e86\u3002 | \u6211\u4eec\u8d70\u3002",
        "Mr. J. R. Brown came at 10 a.m. on Monday. | (Dr. Smith left.) | Why?",
        "no end of a sentence",
        "",
    ],
)
def test_a_sentence_ends_at_its_mark(text: str) -> None:
    words = say(text.replace(" | ", " "))
    assert split_texts(words) == ([f" {part}" for part in text.split(" | ")] if text else [])


def test_a_number_is_not_split() -> None:
    """In languages without spaces, each token is a word, and a point belongs to the one before."""
    words = [Word(0.0, 1.0, text, 1.0) for text in ("\u5171", "3.", "5", "\u5143\u3002", "\u597d")]
    assert split_texts(words) == ["\u51713.5\u5143\u3002", "\u597d"]


def test_a_word_ends_with_the_speech() -> None:
    """An aligned word lasts until the next one begins."""
    times = [(0.0, 1.0), (1.0, 4.0), (4.0, 6.0), (6.0, 6.0), (6.0, 9.0)]
    words = [Word(start, end, f" {start}", 1.0) for start, end in times]
    voiced = [(0.2, 0.9), (1.1, 2.0), (5.0, 7.0)]
    trimmed = [(word.start, word.end) for word in trim_to_speech(words, voiced)]
    assert trimmed == [(0.2, 1.0), (1.0, 2.0), (5.0, 6.0), (6.0, 6.0), (6.0, 7.0)]
    assert [word.text for word in trim_to_speech(words, voiced)] == [word.text for word in words]
    assert list(trim_to_speech(words, [])) == words
    assert split_texts(list(trim_to_speech(words, voiced)))[0] == " 0.0 1.0"


def test_a_pause_ends_a_segment() -> None:
    assert split_texts([*say("one two"), *say("three", start=2.0)]) == [" one two", " three"]
    assert split_texts([*say("one two"), *say("three", start=1.5)]) == [" one two three"]


def test_a_long_sentence_is_split() -> None:
    words = say("word " * 40)
    parts = list(split_sentences(words))
    assert [word for part in parts for word in part] == words
    assert all(part[-1].end - part[0].start <= 8.0 for part in parts)
    assert len(parts) == 3
