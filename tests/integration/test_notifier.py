"""Notifications over real HTTP and by a real command, through failures and restarts."""

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
from tests.conftest import PATIENCE_S, wait_until
from tests.ledgers import add_claimed_jobs, build_job, finish_job, open_ledger

ALL = ("job.completed", "job.failed", "batch.completed", "device.open")
SECRET = "hush"  # noqa: S105


@dataclass
class Receiver:
    """A web server that returns given statuses and records requests."""

    answers: list[int] = field(default_factory=list)  # of the next responses; then 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def list_types(self) -> list[str]:
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
class NotifierSetup:
    """A ledger, and a notifier that the test runs."""

    ledger: Ledger
    notifier: Notifier
    clock: ManualClock

    async def run_round(self) -> None:
        await self.notifier.run_once()
        for sender in self.notifier.senders:
            while await sender.run_once() == 0.0:
                pass

    async def query_deliveries(self) -> list[dict[str, Any]]:
        return query_readonly(
            self.ledger.path,
            "SELECT kind, status, attempts, error, target FROM deliveries ORDER BY id",
        )


@asynccontextmanager
async def open_notifier(
    folder: Path, clock: ManualClock | None = None, **notify: object
) -> AsyncIterator[NotifierSetup]:
    clock, hub = clock or ManualClock(), EventHub()
    inbox = InboxSettings(path=folder / "inbox", outbox=folder / "outbox")
    settings = Settings.model_validate({"inboxes": [inbox], "state": folder, "notify": notify})
    async with open_ledger(folder / "ledger.db", clock=clock, hub=hub) as ledger:
        notifier = Notifier(settings=settings, ledger=ledger, hub=hub, clock=clock)
        setup = NotifierSetup(ledger, notifier, clock)
        await setup.run_round()
        clock.advance(1)
        yield setup


def build_webhook_settings(receiver: Receiver, *kinds: str) -> dict[str, object]:
    return {"webhooks": [{"url": receiver.url, "secret": SECRET, "events": kinds or ALL}]}


async def complete_one_and_fail_one(ledger: Ledger) -> None:
    good, bad = await add_claimed_jobs(ledger, build_job("good.wav"), build_job("bad.wav"))
    await finish_job(ledger, good, " Hello")
    await ledger.write(fail_job, bad.id, bad.token, code="not_media", error="a letter")


async def test_each_event_is_posted_once(tmp_path: Path, receiver: Receiver) -> None:
    async with open_notifier(tmp_path, **build_webhook_settings(receiver)) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.ledger.write(
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
        await setup.run_round()
        assert receiver.list_types() == ["job.completed", "job.failed", "device.open"]
        setup.clock.advance(QUIET_S + 1)
        await setup.run_round()
        await setup.run_round()
        assert receiver.list_types()[3:] == ["batch.completed"]
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
    async with open_notifier(tmp_path, **build_webhook_settings(receiver)) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
        now = setup.clock.utc()
    headers, body = receiver.got[0]
    assert headers["webhook-timestamp"] == f"{now.timestamp():.0f}"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert headers["content-type"] == "application/json"


async def test_a_failed_delivery_is_retried_with_the_same_message(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answers = [500, 302]
    async with open_notifier(tmp_path, **build_webhook_settings(receiver, "job.failed")) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
        [delivery] = await setup.query_deliveries()
        assert (delivery["status"], delivery["attempts"]) == ("pending", 1)
        assert "500" in delivery["error"]
        assert SECRET not in delivery["target"]
        for _ in range(2):
            setup.clock.advance(100)
            await setup.run_round()
        [delivery] = await setup.query_deliveries()
        assert (delivery["status"], delivery["attempts"], delivery["error"]) == (
            "delivered",
            3,
            None,
        )
    assert len({(headers["webhook-id"], body) for headers, body in receiver.got}) == 1
    assert len({headers["webhook-signature"] for headers, _ in receiver.got}) == 3, (
        "each has its time"
    )


async def test_retries_end(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [503] * 3
    async with open_notifier(
        tmp_path, **build_webhook_settings(receiver, "job.failed"), give_up_hours=1
    ) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
        setup.clock.advance(2 * 3600)
        await setup.run_round()
        assert [row["status"] for row in await setup.query_deliveries()] == ["failed"]
        assert len(receiver.got) == 2
        list_deliveries = query_readonly(
            setup.ledger.path, "SELECT data FROM events WHERE kind = 'notice.failed'"
        )
        assert "503" in str(list_deliveries)


async def test_a_receiver_that_is_gone_gets_no_more(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [410]
    async with open_notifier(tmp_path, **build_webhook_settings(receiver, "job.failed")) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
        assert [row["status"] for row in await setup.query_deliveries()] == ["failed"]


async def test_deliveries_to_an_unreachable_receiver_survive_restarts(
    tmp_path: Path, receiver: Receiver
) -> None:
    clock = ManualClock()
    nowhere = receiver.url
    async with open_notifier(
        tmp_path, clock, **build_webhook_settings(receiver, "job.failed")
    ) as setup:
        receiver.answers = [500]
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
    clock.advance(100)
    async with open_notifier(
        tmp_path, clock, **build_webhook_settings(receiver, "job.failed")
    ) as setup:
        assert [row["status"] for row in await setup.query_deliveries()] == ["delivered"]
    assert nowhere in receiver.url
    assert len(receiver.got) == 2


async def test_events_before_a_kill_are_delivered_later(tmp_path: Path, receiver: Receiver) -> None:
    clock = ManualClock()
    async with open_notifier(tmp_path, clock, **build_webhook_settings(receiver)):
        pass
    async with open_ledger(
        tmp_path / "ledger.db", clock=clock
    ) as ledger:  # killed before the notifier's round
        await complete_one_and_fail_one(ledger)
    assert receiver.got == []
    clock.advance(QUIET_S + 1)
    async with open_notifier(tmp_path, clock, **build_webhook_settings(receiver)) as setup:
        await setup.run_round()
    assert sorted(receiver.list_types()) == ["batch.completed", "job.completed", "job.failed"]


async def test_a_new_target_gets_no_old_events(tmp_path: Path, receiver: Receiver) -> None:
    clock = ManualClock()
    async with open_notifier(tmp_path, clock) as setup:
        await complete_one_and_fail_one(setup.ledger)
        clock.advance(QUIET_S + 1)
        await setup.run_round()
        await setup.ledger.write(
            enqueue_deliveries,
            [],
            seq=await setup.ledger.read(find_newest_seq),
            until="2026-01-01T00:00:06.000Z",
        )
    async with open_notifier(tmp_path, clock, **build_webhook_settings(receiver)) as setup:
        await setup.run_round()
    assert receiver.got == []


async def test_a_batch_is_complete_when_no_more_files_arrive(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as setup:
        for name in ("a.wav", "b.wav"):
            [job] = await add_claimed_jobs(setup.ledger, build_job(name))
            await finish_job(setup.ledger, job, " Hello")
            setup.clock.advance(QUIET_S / 2)
            await setup.run_round()

        async def list_deliveries() -> list[dict[str, Any]]:
            return query_readonly(
                setup.ledger.path,
                "SELECT data ->> 'total' AS total FROM events WHERE kind = 'batch.completed'",
            )

        assert await list_deliveries() == []
        setup.clock.advance(QUIET_S)
        await setup.run_round()
        await setup.run_round()
        assert [row["total"] for row in await list_deliveries()] == [2]


async def test_the_service_delivers_by_itself(tmp_path: Path, receiver: Receiver) -> None:
    async with open_notifier(tmp_path, **build_webhook_settings(receiver, "job.failed")) as setup:
        await setup.notifier.start()
        await complete_one_and_fail_one(setup.ledger)
        await wait_until(lambda: receiver.got, "the message")
        await setup.notifier.stop()
        await setup.notifier.stop()


# --- apprise


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what apprise imports
async def test_apprise_reaches_a_service(tmp_path: Path, receiver: Receiver) -> None:
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    url = receiver.url.replace("http://", "json://")
    async with open_notifier(tmp_path, apprise=[url]) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
        assert [(row["kind"], row["status"]) for row in await setup.query_deliveries()] == [
            ("job.failed", "delivered")
        ]
        assert (await setup.query_deliveries())[0]["target"].startswith("apprise json ")
    [(_, body)] = receiver.got
    assert "bad.wav" in json.loads(body)["title"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what apprise imports
async def test_an_unknown_apprise_address_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    async with open_notifier(tmp_path, apprise=["nonsense"]) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
        [delivery] = await setup.query_deliveries()
        assert (delivery["status"], delivery["error"]) == (
            "pending",
            "apprise does not support this address",
        )


# --- secrets in addresses

QUOTING_RESPONSES = {
    "reason": b"HTTP/1.1 500 no such hook: /SECRET\r\ncontent-length: 0\r\n\r\n",
    "no HTTP": b"what is /SECRET?\r\n\r\n",
    "version": b"HTTP/9 /SECRET\r\n\r\n",
    "redirect": b"HTTP/1.1 302 see /SECRET\r\nlocation: /SECRET\r\ncontent-length: 0\r\n\r\n",
    "header": b"HTTP/1.1 500 X\r\nno header, but /SECRET\r\ncontent-length: 0\r\n\r\n/SECRET",
    "nothing": b"",
}


@contextmanager
def start_raw_receiver(answer: bytes) -> Iterator[int]:
    """Return a receiver that sends these bytes in response to one request. Yields its port."""
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


@pytest.mark.parametrize("answer", QUOTING_RESPONSES.values(), ids=QUOTING_RESPONSES.keys())
@pytest.mark.parametrize("scheme", ["http", "json"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what apprise imports
async def test_addresses_are_hidden_in_errors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scheme: str, answer: bytes
) -> None:
    if scheme == "json":
        pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    with start_raw_receiver(answer) as port, caplog.at_level(logging.DEBUG):
        url = f"{scheme}://user:PASSWORD@127.0.0.1:{port}/SECRET"
        target = {"apprise": [url]} if scheme == "json" else {"webhooks": [{"url": url}]}
        async with open_notifier(tmp_path, **target) as setup:
            await complete_one_and_fail_one(setup.ledger)
            await setup.notifier.run_once()
            await setup.notifier.senders[0].run_once()
            [first, *_] = await setup.query_deliveries()
    list_deliveries = caplog.text + json.dumps(first)
    assert (first["attempts"], bool(first["error"])) == (1, True)
    assert not [secret for secret in ("SECRET", "PASSWORD") if secret in list_deliveries]


# --- a command

KEEP_PROGRAM = """
import json, os, sys
given = {key: value for key, value in os.environ.items() if key.startswith("TRANSCRIPT_")}
open(sys.argv[1], "a").write(json.dumps([sys.argv[2:], given]) + "\\n")
"""


async def test_a_command_gets_the_fields_without_a_shell(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    name = "$(touch pwned) ; 'x'.wav"
    hook = [sys.executable, "-c", KEEP_PROGRAM, str(kept), "{job_id}", "{txt}", "{srt}", "{source}"]
    async with open_notifier(tmp_path, hook=hook) as setup:
        [job] = await add_claimed_jobs(setup.ledger, build_job(name))
        await finish_job(setup.ledger, job, " Hello")
        await setup.run_round()
        assert [(row["target"], row["status"]) for row in await setup.query_deliveries()] == [
            ("hook", "delivered")
        ]
    [line] = kept.read_text().splitlines()
    arguments, environment = json.loads(line)
    assert arguments == ["1", "/outbox/1.txt", "", str(tmp_path / "inbox" / name)]
    assert environment["TRANSCRIPT_LANGUAGE"] == "en"
    assert environment["TRANSCRIPT_BATCH"] == "talks"
    assert environment["TRANSCRIPT_TXT"] == "/outbox/1.txt"


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ([sys.executable, "-c", "import sys; sys.exit('no paper')"], "exit status 1: no paper"),
        (["/nowhere/command"], "cannot be run"),
    ],
)
async def test_a_failed_command_is_not_repeated(
    tmp_path: Path, hook: list[str], expected: str
) -> None:
    async with open_notifier(tmp_path, hook=hook) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
        [delivery] = await setup.query_deliveries()
        assert (delivery["status"], delivery["attempts"]) == ("failed", 1)
        assert expected in delivery["error"]


SLEEPING_PROGRAM = """
import subprocess, sys, os
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
child.wait()
"""


async def test_a_slow_command_is_killed_with_its_children(tmp_path: Path) -> None:
    kept = tmp_path / "pids"
    async with open_notifier(
        tmp_path, hook=[sys.executable, "-c", SLEEPING_PROGRAM, str(kept)], hook_timeout_s=10
    ) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
        [delivery] = await setup.query_deliveries()
        assert delivery["error"] == "it was killed after 10 s"
    pids = [int(pid) for pid in kept.read_text().split()]
    await wait_until(lambda: not any(map(_is_running, pids)), "the exit of both processes")


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


DAEMON_PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.integration.test_notifier import open_notifier
async def main():
    async with open_notifier(Path(sys.argv[1]), hook=[sys.executable, "-c", sys.argv[2], sys.argv[3]]) as setup:
        await setup.run_round()
asyncio.run(main())
"""


async def test_a_command_interrupted_by_a_kill_is_repeated(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with open_notifier(tmp_path, hook=["never-run"]) as setup:
        await complete_one_and_fail_one(setup.ledger)
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON_PROGRAM, str(tmp_path), SLEEPING_PROGRAM, str(pids)
    )
    await wait_until(
        lambda: pids.exists() and len(pids.read_text().split()) == 2, "the start of the command"
    )
    daemon.kill()
    await daemon.wait()
    for pid in pids.read_text().split():
        psutil.Process(int(pid)).kill()
    kept = tmp_path / "kept"
    async with open_notifier(
        tmp_path, hook=[sys.executable, "-c", KEEP_PROGRAM, str(kept)]
    ) as setup:
        assert [row["status"] for row in await setup.query_deliveries()] == ["delivered"]
    assert len(kept.read_text().splitlines()) == 1


FLOODING_PROGRAM = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
piece = b"x" * 65536
while True:
    os.write(2, piece)
"""


async def test_a_flood_of_error_output_blocks_neither_loop_nor_stop(
    tmp_path: Path,
) -> None:
    pid = tmp_path / "pid"
    async with open_notifier(
        tmp_path, hook=[sys.executable, "-c", FLOODING_PROGRAM, str(pid)], hook_timeout_s=600
    ) as setup:
        before = psutil.Process().memory_info().rss
        await setup.notifier.start()
        await complete_one_and_fail_one(setup.ledger)
        await wait_until(lambda: pid.exists() and pid.read_text(), "the start of the command")
        for _ in range(200):  # the event loop runs meanwhile
            await asyncio.sleep(0.001)
        assert psutil.Process().memory_info().rss - before < 100_000_000
        await asyncio.wait_for(setup.notifier.stop(), PATIENCE_S)
    await wait_until(lambda: not _is_running(int(pid.read_text())), "the command to be gone")


async def test_the_next_command_runs_after_a_flood(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    async with open_notifier(
        tmp_path, hook=[sys.executable, "-c", FLOODING_PROGRAM, str(pid)], hook_timeout_s=1
    ) as setup:
        for job in await add_claimed_jobs(setup.ledger, build_job("a.wav"), build_job("b.wav")):
            await finish_job(setup.ledger, job, " Hello")
        await setup.run_round()
        errors = [row["error"] for row in await setup.query_deliveries()]
        assert errors == ["it was killed after 1 s"] * 2


BACKGROUND_PROGRAM = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
"""


DETACHED_PROGRAM = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    child = os.fork()
    if child == 0:
        time.sleep(600)
    open(sys.argv[1], "w").write(str(child))
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(
    "program",
    [
        BACKGROUND_PROGRAM,
        pytest.param(
            DETACHED_PROGRAM,
            marks=pytest.mark.skipif(sys.platform == "win32", reason="forks"),
        ),
    ],
)
async def test_a_child_of_a_successful_command_is_ended(tmp_path: Path, program: str) -> None:
    pid = tmp_path / "pid"
    async with open_notifier(tmp_path, hook=[sys.executable, "-c", program, str(pid)]) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
        assert [row["status"] for row in await setup.query_deliveries()] == ["delivered"]
    await wait_until(lambda: not _is_running(int(pid.read_text())), "the child to be gone")


ENVIRONMENT_PROGRAM = """
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
    hook = [sys.executable, "-c", ENVIRONMENT_PROGRAM, str(kept)]
    async with open_notifier(tmp_path, hook=hook, hook_environment=["CRM_KEY"]) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
    environment = json.loads(kept.read_text())
    assert "hush" not in environment.values()
    assert environment["CRM_KEY"] == "for the command"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.skipif(sys.platform == "win32", reason="names are Unicode there")
async def test_a_command_gets_the_exact_bytes_of_a_name(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    names = "os.fsencode(sys.argv[2]) + os.environb[b'TRANSCRIPT_PATH']"
    program = f"import os, sys; open(sys.argv[1], 'wb').write({names})"
    async with open_notifier(
        tmp_path, hook=[sys.executable, "-c", program, str(kept), "{source}"]
    ) as setup:
        [job] = await add_claimed_jobs(setup.ledger, build_job(b"caf\xe9.wav"))
        await finish_job(setup.ledger, job, " Hello")
        await setup.run_round()
    assert kept.read_bytes() == os.fsencode(tmp_path / "inbox") + b"/caf\xe9.wav" + b"caf\xe9.wav"


# --- slow receivers


@pytest.fixture
def dripping_receiver() -> Iterator[str]:
    """A receiver that sends a header byte by byte and never ends it."""
    listener = socket.create_server(("127.0.0.1", 0))
    ending = threading.Event()

    def send_slowly(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nx-more: ")
            while not ending.wait(0.05):
                connection.sendall(b"x")

    def accept_connections() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(
                    target=send_slowly, args=(listener.accept()[0],), daemon=True
                ).start()

    threading.Thread(target=accept_connections, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    ending.set()
    listener.close()


async def test_slow_receivers_delay_no_other_work(tmp_path: Path, dripping_receiver: str) -> None:
    """There are more of them than threads in the shared executor."""
    urls = [f"{dripping_receiver}{number}" for number in range(40)]
    webhooks = [{"url": url, "events": ["job.failed"]} for url in urls]
    async with open_notifier(tmp_path, webhooks=webhooks) as setup:
        await setup.notifier.start()
        await complete_one_and_fail_one(setup.ledger)
        await wait_until(lambda: _count_threads("webhook") >= len(urls), "all requests")
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "work"), PATIENCE_S) == "work"
        await asyncio.wait_for(setup.notifier.stop(), PATIENCE_S)
        assert {row["status"] for row in await setup.query_deliveries()} == {"pending"}


async def test_a_slow_receiver_is_retried_after_the_deadline(
    tmp_path: Path, dripping_receiver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_targets, "WEBHOOK_S", 0.5)
    async with open_notifier(
        tmp_path, webhooks=[{"url": dripping_receiver, "events": ["job.failed"]}]
    ) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
        [delivery] = await setup.query_deliveries()
        assert (delivery["status"], delivery["error"]) == (
            "pending",
            "it did not answer within 0.5 s",
        )


def _count_threads(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


async def test_a_stop_ends_running_commands(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with open_notifier(
        tmp_path, hook=[sys.executable, "-c", SLEEPING_PROGRAM, str(pids)]
    ) as setup:
        await setup.notifier.start()
        await complete_one_and_fail_one(setup.ledger)
        await wait_until(
            lambda: pids.exists() and len(pids.read_text().split()) == 2, "the start of the command"
        )
        await asyncio.wait_for(setup.notifier.stop(), PATIENCE_S)
        assert [row["status"] for row in await setup.query_deliveries()] == ["pending"], (
            "the next start runs it again"
        )
    await wait_until(
        lambda: not any(_is_running(int(pid)) for pid in pids.read_text().split()),
        "the exit of both processes",
    )


async def test_a_login_in_the_address_is_sent_as_basic_authentication(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.url = receiver.url.replace("http://", "http://me:p%40ss%3Aword@")
    async with open_notifier(tmp_path, **build_webhook_settings(receiver)) as setup:
        await complete_one_and_fail_one(setup.ledger)
        await setup.run_round()
    headers, _ = receiver.got[0]
    assert headers["authorization"] == f"Basic {base64.b64encode(b'me:p@ss:word').decode()}"
    assert "@" not in headers["host"]
