"""Clients that hold connections open keep nobody else out, and no file waiting."""

import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from speakeasyd.server.connections import BODY_S, HEADER_S, connection_limit
from tests.served import MEMO, PATIENCE_S, Served, serving, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform != "linux", reason="it takes prlimit"),
]

FILES = 1024  # that the daemon may have open, hard limit included
HALF_OPEN = 1100


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(
        tmp_path_factory.mktemp("connections"), files=FILES, SERVER__TOKEN="x" * 20
    ) as served:
        served.client.headers["authorization"] = "Bearer " + "x" * 20
        yield served


def connect(served: Served, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE_S)
    client.sendall(data)
    return client


def test_half_open_connections_stop_neither_files_nor_clients(served: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < HALF_OPEN + 200:
        pytest.skip("this process may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HALF_OPEN + 200), hard))
    log_before = len(served.log)
    with ExitStack() as stack:
        for _ in range(HALF_OPEN):
            stack.enter_context(closing(connect(served, b"GET /healthz HTTP/1.1\r\nhost: loc")))
        (served.inbox / "dropped.flac").write_bytes(MEMO.read_bytes())
        rows = until(
            lambda: served.rows("SELECT job_id FROM job_status WHERE path = 'dropped.flac'"),
            "the job",
        )
        assert served.client.get("/healthz").status_code == 200
        assert served.ended(rows[0]["job_id"])["status"] == "completed"
        assert len(served.log) - log_before < 10_000
    assert "out of system resource" not in served.log
    assert "Too many open files" not in served.log


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
def test_a_client_that_drips_is_cut_off(served: Served, start: bytes, limit_s: float) -> None:
    """One byte with each packet: no time limit of a single read would ever end it."""
    began = time.monotonic()
    ended = threading.Event()
    with closing(connect(served, start)) as client:

        def drip() -> None:
            while not ended.wait(0.2):
                try:
                    client.sendall(b"a")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            answer = client.recv(1000)
        finally:
            ended.set()
            dripping.join()
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began >= limit_s / 2


def test_the_rest_of_an_answered_body_is_not_read_for_ever(served: Served) -> None:
    with closing(
        connect(
            served, b"POST /api/v1/pause HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n"
        )
    ) as one:
        assert one.recv(1000).startswith(b"HTTP/1.1 401")
        until(lambda: one.recv(1000) == b"", "the end of the connection")


@pytest.mark.parametrize(("files", "most"), [(1024, 256), (256, 64), (20, 16), (65536, 1000)])
def test_most_files_are_kept_for_the_work(files: int, most: int) -> None:
    assert connection_limit(files) == most


def test_connections_that_wait_for_an_answer_keep_their_place(served: Served) -> None:
    """Those of a WebSocket or of a request under way are not closed for new ones."""
    with ExitStack() as stack:
        head = f"authorization: Bearer {'x' * 20}\r\n".encode()
        head += b"content-type: multipart/form-data; boundary=edge\r\n"
        begun = (
            b"POST /api/v1/batches HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n"
            + head
            + b"\r\n"
        )
        working = stack.enter_context(closing(connect(served, begun)))
        for _ in range(300):
            stack.enter_context(closing(connect(served, b"G")))
        assert served.client.get("/healthz").status_code == 200
        working.settimeout(0.5)
        with pytest.raises(TimeoutError):
            working.recv(1)
