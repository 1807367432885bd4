"""Clients that hold connections open do not block other clients or files."""

import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from speakeasyd.server.connections import BODY_S, HEADER_S, connection_limit
from tests.conftest import PATIENCE_S, poll_until
from tests.serving_daemon import VOICE_MEMO, ServingDaemon, run_daemon

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform != "linux", reason="it takes prlimit"),
]

MAX_OPEN_FILES = 1024  # of the daemon, as soft and hard limit
HALF_OPEN_CONNECTIONS = 1100


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingDaemon]:
    with run_daemon(
        tmp_path_factory.mktemp("connections"),
        max_open_files=MAX_OPEN_FILES,
        SERVER__TOKEN="x" * 20,
    ) as daemon:
        daemon.client.headers["authorization"] = "Bearer " + "x" * 20
        yield daemon


def open_connection(daemon: ServingDaemon, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE_S)
    client.sendall(data)
    return client


def test_half_open_connections_block_neither_files_nor_clients(daemon: ServingDaemon) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < HALF_OPEN_CONNECTIONS + 200:
        pytest.skip("this process may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HALF_OPEN_CONNECTIONS + 200), hard))
    log_before = len(daemon.log)
    with ExitStack() as stack:
        for _ in range(HALF_OPEN_CONNECTIONS):
            stack.enter_context(
                closing(open_connection(daemon, b"GET /healthz HTTP/1.1\r\nhost: loc"))
            )
        (daemon.inbox / "dropped.flac").write_bytes(VOICE_MEMO.read_bytes())
        rows = poll_until(
            lambda: daemon.query_ledger(
                "SELECT job_id FROM job_status WHERE path = 'dropped.flac'"
            ),
            "the job",
        )
        assert daemon.client.get("/healthz").status_code == 200
        assert daemon.wait_for_job(rows[0]["job_id"])["status"] == "completed"
        assert len(daemon.log) - log_before < 10_000
    assert "out of system resource" not in daemon.log
    assert "Too many open files" not in daemon.log


@pytest.mark.parametrize(
    ("start", "limit_s"),
    [
        (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-", HEADER_S),
        (
            b"POST /api/v1/session HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999\r\n\r\n",
            BODY_S,
        ),
    ],
)
def test_a_client_that_sends_single_bytes_is_disconnected(
    daemon: ServingDaemon, start: bytes, limit_s: float
) -> None:
    """Each packet has one byte, so the time limit of a single read never expires."""
    began = time.monotonic()
    ended = threading.Event()
    with closing(open_connection(daemon, start)) as client:

        def send_slowly() -> None:
            while not ended.wait(0.2):
                try:
                    client.sendall(b"a")
                except OSError:
                    return

        dripping = threading.Thread(target=send_slowly)
        dripping.start()
        try:
            answer = client.recv(1000)
        finally:
            ended.set()
            dripping.join()
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began >= limit_s / 2


def test_the_rest_of_a_body_is_not_read_forever_after_the_response(daemon: ServingDaemon) -> None:
    with closing(
        open_connection(
            daemon, b"POST /api/v1/pause HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n"
        )
    ) as one:
        assert one.recv(1000).startswith(b"HTTP/1.1 401")
        poll_until(lambda: one.recv(1000) == b"", "the end of the connection")


@pytest.mark.parametrize(("files", "most"), [(1024, 256), (256, 64), (20, 16), (65536, 1000)])
def test_most_descriptors_are_reserved_for_work(files: int, most: int) -> None:
    assert connection_limit(files) == most


def test_connections_with_a_request_under_way_are_kept(daemon: ServingDaemon) -> None:
    """Neither a WebSocket nor a request under way is closed for a new connection."""
    with ExitStack() as stack:
        head = f"authorization: Bearer {'x' * 20}\r\n".encode()
        head += b"content-type: multipart/form-data; boundary=edge\r\n"
        begun = (
            b"POST /api/v1/batches HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n"
            + head
            + b"\r\n"
        )
        working = stack.enter_context(closing(open_connection(daemon, begun)))
        for _ in range(300):
            stack.enter_context(closing(open_connection(daemon, b"G")))
        assert daemon.client.get("/healthz").status_code == 200
        working.settimeout(0.5)
        with pytest.raises(TimeoutError):
            working.recv(1)
