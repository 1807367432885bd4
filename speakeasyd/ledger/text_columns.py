"""Text that any database and any reader can take: file names, and so error messages, need not be Unicode."""

import json

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from speakeasyd.domain.transcript import WarningKind


def replace_surrogates(text: str) -> str:
    """Without surrogates, by which Python carries undecodable bytes: they are written out, as in `\\udcff`.

    Without NUL, too: functions of SQLite and readers in C take it for the end of the text.
    """
    return text.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode()


def encode_json(value: object) -> str:
    """JSON without surrogates: they become question marks, since an escape would only hide them until it is read."""
    # NaN is no JSON: SQLite would refuse the whole transaction for it.
    return (
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace").decode()
    )


def parse_kinds(column: str | None) -> frozenset[WarningKind]:
    """What stands in the column `warning_kinds`."""
    return frozenset(map(WarningKind, json.loads(column or "[]")))


class SanitizedText(TypeDecorator[str]):
    """A column of `replace_surrogates` text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else replace_surrogates(value)
