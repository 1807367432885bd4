"""Access control: host names, origins, the token, and headers for browsers."""

import json
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest
import websockets
from websockets.sync.client import connect

from speakeasyd.config import ServerSettings
from speakeasyd.server.guard import RequestGuard
from speakeasyd.server.wrong_tokens import ADDRESSES, LONGEST_DELAY_S, WrongTokens
from tests.conftest import poll_until
from tests.serving_daemon import ServingDaemon, run_daemon

pytestmark = pytest.mark.real
ENTRY = "a secret of tests, long enough"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingDaemon]:
    with run_daemon(tmp_path_factory.mktemp("guard")) as daemon:
        yield daemon


def connect_events(daemon: ServingDaemon) -> str:
    return f"ws://127.0.0.1:{daemon.port}/api/v1/events"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "", "[::1", "a b"]
)
def test_other_names_for_this_machine_are_refused(daemon: ServingDaemon, host: str) -> None:
    """A foreign DNS name for this machine would give its page our origin."""
    assert daemon.client.get("/api/v1/status", headers={"Host": host}).status_code in {400, 403}


def test_own_names_of_the_machine_are_accepted() -> None:
    guard = RequestGuard(
        lambda *_: None, ServerSettings(hosts=("Transcripts.example",)), WrongTokens()
    )  # type: ignore[arg-type, return-value]
    own = [
        "localhost",
        "127.0.0.1",
        "::1",
        "192.168.1.7",
        socket.gethostname().lower(),
        "transcripts.example",
    ]
    assert [name for name in own if not guard._is_own_host(name)] == []
    assert not guard._is_own_host("example")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_pages_of_other_sites_are_refused(daemon: ServingDaemon, origin: str) -> None:
    assert daemon.post("/pause", headers={"Origin": origin}).status_code == 403
    assert daemon.get("/status")["pauses"] == {}
    with pytest.raises(websockets.InvalidStatus):
        connect(connect_events(daemon), origin=websockets.Origin(origin))


OBSIDIAN = "app://obsidian.md"


@pytest.fixture(scope="module")
def token_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingDaemon]:
    """A daemon with a token, whose settings allow one desktop program."""
    settings = {"SERVER__ORIGINS": f'["{OBSIDIAN}"]', "SERVER__TOKEN": ENTRY}
    with run_daemon(tmp_path_factory.mktemp("friendly"), **settings) as daemon:
        yield daemon


def test_a_desktop_program_is_accepted_if_it_is_configured(token_daemon: ServingDaemon) -> None:
    asked = {"Origin": OBSIDIAN, "Access-Control-Request-Method": "POST"}
    asked |= {"Access-Control-Request-Headers": "authorization,content-type"}
    preflight = token_daemon.client.options("/v1/audio/transcriptions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == OBSIDIAN
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert "date" in preflight.headers
    entry = {"Origin": OBSIDIAN, "Authorization": f"Bearer {ENTRY}"}
    answered = token_daemon.client.get("/v1/models", headers=entry)
    assert answered.status_code == 200
    assert answered.headers["access-control-allow-origin"] == OBSIDIAN


def test_an_allowed_origin_still_needs_the_token(token_daemon: ServingDaemon) -> None:
    assert token_daemon.client.get("/v1/models", headers={"Origin": OBSIDIAN}).status_code == 401


@pytest.mark.parametrize("origin", ["app://obsidian.md.evil.example", "http://obsidian.md", "null"])
def test_origins_that_are_not_configured_are_refused(
    token_daemon: ServingDaemon, origin: str
) -> None:
    headers = {"Origin": origin, "Authorization": f"Bearer {ENTRY}"}
    answered = token_daemon.client.get("/v1/models", headers=headers)
    assert answered.status_code == 403
    assert "access-control-allow-origin" not in answered.headers


def test_requests_of_the_own_page_are_accepted(daemon: ServingDaemon) -> None:
    assert daemon.post("/resume", headers={"Origin": daemon.address}).status_code == 200
    with connect(connect_events(daemon), origin=websockets.Origin(daemon.address)) as events:
        assert events.recv()


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/api/v1/status", "/api/v1/jobs/99999", "/nowhere"]
)
def test_every_response_has_security_headers_and_the_time(daemon: ServingDaemon, path: str) -> None:
    asked_at = datetime.now(UTC).replace(microsecond=0)
    headers = daemon.client.get(path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert asked_at <= parsedate_to_datetime(headers["date"]) <= datetime.now(UTC)


def test_the_page_follows_its_content_security_policy(daemon: ServingDaemon) -> None:
    assert not re.search(
        r"<script(?![^>]* src=)|<style| style=|https?://", daemon.client.get("/").text
    )


def test_a_body_that_is_too_large_is_refused(daemon: ServingDaemon) -> None:
    assert (
        daemon.post("/pause", content=b'{"reason": "' + b"x" * 2_000_000 + b'"}').status_code == 413
    )


@pytest.fixture(scope="module")
def protected_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingDaemon]:
    settings = {"SERVER__TOKEN": ENTRY, "SERVER__HOST": "0.0.0.0"}  # noqa: S104
    with run_daemon(tmp_path_factory.mktemp("closed"), **settings) as daemon:
        yield daemon


@pytest.mark.parametrize(
    "path", ["/api/v1/status", "/metrics", "/v1/models", "/api/v1/openapi.json"]
)
def test_a_configured_token_is_required(protected_daemon: ServingDaemon, path: str) -> None:
    assert protected_daemon.client.get(path).status_code == 401
    assert (
        protected_daemon.client.get(path, headers={"Authorization": "Bearer guessed"}).status_code
        == 401
    )
    assert (
        protected_daemon.client.get(path, headers={"Authorization": f"Bearer {ENTRY}"}).status_code
        == 200
    )


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/healthz"])
def test_endpoints_without_information_need_no_token(
    protected_daemon: ServingDaemon, path: str
) -> None:
    assert protected_daemon.client.get(path).status_code == 200


def test_events_need_the_token(protected_daemon: ServingDaemon) -> None:
    with (
        connect(connect_events(protected_daemon)) as events,
        pytest.raises(websockets.ConnectionClosed) as refused,
    ):
        events.recv()
    assert refused.value.rcvd
    assert refused.value.rcvd.code == 4401


def test_the_token_cookie_is_hidden_from_scripts(protected_daemon: ServingDaemon) -> None:
    with httpx.Client(base_url=protected_daemon.address) as browser:
        assert browser.post("/api/v1/session", json={"token": "guessed"}).status_code == 401
        cookie = browser.post("/api/v1/session", json={"token": ENTRY}).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert ENTRY not in cookie
        assert browser.get("/api/v1/status").status_code == 200
    with connect(
        connect_events(protected_daemon), additional_headers={"Cookie": cookie.partition(";")[0]}
    ) as events:
        assert json.loads(events.recv())["type"] == "snapshot"


def test_a_public_address_without_a_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="token"):
        ServerSettings(host="0.0.0.0")  # noqa: S104


def test_wrong_tokens_are_logged_and_block_no_other_client(
    protected_daemon: ServingDaemon,
) -> None:
    assert (
        protected_daemon.client.get(
            "/healthz", headers={"Authorization": "Bearer wrong"}
        ).status_code
        == 401
    )
    assert protected_daemon.post("/session", json={"token": "wrong"}).status_code == 401
    poll_until(lambda: "wrong token from 127.0.0.1" in protected_daemon.log, "the log line")
    assert (
        protected_daemon.client.get(
            "/api/v1/status", headers={"Authorization": f"Bearer {ENTRY}"}
        ).status_code
        == 200
    )


def test_delays_after_wrong_tokens_grow_by_network() -> None:
    wrong = WrongTokens()
    delays = [wrong._compute_delay("192.0.2.1", float(now)) for now in range(10)]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY_S
    assert wrong._compute_delay("192.0.2.2", 10.0) == delays[0]
    assert wrong._compute_delay("192.0.2.1", 100_000.0) == delays[0]
    for number in range(2 * ADDRESSES):
        wrong._compute_delay(f"address {number}", 0.0)
    assert len(wrong._by_address) == ADDRESSES


def test_health_checks_without_a_token_reveal_nothing(protected_daemon: ServingDaemon) -> None:
    knows = {"Authorization": f"Bearer {ENTRY}"}
    protected_daemon.post("/pause", json={"reason": "private words"}, headers=knows)
    try:
        assert "private words" in protected_daemon.client.get("/readyz", headers=knows).text
        answer = protected_daemon.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["pause: person"] == "not ok"
    finally:
        protected_daemon.post("/resume", headers=knows)
    folder = protected_daemon.inbox.rename(protected_daemon.root / "elsewhere")
    try:
        poll_until(
            lambda: (
                str(protected_daemon.inbox)
                in protected_daemon.client.get("/healthz", headers=knows).text
            ),
            "the pause",
        )
        assert str(protected_daemon.root) not in protected_daemon.client.get("/healthz").text
    finally:
        folder.rename(protected_daemon.inbox)


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/healthz", "/api/v1/status", "/metrics", "/v1/models"]
)
def test_head_returns_the_headers_of_get(daemon: ServingDaemon, path: str) -> None:
    asked, head = daemon.client.get(path), daemon.client.head(path)
    assert (head.status_code, head.content) == (asked.status_code, b"")
    assert head.headers["content-type"] == asked.headers["content-type"]
    assert daemon.client.head("/api/v1/pause").status_code == 405
