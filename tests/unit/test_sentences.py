"""Timed words to sentences."""

import pytest

from speakeasyd.domain.sentences import split_sentences
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
        "no end of a sentence",
        "",
    ],
)
def test_a_sentence_ends_at_its_mark(text: str) -> None:
    words = say(text.replace(" | ", " "))
    assert split_texts(words) == ([f" {part}" for part in text.split(" | ")] if text else [])


def test_a_pause_ends_a_segment() -> None:
    assert split_texts([*say("one two"), *say("three", start=2.0)]) == [" one two", " three"]
    assert split_texts([*say("one two"), *say("three", start=1.5)]) == [" one two three"]


def test_a_long_sentence_is_split() -> None:
    words = say("word " * 40)
    parts = list(split_sentences(words))
    assert [word for part in parts for word in part] == words
    assert all(part[-1].end - part[0].start <= 8.0 for part in parts)
    assert len(parts) == 3
