"""Escaping of text that is printed on a terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain.escaping import escape_json, escape_line, escape_text

DANGEROUS = "\x00\x07\x08\r\x1b\x7f\x80\x9b\x9d\u2028\u2029\u202a\u202e\u2066\u2069"


@pytest.mark.parametrize("char", DANGEROUS)
def test_control_sequences_are_escaped(char: str) -> None:
    for escape in (escape_line, escape_text):
        assert escape(f"a{char}b") == f"a{repr(char)[1:-1]}b"
    assert json.loads(escape_json(json.dumps(char, ensure_ascii=False))) == char


def test_line_breaks_are_kept_in_text_but_not_in_lines() -> None:
    assert escape_text("a\n\tb") == "a\n\tb"
    assert escape_line("a\n\tb") == r"a\n\tb"


@pytest.mark.parametrize("text", ["žluť 日本語 👩‍💻", "می‌خواهم", "שלום\u200f!", "a\u00a0b\u3000c"])
def test_text_of_any_language_is_unchanged(text: str) -> None:
    assert escape_line(text) == escape_text(text) == text


@given(st.dictionaries(st.text(), st.text()))
def test_escaped_json_is_equal(value: dict[str, str]) -> None:
    document = json.dumps(value, ensure_ascii=False, indent=2)
    assert json.loads(escape_json(document)) == value
    assert not set(escape_json(document)) & set(DANGEROUS)
