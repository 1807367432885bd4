"""Escapes what would command a terminal or forge a line in text that comes from outside, such as file names."""

import re

_CONTROLS = "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1
_SEPARATORS = "\u2028\u2029"  # break a line like "\n"
_SURROGATES = "\ud800-\udfff"  # bytes of a name that are not UTF-8
# Reorder the text around them; plain direction marks do not
_DIRECTIONS = "\u202a-\u202e\u2066-\u206f"

_UNSAFE = re.compile(f"[{_CONTROLS}{_SEPARATORS}{_SURROGATES}{_DIRECTIONS}]")
_UNSAFE_IN_TEXT = re.compile(rf"(?![\n\t]){_UNSAFE.pattern}")


def escape_text(text: str) -> str:
    """Text of several lines for a terminal: line breaks and tabs stay, other control characters are written out."""
    return _UNSAFE_IN_TEXT.sub(_as_escape, text)


def escape_line(text: str) -> str:
    """One line for a terminal, whatever the text contains: `\\n`, `\\x1b`, `\\u202e`."""
    return _UNSAFE.sub(_as_escape, text)


def escape_json(document: str) -> str:
    """A JSON document with the same content, in which those characters are escaped as JSON does it."""
    return _UNSAFE_IN_TEXT.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def _as_escape(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]
