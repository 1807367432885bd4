"""Idempotency keys: an upload that is sent again is not done again.

The header is that of https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from starlette.requests import Request

from speakeasyd.domain.uploads import OWN_KEY
from speakeasyd.server.error_answers import RequestRefused
from speakeasyd.server.multipart import ReceivedFile

HEADER = "idempotency-key"
LONGEST = 255  # characters of a key

KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST},
    "description": "The same upload with the same key gets the same jobs, for a day.",
}
"""Of the schema."""


class UploadKeys:
    """The keys of the requests that are in progress."""

    def __init__(self) -> None:
        self._in_use: set[str] = set()

    @contextmanager
    def hold(self, request: Request) -> Iterator[str]:
        """Yield the key of a request; without a header, a new one.

        Raises RequestRefused: 400 for an invalid key, 409 while a request with this key runs.
        """
        key = _read_key(request)
        if key in self._in_use:
            raise RequestRefused(
                409, "an upload with this Idempotency-Key is in progress", hint="Retry later."
            )
        self._in_use.add(key)
        try:
            yield key
        finally:
            self._in_use.discard(key)


def _read_key(request: Request) -> str:
    header = request.headers.get(HEADER)
    if header is None:
        return OWN_KEY + secrets.token_hex(16)
    text = header.strip().removeprefix('"').removesuffix('"')
    if not text or len(text) > LONGEST or not text.isprintable():
        raise RequestRefused(400, f"Idempotency-Key must have 1 to {LONGEST} printable characters")
    return f"key {text}"


def compute_fingerprint(
    inbox: str, changes: Mapping[str, object], folders: Sequence[str], files: Sequence[ReceivedFile]
) -> str:
    """Return a hash of all that a client sent, names and bytes of the files included."""
    sent = [inbox, dict(changes), list(folders), [(one.name, one.sha256) for one in files]]
    text = json.dumps(sent, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
