"""Access control, applied to every request before routing."""

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speakeasyd.config import ServerSettings
from speakeasyd.server.error_answers import build_error
from speakeasyd.server.wrong_tokens import WrongTokens

COOKIE = "speakeasyd"
BODY_LIMIT = 1 << 20  # bytes of a request that is no upload
UPLOADS = (
    "/api/v1/batches",
    "/api/v1/people/samples",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
)
OPEN = ("/", "/healthz", "/readyz", "/api/v1/session")
"""Open without a token: the page, which then asks for it, and probes, which give only a status."""
TRUSTED = "speakeasyd.trusted"  # in the scope: whether the client knows the token, if there is one
IS_HEAD = "speakeasyd.is_head"  # in the scope: the request is HEAD, and handled as GET
TOKEN_NEEDED = 4401  # the code that a WebSocket is closed with

_POLICY = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class RequestGuard:
    """Refuses foreign host names (DNS rebinding), foreign origins, missing tokens and large bodies."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, wrong_tokens: WrongTokens) -> None:
        self._app = app
        self._wrong_tokens = wrong_tokens
        self._names = _collect_own_names(settings)
        self._origins = frozenset(settings.origins)
        self._upload_limit = settings.upload_mb * 1_000_000
        self._token = settings.token.get_secret_value() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        asked, send = HTTPConnection(scope), _add_security_headers(scope, send)
        if problem := self._find_foreign_origin(asked):
            await _send_refusal(scope, receive, send, 403, problem)
            return
        knows_token = self._knows_token(asked)
        if not knows_token and _read_bearer_token(asked) is not None:
            await self._wrong_tokens.record_failure(peer(asked))
            await _send_refusal(scope, receive, send, 401, "wrong token")
        elif not (knows_token or self._is_open(scope["path"])):
            await _send_refusal(scope, receive, send, 401, "a token is required")
        else:
            scope[TRUSTED] = knows_token
            if (
                scope.get("method") == "HEAD"
            ):  # every answer to GET has one to HEAD; the server leaves out its body
                scope = {**scope, "method": "GET", IS_HEAD: True}
            limit = self._upload_limit if scope["path"] in UPLOADS else BODY_LIMIT
            limited = _limit_body(receive, limit)
            if scope.get("method") in {"GET", "HEAD"}:
                await _until_gone(self._app, scope, limited, send)
            else:
                await self._app(scope, limited, send)

    def _find_foreign_origin(self, asked: HTTPConnection) -> str | None:
        host = asked.headers.get("host", "")
        if not self._is_own_host(_strip_port(host)):
            return f"unknown host name {_strip_port(host)[:80]!r}; add it to server.hosts"
        origin = asked.headers.get("origin")
        if origin is None or origin.lower() in self._origins:
            return None
        if origin.partition("://")[2].lower() != host.lower():
            return "the request comes from another site"
        return None

    def _is_own_host(self, name: str) -> bool:
        """Return whether the Host is ours. IP addresses are: DNS rebinding needs a name."""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def _is_open(self, path: str) -> bool:
        return path in OPEN or path.startswith("/static/")

    def _knows_token(self, asked: HTTPConnection) -> bool:
        """Return whether the request has the token; True if none is configured."""
        if self._token is None:
            return True
        if (credential := _read_bearer_token(asked)) is not None:
            return compare_constant_time(credential, self._token)
        return compare_constant_time(
            asked.cookies.get(COOKIE, "").encode("latin-1"), derive_session(self._token)
        )


def peer(asked: HTTPConnection) -> str:
    """Return the address of the client."""
    return asked.client.host if asked.client else "an unknown address"


def _read_bearer_token(asked: HTTPConnection) -> bytes | None:
    """Return the bearer token of the header, or None."""
    scheme, _, credential = asked.headers.get("authorization", "").partition(" ")
    return credential.strip().encode("latin-1") if scheme.lower() == "bearer" else None


def derive_session(token: str) -> str:
    """Return the value of the session cookie: a keyed hash, which does not reveal the token."""
    return hmac.new(token.encode(), b"speakeasyd session", hashlib.sha256).hexdigest()


def compare_constant_time(credential: bytes, secret: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(credential, secret.encode())


def _collect_own_names(settings: ServerSettings) -> frozenset[str]:
    machine = socket.gethostname().lower()
    names = ["localhost", machine, machine.partition(".")[0], settings.host, *settings.hosts]
    return frozenset(name.lower().rstrip(".") for name in names)


def _strip_port(host: str) -> str:
    """Return a Host header without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _limit_body(receive: Receive, limit: int) -> Receive:
    """Wrap `receive`: it raises HTTPException 413 once the body exceeds the limit."""
    read = 0

    async def receive_some() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise HTTPException(413, f"more than {limit} bytes")
        return message

    return receive_some


async def _until_gone(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the application; cancel it when the client disconnects."""
    first = await receive()
    if first["type"] != "http.request" or first.get("more_body"):
        await app(scope, _beginning_with(first, receive), send)
        return
    gone = asyncio.ensure_future(_until_disconnected(receive))
    answering = asyncio.ensure_future(app(scope, _beginning_with(first, _receive_from(gone)), send))
    try:
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            answering.result()
    finally:
        for task in (answering, gone):
            task.cancel()
        await asyncio.gather(answering, gone, return_exceptions=True)


async def _until_disconnected(receive: Receive) -> Message:
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message


def _receive_from(message: asyncio.Future[Message]) -> Receive:
    async def receive() -> Message:
        return await asyncio.shield(message)

    return receive


def _beginning_with(first: Message, receive: Receive) -> Receive:
    is_passed_on = False

    async def receive_next() -> Message:
        nonlocal is_passed_on
        if is_passed_on:
            return await receive()
        is_passed_on = True
        return first

    return receive_next


def _add_security_headers(scope: Scope, send: Send) -> Send:
    async def send_guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_POLICY)
            is_revalidated = scope["path"].startswith("/static/")  # browsers revalidate it
            headers.setdefault("Cache-Control", "no-cache" if is_revalidated else "no-store")
        await send(message)

    return send_guarded


async def _send_refusal(scope: Scope, receive: Receive, send: Send, status: int, what: str) -> None:
    if scope["type"] == "http":
        await build_error(status, what)(scope, receive, send)
        return
    await receive()
    if status == 401:  # a browser's script can see the code only of a connection that was open
        await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": TOKEN_NEEDED, "reason": what})
