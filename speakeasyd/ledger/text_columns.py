"""Text for the database: file names, and so error messages, need not be valid Unicode."""

import json

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from speakeasyd.domain.diarization import Speaker
from speakeasyd.domain.transcript import WarningKind


def replace_surrogates(text: str) -> str:
    """Return the text without surrogates (undecodable bytes): they are escaped, as in `\\udcff`.

    NUL is replaced as well: functions of SQLite and readers in C treat it as the end of the text.
    """
    return text.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode()


def encode_json(value: object) -> str:
    """Return JSON with surrogates replaced by question marks.

    An escape would restore them when the JSON is read.
    """
    # NaN is not valid JSON: SQLite would refuse the whole transaction.
    return (
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace").decode()
    )


def parse_kinds(column: str | None) -> frozenset[WarningKind]:
    """Return the value of the column `warning_kinds`."""
    return frozenset(map(WarningKind, json.loads(column or "[]")))


def parse_speakers(column: str | None) -> tuple[Speaker, ...]:
    """Return the value of the column `jobs.speakers`."""
    return tuple(Speaker(**speaker) for speaker in json.loads(column or "[]"))


class SanitizedText(TypeDecorator[str]):
    """A text column that is passed through `replace_surrogates`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else replace_surrogates(value)
