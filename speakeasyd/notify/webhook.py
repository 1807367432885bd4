"""Webhooks, signed according to Standard Webhooks (https://www.standardwebhooks.com)."""

import base64
import binascii
import hashlib
import hmac
from datetime import datetime
from http.client import HTTPException, InvalidURL, RemoteDisconnected, responses
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from speakeasyd import __version__
from speakeasyd.domain.notifications import DeliveryFailed, DeliverySucceeded, Outcome

TIMEOUT_S = 10.0  # seconds for a receiver to answer
GONE = 410  # HTTP status: the receiver wants no more messages
_ENCODED = "whsec_"  # prefix of a secret in Base64


class _RefuseRedirects(HTTPRedirectHandler):
    """Refuses redirects: a message signed for one receiver is not sent to another."""

    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        return None


def post_message(
    url: str, *, secret: str | None, message_id: str, body: str, now: datetime
) -> Outcome:
    """Post a message. Blocks for `TIMEOUT_S` at most. Any 2xx status is a success."""
    payload = body.encode()
    headers = {
        "content-type": "application/json",
        "user-agent": f"speakeasyd/{__version__}",
        "webhook-id": message_id,
        "webhook-timestamp": f"{now.timestamp():.0f}",
    }
    if secret:
        headers["webhook-signature"] = sign_message(
            secret, message_id, headers["webhook-timestamp"], payload
        )
    url, login = _split_login(url)
    if login:
        headers["authorization"] = f"Basic {login}"
    request = Request(url, payload, headers, method="POST")  # noqa: S310 - the settings take http and https only
    try:
        with build_opener(_RefuseRedirects).open(request, timeout=TIMEOUT_S):
            return DeliverySucceeded()
    except HTTPError as error:
        error.close()
        # its own text may quote the address, which may hold a secret
        answer = f"{error.code} {responses.get(error.code, '')}".strip()
        return DeliveryFailed(f"it answered {answer}", final=error.code == GONE)
    except (InvalidURL, ValueError):  # their text quotes the address, which may hold a secret
        return DeliveryFailed("its address is not valid")
    except RemoteDisconnected:
        return DeliveryFailed("it closed the connection without an answer")
    except HTTPException as error:  # their text quotes the answer
        return DeliveryFailed(f"its answer is not HTTP ({type(error).__name__})")
    except OSError as error:
        return DeliveryFailed(f"it cannot be reached: {error}")


def _split_login(url: str) -> tuple[str, str | None]:
    """Split `user:password@` off an address. Returns the rest, and the basic authentication."""
    parts = urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = login.partition(":")
    plain = f"{unquote(user)}:{unquote(password)}".encode()
    return parts._replace(netloc=place).geturl(), base64.b64encode(plain).decode()


def sign_message(secret: str, message_id: str, timestamp: str, payload: bytes) -> str:
    """Return the signature: HMAC-SHA256 over id, time and payload, against changes and replays."""
    signed = hmac.new(
        _decode_secret(secret), f"{message_id}.{timestamp}.".encode() + payload, hashlib.sha256
    )
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


def _decode_secret(secret: str) -> bytes:
    if secret.startswith(_ENCODED):
        try:
            return base64.b64decode(secret.removeprefix(_ENCODED), validate=True)
        except binascii.Error:
            pass  # use the text itself as the secret
    return secret.encode()
