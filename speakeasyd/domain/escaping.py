"""Escapes untrusted text, such as file names, before it is shown.

Control characters could send commands to a terminal, and separators could forge a line of a log.
"""

import re

_CONTROLS = "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1
_SEPARATORS = "\u2028\u2029"  # break a line like "\n"
_SURROGATES = "\ud800-\udfff"  # bytes of a name that are not UTF-8
# Reorder the text around them; plain direction marks do not
_DIRECTIONS = "\u202a-\u202e\u2066-\u206f"

_UNSAFE = re.compile(f"[{_CONTROLS}{_SEPARATORS}{_SURROGATES}{_DIRECTIONS}]")
_UNSAFE_IN_TEXT = re.compile(rf"(?![\n\t]){_UNSAFE.pattern}")


def escape_text(text: str) -> str:
    """Escape text of several lines for a terminal; line breaks and tabs are kept."""
    return _UNSAFE_IN_TEXT.sub(_as_escape, text)


def escape_line(text: str) -> str:
    """Escape text to a single line for a terminal: `\\n`, `\\x1b`, `\\u202e`."""
    return _UNSAFE.sub(_as_escape, text)


def escape_json(document: str) -> str:
    """Return a JSON document with equal content, with those characters as JSON escapes."""
    return _UNSAFE_IN_TEXT.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def _as_escape(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]
