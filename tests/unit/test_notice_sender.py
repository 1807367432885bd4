"""Notices reach the daemon in their order, those that wait in one message."""

import threading
from collections.abc import Iterator
from itertools import chain
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from speakeasyd.cluster.messages import ModelKnown, Notices
from speakeasyd.cluster.notice_sender import NoticeSender

COUNT = 2000


@pytest.fixture
def pipe() -> Iterator[tuple[Connection, Connection]]:
    ours, theirs = Pipe()
    with ours, theirs:
        yield ours, theirs


def read_messages(conn: Connection, count: int) -> list[Notices]:
    """Read until there are `count` notices."""
    messages: list[Notices] = []
    while sum(len(message.notices) for message in messages) < count:
        messages.append(conn.recv())
    return messages


def test_notices_of_each_thread_keep_their_order(pipe: tuple[Connection, Connection]) -> None:
    ours, theirs = pipe
    sender = NoticeSender(ours)
    threads = [
        threading.Thread(
            target=lambda name=name: [sender.send(ModelKnown(name, str(n))) for n in range(COUNT)]
        )
        for name in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    messages = read_messages(theirs, 2 * COUNT)
    sender.close()
    received = list(chain.from_iterable(message.notices for message in messages))
    for name in ("one", "two"):
        hashes = [notice.sha256 for notice in received if notice.model == name]  # type: ignore[union-attr]
        assert hashes == [str(number) for number in range(COUNT)]


def test_a_busy_daemon_blocks_nobody_and_gets_what_waits_together(
    pipe: tuple[Connection, Connection],
) -> None:
    ours, theirs = pipe
    sender = NoticeSender(ours)
    for number in range(COUNT):  # more than the pipe can hold: nobody reads yet
        sender.send(ModelKnown("x" * 1000, str(number)))
    messages = read_messages(theirs, COUNT)
    sender.close()
    assert len(messages) < COUNT / 2


def test_closing_sends_what_waits(pipe: tuple[Connection, Connection]) -> None:
    ours, theirs = pipe
    sender = NoticeSender(ours)
    notice = ModelKnown("tiny", "abc")
    sender.send(notice)
    sender.close()
    assert theirs.recv() == Notices((notice,))
