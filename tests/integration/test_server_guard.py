"""Who may ask: names of the machine, pages of other sites, the token; and what a browser may do with an answer."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets
from websockets.sync.client import connect

from speakeasyd.config import ServerSettings
from speakeasyd.server.guard import RequestGuard
from speakeasyd.server.wrong_tokens import ADDRESSES, LONGEST_DELAY_S, WrongTokens
from tests.served import Served, serving, until

pytestmark = pytest.mark.real
ENTRY = "a secret of tests, long enough"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("guard")) as served:
        yield served


def events(served: Served) -> str:
    return f"ws://127.0.0.1:{served.port}/api/v1/events"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "", "[::1", "a b"]
)
def test_other_names_for_this_machine_are_refused(served: Served, host: str) -> None:
    """A name that someone else's DNS gives to this machine would make their page ours."""
    assert served.client.get("/api/v1/status", headers={"Host": host}).status_code in {400, 403}


def test_the_machine_may_be_called_by_its_own_names() -> None:
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
def test_pages_of_other_sites_are_refused(served: Served, origin: str) -> None:
    assert served.post("/pause", headers={"Origin": origin}).status_code == 403
    assert served.get("/status")["pauses"] == {}
    with pytest.raises(websockets.InvalidStatus):
        connect(events(served), origin=websockets.Origin(origin))


OBSIDIAN = "app://obsidian.md"


@pytest.fixture(scope="module")
def friendly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon with a token, whose settings allow one desktop program."""
    settings = {"SERVER__ORIGINS": f'["{OBSIDIAN}"]', "SERVER__TOKEN": ENTRY}
    with serving(tmp_path_factory.mktemp("friendly"), **settings) as served:
        yield served


def test_a_desktop_program_may_ask_if_the_settings_say_so(friendly: Served) -> None:
    asked = {"Origin": OBSIDIAN, "Access-Control-Request-Method": "POST"}
    asked |= {"Access-Control-Request-Headers": "authorization,content-type"}
    preflight = friendly.client.options("/v1/audio/transcriptions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == OBSIDIAN
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    entry = {"Origin": OBSIDIAN, "Authorization": f"Bearer {ENTRY}"}
    answered = friendly.client.get("/v1/models", headers=entry)
    assert answered.status_code == 200
    assert answered.headers["access-control-allow-origin"] == OBSIDIAN


def test_an_allowed_origin_still_needs_the_token(friendly: Served) -> None:
    assert friendly.client.get("/v1/models", headers={"Origin": OBSIDIAN}).status_code == 401


@pytest.mark.parametrize("origin", ["app://obsidian.md.evil.example", "http://obsidian.md", "null"])
def test_other_origins_are_refused_all_the_same(friendly: Served, origin: str) -> None:
    headers = {"Origin": origin, "Authorization": f"Bearer {ENTRY}"}
    answered = friendly.client.get("/v1/models", headers=headers)
    assert answered.status_code == 403
    assert "access-control-allow-origin" not in answered.headers


def test_its_own_page_is_not(served: Served) -> None:
    assert served.post("/resume", headers={"Origin": served.address}).status_code == 200
    with connect(events(served), origin=websockets.Origin(served.address)) as told:
        assert told.recv()


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/api/v1/status", "/api/v1/jobs/99999", "/nowhere"]
)
def test_every_answer_says_what_a_browser_may_do_with_it(served: Served, path: str) -> None:
    headers = served.client.get(path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_needs_nothing_that_the_policy_forbids(served: Served) -> None:
    assert not re.search(
        r"<script(?![^>]* src=)|<style| style=|https?://", served.client.get("/").text
    )


def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    assert (
        served.post("/pause", content=b'{"reason": "' + b"x" * 2_000_000 + b'"}').status_code == 413
    )


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = {"SERVER__TOKEN": ENTRY, "SERVER__HOST": "0.0.0.0"}  # noqa: S104
    with serving(tmp_path_factory.mktemp("closed"), **settings) as served:
        yield served


@pytest.mark.parametrize(
    "path", ["/api/v1/status", "/metrics", "/v1/models", "/api/v1/openapi.json"]
)
def test_with_a_token_it_must_be_shown(closed: Served, path: str) -> None:
    assert closed.client.get(path).status_code == 401
    assert closed.client.get(path, headers={"Authorization": "Bearer guessed"}).status_code == 401
    assert closed.client.get(path, headers={"Authorization": f"Bearer {ENTRY}"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/healthz"])
def test_what_tells_nothing_is_open(closed: Served, path: str) -> None:
    assert closed.client.get(path).status_code == 200


def test_events_too_need_the_token(closed: Served) -> None:
    with connect(events(closed)) as told, pytest.raises(websockets.ConnectionClosed) as refused:
        told.recv()
    assert refused.value.rcvd
    assert refused.value.rcvd.code == 4401


def test_a_browser_keeps_it_where_no_script_reads_it(closed: Served) -> None:
    with httpx.Client(base_url=closed.address) as browser:
        assert browser.post("/api/v1/session", json={"token": "guessed"}).status_code == 401
        cookie = browser.post("/api/v1/session", json={"token": ENTRY}).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert ENTRY not in cookie
        assert browser.get("/api/v1/status").status_code == 200
    with connect(events(closed), additional_headers={"Cookie": cookie.partition(";")[0]}) as told:
        assert json.loads(told.recv())["type"] == "snapshot"


def test_nobody_listens_to_the_world_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="token"):
        ServerSettings(host="0.0.0.0")  # noqa: S104


def test_wrong_tokens_are_logged_with_their_sender_and_keep_nobody_out(closed: Served) -> None:
    assert (
        closed.client.get("/healthz", headers={"Authorization": "Bearer wrong"}).status_code == 401
    )
    assert closed.post("/session", json={"token": "wrong"}).status_code == 401
    until(lambda: "wrong token from 127.0.0.1" in closed.log, "the log line")
    assert (
        closed.client.get(
            "/api/v1/status", headers={"Authorization": f"Bearer {ENTRY}"}
        ).status_code
        == 200
    )


def test_each_wrong_token_from_one_network_waits_longer() -> None:
    wrong = WrongTokens()
    delays = [wrong._compute_delay("192.0.2.1", float(now)) for now in range(10)]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY_S
    assert wrong._compute_delay("192.0.2.2", 10.0) == delays[0]
    assert wrong._compute_delay("192.0.2.1", 100_000.0) == delays[0]
    for number in range(2 * ADDRESSES):
        wrong._compute_delay(f"address {number}", 0.0)
    assert len(wrong._by_address) == ADDRESSES


def test_a_probe_without_the_token_hears_no_folders_and_no_words(closed: Served) -> None:
    knows = {"Authorization": f"Bearer {ENTRY}"}
    closed.post("/pause", json={"reason": "private words"}, headers=knows)
    try:
        assert "private words" in closed.client.get("/readyz", headers=knows).text
        told = closed.client.get("/readyz")
        assert told.status_code == 503
        assert told.json()["checks"]["pause: person"] == "not ok"
    finally:
        closed.post("/resume", headers=knows)
    folder = closed.inbox.rename(closed.root / "elsewhere")
    try:
        until(
            lambda: str(closed.inbox) in closed.client.get("/healthz", headers=knows).text,
            "the pause",
        )
        assert str(closed.root) not in closed.client.get("/healthz").text
    finally:
        folder.rename(closed.inbox)


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/healthz", "/api/v1/status", "/metrics", "/v1/models"]
)
def test_head_is_get_without_a_body(served: Served, path: str) -> None:
    asked, head = served.client.get(path), served.client.head(path)
    assert (head.status_code, head.content) == (asked.status_code, b"")
    assert head.headers["content-type"] == asked.headers["content-type"]
    assert served.client.head("/api/v1/pause").status_code == 405
