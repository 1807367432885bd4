"""Others are told: over real HTTP, by a real command, through failures and restarts."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from speakeasyd.config import InboxSettings, Settings
from speakeasyd.domain.fault import FaultKind
from speakeasyd.domain.incidents import Incident, IncidentAction
from speakeasyd.events import EventHub
from speakeasyd.ledger.claims import fail_job
from speakeasyd.ledger.deliveries import enqueue_deliveries, find_newest_seq
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import open_incident
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.services import delivery_targets
from speakeasyd.services.notifier import QUIET_S, Notifier
from speakeasyd.testing import ManualClock
from tests.conftest import PATIENCE_S, eventually
from tests.ledgers import a_file, claimed, finish, opened

ALL = ("job.completed", "job.failed", "batch.completed", "device.open")
SECRET = "hush"  # noqa: S105


@dataclass
class Receiver:
    """A web server that answers as it is told, and keeps what it got."""

    answers: list[int] = field(default_factory=list)  # the next ones; then 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(
                ({name.lower(): value for name, value in self.headers.items()}, body)
            )
            status = receiver.answers.pop(0) if receiver.answers else 204
            self.send_response(status)
            if status == 302:
                self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    yield receiver
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Desk:
    """A ledger, and a notifier that is turned by hand."""

    ledger: Ledger
    notifier: Notifier
    clock: ManualClock

    async def turn(self) -> None:
        await self.notifier.run_once()
        for sender in self.notifier.senders:
            while await sender.run_once() == 0.0:
                pass

    async def deliveries(self) -> list[dict[str, Any]]:
        return query_readonly(
            self.ledger.path,
            "SELECT kind, status, attempts, error, target FROM deliveries ORDER BY id",
        )


@asynccontextmanager
async def desk(
    folder: Path, clock: ManualClock | None = None, **notify: object
) -> AsyncIterator[Desk]:
    clock, hub = clock or ManualClock(), EventHub()
    inbox = InboxSettings(path=folder / "inbox", outbox=folder / "outbox")
    settings = Settings.model_validate({"inboxes": [inbox], "state": folder, "notify": notify})
    async with opened(folder / "ledger.db", clock=clock, hub=hub) as ledger:
        notifier = Notifier(settings=settings, ledger=ledger, hub=hub, clock=clock)
        desk = Desk(ledger, notifier, clock)
        await desk.turn()
        clock.advance(1)
        yield desk


def web(receiver: Receiver, *kinds: str) -> dict[str, object]:
    return {"webhooks": [{"url": receiver.url, "secret": SECRET, "events": kinds or ALL}]}


async def one_done_one_failed(ledger: Ledger) -> None:
    good, bad = await claimed(ledger, a_file("good.wav"), a_file("bad.wav"))
    await finish(ledger, good, " Hello")
    await ledger.write(fail_job, bad.id, bad.token, code="not_media", error="a letter")


async def test_each_piece_of_news_is_posted_once(tmp_path: Path, receiver: Receiver) -> None:
    async with desk(tmp_path, **web(receiver)) as it:
        await one_done_one_failed(it.ledger)
        await it.ledger.write(
            open_incident,
            Incident(
                kind=FaultKind.DEVICE_GONE,
                phase="encode",
                device="cuda:0",
                worker="cuda-0",
                summary="Xid 79",
                action=IncidentAction.PROBE_DEVICE,
            ),
        )
        await it.turn()
        assert receiver.types() == ["job.completed", "job.failed", "device.open"]
        it.clock.advance(QUIET_S + 1)
        await it.turn()
        await it.turn()
        assert receiver.types()[3:] == ["batch.completed"]
    done, failed, device, batch = (json.loads(body)["data"] for _, body in receiver.got)
    assert done["artifacts"] == {"txt": "/outbox/1.txt"}
    assert (done["path"], done["language"], done["batch"]) == ("good.wav", "en", "talks")
    assert (failed["error_code"], failed["error"]) == ("not_media", "a letter")
    assert (device["device"], device["error"]) == ("cuda:0", "Xid 79")
    assert (batch["batch"], batch["total"], batch["completed"], batch["failed"]) == (
        "talks",
        2,
        1,
        1,
    )


async def test_messages_are_signed_with_their_time(tmp_path: Path, receiver: Receiver) -> None:
    async with desk(tmp_path, **web(receiver)) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
        now = it.clock.utc()
    headers, body = receiver.got[0]
    assert headers["webhook-timestamp"] == f"{now.timestamp():.0f}"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert headers["content-type"] == "application/json"


async def test_a_failure_is_tried_again_later_with_the_same_message(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answers = [500, 302]
    async with desk(tmp_path, **web(receiver, "job.failed")) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
        [delivery] = await it.deliveries()
        assert (delivery["status"], delivery["attempts"]) == ("pending", 1)
        assert "500" in delivery["error"]
        assert SECRET not in delivery["target"]
        for _ in range(2):
            it.clock.advance(100)
            await it.turn()
        [delivery] = await it.deliveries()
        assert (delivery["status"], delivery["attempts"], delivery["error"]) == (
            "delivered",
            3,
            None,
        )
    assert len({(headers["webhook-id"], body) for headers, body in receiver.got}) == 1
    assert len({headers["webhook-signature"] for headers, _ in receiver.got}) == 3, (
        "each has its time"
    )


async def test_nobody_is_asked_for_ever(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [503] * 3
    async with desk(tmp_path, **web(receiver, "job.failed"), give_up_hours=1) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
        it.clock.advance(2 * 3600)
        await it.turn()
        assert [row["status"] for row in await it.deliveries()] == ["failed"]
        assert len(receiver.got) == 2
        told = query_readonly(
            it.ledger.path, "SELECT data FROM events WHERE kind = 'notice.failed'"
        )
        assert "503" in str(told)


async def test_one_that_wants_no_more_is_left_alone(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [410]
    async with desk(tmp_path, **web(receiver, "job.failed")) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
        assert [row["status"] for row in await it.deliveries()] == ["failed"]


async def test_a_receiver_that_is_down_is_waited_for_over_restarts(
    tmp_path: Path, receiver: Receiver
) -> None:
    clock = ManualClock()
    nowhere = receiver.url
    async with desk(tmp_path, clock, **web(receiver, "job.failed")) as it:
        receiver.answers = [500]
        await one_done_one_failed(it.ledger)
        await it.turn()
    clock.advance(100)
    async with desk(tmp_path, clock, **web(receiver, "job.failed")) as it:
        assert [row["status"] for row in await it.deliveries()] == ["delivered"]
    assert nowhere in receiver.url
    assert len(receiver.got) == 2


async def test_what_happened_while_nobody_was_there_to_tell_it_is_told(
    tmp_path: Path, receiver: Receiver
) -> None:
    clock = ManualClock()
    async with desk(tmp_path, clock, **web(receiver)):
        pass
    async with opened(
        tmp_path / "ledger.db", clock=clock
    ) as ledger:  # killed before the notifier had a turn
        await one_done_one_failed(ledger)
    assert receiver.got == []
    clock.advance(QUIET_S + 1)
    async with desk(tmp_path, clock, **web(receiver)) as it:
        await it.turn()
    assert sorted(receiver.types()) == ["batch.completed", "job.completed", "job.failed"]


async def test_a_new_target_is_not_told_old_news(tmp_path: Path, receiver: Receiver) -> None:
    clock = ManualClock()
    async with desk(tmp_path, clock) as it:
        await one_done_one_failed(it.ledger)
        clock.advance(QUIET_S + 1)
        await it.turn()
        await it.ledger.write(
            enqueue_deliveries,
            [],
            seq=await it.ledger.read(find_newest_seq),
            until="2026-01-01T00:00:06.000Z",
        )
    async with desk(tmp_path, clock, **web(receiver)) as it:
        await it.turn()
    assert receiver.got == []


async def test_a_batch_is_done_when_nothing_more_comes_to_it(tmp_path: Path) -> None:
    async with desk(tmp_path) as it:
        for name in ("a.wav", "b.wav"):
            [job] = await claimed(it.ledger, a_file(name))
            await finish(it.ledger, job, " Hello")
            it.clock.advance(QUIET_S / 2)
            await it.turn()

        async def told() -> list[dict[str, Any]]:
            return query_readonly(
                it.ledger.path,
                "SELECT data ->> 'total' AS total FROM events WHERE kind = 'batch.completed'",
            )

        assert await told() == []
        it.clock.advance(QUIET_S)
        await it.turn()
        await it.turn()
        assert [row["total"] for row in await told()] == [2]


async def test_the_running_service_needs_no_turn_by_hand(
    tmp_path: Path, receiver: Receiver
) -> None:
    async with desk(tmp_path, **web(receiver, "job.failed")) as it:
        await it.notifier.start()
        await one_done_one_failed(it.ledger)
        await eventually(lambda: receiver.got, "the message")
        await it.notifier.stop()
        await it.notifier.stop()


# --- apprise


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what apprise imports
async def test_apprise_reaches_a_service(tmp_path: Path, receiver: Receiver) -> None:
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    url = receiver.url.replace("http://", "json://")
    async with desk(tmp_path, apprise=[url]) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
        assert [(row["kind"], row["status"]) for row in await it.deliveries()] == [
            ("job.failed", "delivered")
        ]
        assert (await it.deliveries())[0]["target"].startswith("apprise json ")
    [(_, body)] = receiver.got
    assert "bad.wav" in json.loads(body)["title"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what apprise imports
async def test_an_address_that_apprise_does_not_know_is_said(tmp_path: Path) -> None:
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    async with desk(tmp_path, apprise=["nonsense"]) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
        [delivery] = await it.deliveries()
        assert (delivery["status"], delivery["error"]) == (
            "pending",
            "apprise does not support this address",
        )


# --- secrets in addresses

QUOTING = {
    "reason": b"HTTP/1.1 500 no such hook: /SECRET\r\ncontent-length: 0\r\n\r\n",
    "no HTTP": b"what is /SECRET?\r\n\r\n",
    "version": b"HTTP/9 /SECRET\r\n\r\n",
    "redirect": b"HTTP/1.1 302 see /SECRET\r\nlocation: /SECRET\r\ncontent-length: 0\r\n\r\n",
    "header": b"HTTP/1.1 500 X\r\nno header, but /SECRET\r\ncontent-length: 0\r\n\r\n/SECRET",
    "nothing": b"",
}


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A receiver of one request that sends these bytes. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("answer", QUOTING.values(), ids=QUOTING.keys())
@pytest.mark.parametrize("scheme", ["http", "json"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what apprise imports
async def test_an_address_is_not_told_whatever_the_receiver_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scheme: str, answer: bytes
) -> None:
    if scheme == "json":
        pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    with answering(answer) as port, caplog.at_level(logging.DEBUG):
        url = f"{scheme}://user:PASSWORD@127.0.0.1:{port}/SECRET"
        target = {"apprise": [url]} if scheme == "json" else {"webhooks": [{"url": url}]}
        async with desk(tmp_path, **target) as it:
            await one_done_one_failed(it.ledger)
            await it.notifier.run_once()
            await it.notifier.senders[0].run_once()
            [first, *_] = await it.deliveries()
    told = caplog.text + json.dumps(first)
    assert (first["attempts"], bool(first["error"])) == (1, True)
    assert not [secret for secret in ("SECRET", "PASSWORD") if secret in told]


# --- a command

KEEP = """
import json, os, sys
told = {key: value for key, value in os.environ.items() if key.startswith("TRANSCRIPT_")}
open(sys.argv[1], "a").write(json.dumps([sys.argv[2:], told]) + "\\n")
"""


async def test_a_command_gets_the_fields_and_no_shell_sees_them(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    name = "$(touch pwned) ; 'x'.wav"
    hook = [sys.executable, "-c", KEEP, str(kept), "{job_id}", "{txt}", "{srt}", "{source}"]
    async with desk(tmp_path, hook=hook) as it:
        [job] = await claimed(it.ledger, a_file(name))
        await finish(it.ledger, job, " Hello")
        await it.turn()
        assert [(row["target"], row["status"]) for row in await it.deliveries()] == [
            ("hook", "delivered")
        ]
    [line] = kept.read_text().splitlines()
    arguments, environment = json.loads(line)
    assert arguments == ["1", "/outbox/1.txt", "", str(tmp_path / "inbox" / name)]
    assert environment["TRANSCRIPT_LANGUAGE"] == "en"
    assert environment["TRANSCRIPT_BATCH"] == "talks"
    assert environment["TRANSCRIPT_TXT"] == "/outbox/1.txt"


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ([sys.executable, "-c", "import sys; sys.exit('no paper')"], "exit status 1: no paper"),
        (["/nowhere/command"], "cannot be run"),
    ],
)
async def test_a_command_that_fails_is_not_run_again(
    tmp_path: Path, hook: list[str], said: str
) -> None:
    async with desk(tmp_path, hook=hook) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
        [delivery] = await it.deliveries()
        assert (delivery["status"], delivery["attempts"]) == ("failed", 1)
        assert said in delivery["error"]


SLEEPER = """
import subprocess, sys, os
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
child.wait()
"""


async def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    kept = tmp_path / "pids"
    async with desk(
        tmp_path, hook=[sys.executable, "-c", SLEEPER, str(kept)], hook_timeout_s=10
    ) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
        [delivery] = await it.deliveries()
        assert delivery["error"] == "it was killed after 10 s"
    pids = [int(pid) for pid in kept.read_text().split()]
    await eventually(lambda: not any(map(_runs, pids)), "both to be gone")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.integration.test_notifier import desk
async def main():
    async with desk(Path(sys.argv[1]), hook=[sys.executable, "-c", sys.argv[2], sys.argv[3]]) as it:
        await it.turn()
asyncio.run(main())
"""


async def test_a_command_that_was_cut_off_by_a_kill_is_run_again(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with desk(tmp_path, hook=["never-run"]) as it:
        await one_done_one_failed(it.ledger)
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, str(tmp_path), SLEEPER, str(pids)
    )
    await eventually(
        lambda: pids.exists() and len(pids.read_text().split()) == 2, "the command to run"
    )
    daemon.kill()
    await daemon.wait()
    for pid in pids.read_text().split():
        psutil.Process(int(pid)).kill()
    kept = tmp_path / "kept"
    async with desk(tmp_path, hook=[sys.executable, "-c", KEEP, str(kept)]) as it:
        assert [row["status"] for row in await it.deliveries()] == ["delivered"]
    assert len(kept.read_text().splitlines()) == 1


FLOOD = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
piece = b"x" * 65536
while True:
    os.write(2, piece)
"""


async def test_a_flood_of_error_output_holds_up_neither_the_loop_nor_the_stop(
    tmp_path: Path,
) -> None:
    pid = tmp_path / "pid"
    async with desk(
        tmp_path, hook=[sys.executable, "-c", FLOOD, str(pid)], hook_timeout_s=600
    ) as it:
        before = psutil.Process().memory_info().rss
        await it.notifier.start()
        await one_done_one_failed(it.ledger)
        await eventually(lambda: pid.exists() and pid.read_text(), "the command to run")
        for _ in range(200):  # the loop turns meanwhile
            await asyncio.sleep(0.001)
        assert psutil.Process().memory_info().rss - before < 100_000_000
        await asyncio.wait_for(it.notifier.stop(), PATIENCE_S)
    await eventually(lambda: not _runs(int(pid.read_text())), "the command to be gone")


async def test_after_a_flood_and_its_timeout_the_next_command_runs(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    async with desk(tmp_path, hook=[sys.executable, "-c", FLOOD, str(pid)], hook_timeout_s=1) as it:
        for job in await claimed(it.ledger, a_file("a.wav"), a_file("b.wav")):
            await finish(it.ledger, job, " Hello")
        await it.turn()
        errors = [row["error"] for row in await it.deliveries()]
        assert errors == ["it was killed after 1 s"] * 2


BACKGROUND = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
"""


async def test_a_command_that_leaves_a_child_behind_has_succeeded_and_the_child_ends(
    tmp_path: Path,
) -> None:
    pid = tmp_path / "pid"
    async with desk(tmp_path, hook=[sys.executable, "-c", BACKGROUND, str(pid)]) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
        assert [row["status"] for row in await it.deliveries()] == ["delivered"]
    await eventually(lambda: not _runs(int(pid.read_text())), "the child to be gone")


ALL_OF_IT = """
import json, os, sys
open(sys.argv[1], "w").write(json.dumps(dict(os.environ)))
"""


async def test_a_command_gets_no_secrets_of_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEAKEASYD_SERVER__TOKEN", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("CRM_KEY", "for the command")
    kept = tmp_path / "kept"
    hook = [sys.executable, "-c", ALL_OF_IT, str(kept)]
    async with desk(tmp_path, hook=hook, hook_environment=["CRM_KEY"]) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
    environment = json.loads(kept.read_text())
    assert "hush" not in environment.values()
    assert environment["CRM_KEY"] == "for the command"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.skipif(sys.platform == "win32", reason="names are Unicode there")
async def test_a_command_gets_the_exact_name_of_a_file_that_is_no_utf_8(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    names = "os.fsencode(sys.argv[2]) + os.environb[b'TRANSCRIPT_PATH']"
    program = f"import os, sys; open(sys.argv[1], 'wb').write({names})"
    async with desk(tmp_path, hook=[sys.executable, "-c", program, str(kept), "{source}"]) as it:
        [job] = await claimed(it.ledger, a_file(b"caf\xe9.wav"))
        await finish(it.ledger, job, " Hello")
        await it.turn()
    assert kept.read_bytes() == os.fsencode(tmp_path / "inbox") + b"/caf\xe9.wav" + b"caf\xe9.wav"


# --- receivers that never end


@pytest.fixture
def dripping() -> Iterator[str]:
    """A receiver that sends a byte of a header now and then, and never the end of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    ending = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nx-more: ")
            while not ending.wait(0.05):
                connection.sendall(b"x")

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    ending.set()
    listener.close()


async def test_receivers_that_drip_hold_up_no_other_work(tmp_path: Path, dripping: str) -> None:
    """More of them than the shared executor has threads."""
    urls = [f"{dripping}{number}" for number in range(40)]
    webhooks = [{"url": url, "events": ["job.failed"]} for url in urls]
    async with desk(tmp_path, webhooks=webhooks) as it:
        await it.notifier.start()
        await one_done_one_failed(it.ledger)
        await eventually(lambda: _count_threads("webhook") >= len(urls), "all of them to be called")
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "work"), PATIENCE_S) == "work"
        await asyncio.wait_for(it.notifier.stop(), PATIENCE_S)
        assert {row["status"] for row in await it.deliveries()} == {"pending"}


async def test_a_receiver_that_drips_is_given_up_after_the_deadline_and_tried_later(
    tmp_path: Path, dripping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_targets, "WEBHOOK_S", 0.5)
    async with desk(tmp_path, webhooks=[{"url": dripping, "events": ["job.failed"]}]) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
        [delivery] = await it.deliveries()
        assert (delivery["status"], delivery["error"]) == (
            "pending",
            "it did not answer within 0.5 s",
        )


def _count_threads(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


async def test_stopping_in_the_middle_leaves_no_command_behind(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with desk(tmp_path, hook=[sys.executable, "-c", SLEEPER, str(pids)]) as it:
        await it.notifier.start()
        await one_done_one_failed(it.ledger)
        await eventually(
            lambda: pids.exists() and len(pids.read_text().split()) == 2, "the command to run"
        )
        await asyncio.wait_for(it.notifier.stop(), PATIENCE_S)
        assert [row["status"] for row in await it.deliveries()] == ["pending"], (
            "the next start runs it again"
        )
    await eventually(
        lambda: not any(_runs(int(pid)) for pid in pids.read_text().split()), "both to be gone"
    )


async def test_a_login_in_the_address_is_sent_as_basic_authentication(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.url = receiver.url.replace("http://", "http://me:p%40ss%3Aword@")
    async with desk(tmp_path, **web(receiver)) as it:
        await one_done_one_failed(it.ledger)
        await it.turn()
    headers, _ = receiver.got[0]
    assert headers["authorization"] == f"Basic {base64.b64encode(b'me:p@ss:word').decode()}"
    assert "@" not in headers["host"]
