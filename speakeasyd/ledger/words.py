"""Text that any database and any reader can take: file names, and so error messages, need not be Unicode."""

import json

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator


def plain(text: str) -> str:
    """Without surrogates, by which Python carries undecodable bytes: they are written out, as in `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_json(value: object) -> str:
    """JSON without surrogates: they become question marks, since an escape would only hide them until it is read."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()


class PlainText(TypeDecorator[str]):
    """A column of `plain` text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else plain(value)
