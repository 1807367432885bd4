"""The log: formats, fields and wording."""

import io
import json
import logging
import os
from pathlib import Path
from string import Formatter
from typing import get_type_hints

import pytest

from speakeasyd import logs
from speakeasyd.config import LogSettings
from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.event_payloads import PAYLOADS
from speakeasyd.events import Event
from speakeasyd.log_repeats import CountingHandler

NOW = "2026-01-01T00:00:00.000Z"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def read_lines(stream: io.StringIO, **settings: object) -> io.StringIO:
    logs.configure_logging(LogSettings.model_validate(settings), stream=stream)
    return stream


def log_to_terminal(*events: Event, level: str = "info") -> list[str]:
    """Return the lines on a terminal, without times."""
    stream = read_lines(Terminal(), level=level)
    narrate = logs.EventLogger()
    for event in events:
        narrate(event)
    return [line.partition(" ")[2] for line in stream.getvalue().splitlines()]


def build_event(kind: str, job_id: int | None = None, /, **data: object) -> Event:
    return Event(kind=EventKind(kind), at=NOW, job_id=job_id, data=data)


def test_a_terminal_gets_lines_and_everything_else_json() -> None:
    terminal, pipe = read_lines(Terminal()), io.StringIO()
    logging.getLogger("speakeasyd.x").info("hello")
    assert terminal.getvalue().endswith(" info     hello\n")
    read_lines(pipe)
    logging.getLogger("speakeasyd.x").warning("hello", extra={"job": 7})
    line = json.loads(pipe.getvalue())
    assert (line["level"], line["logger"], line["job"], line["message"]) == (
        "warning",
        "speakeasyd.x",
        7,
        "hello",
    )
    assert line["at"].endswith("Z")


def test_the_format_can_be_forced() -> None:
    pipe, terminal = read_lines(io.StringIO(), format="human"), Terminal()
    logging.getLogger("speakeasyd").info("hello")
    assert pipe.getvalue().endswith("hello\n")
    read_lines(terminal, format="json")
    logging.getLogger("speakeasyd").info("hello")
    assert json.loads(terminal.getvalue())["message"] == "hello"


def test_the_job_is_on_every_line_inside() -> None:
    stream = read_lines(Terminal())
    with logs.log_job(12):
        logging.getLogger("speakeasyd.deep.down").info("hello")
    logging.getLogger("speakeasyd").info("hello")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("info     job 12  hello")
    assert "job" not in second


def test_libraries_log_warnings_and_errors() -> None:
    stream = read_lines(Terminal(), level="debug")
    logging.getLogger("alembic").info("chatter")
    logging.getLogger("alembic").warning("trouble")
    logging.getLogger("speakeasyd").debug("detail")
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == ["trouble", "detail"]


def test_the_level_can_change_at_run_time() -> None:
    stream = read_lines(Terminal(), level="error")
    logging.getLogger("speakeasyd").info("unheard")
    logs.set_level(LogSettings(level="info"))
    logging.getLogger("speakeasyd").info("heard")
    assert "heard" in stream.getvalue()
    assert "unheard" not in stream.getvalue()


def test_an_exception_has_its_trace_in_both_formats() -> None:
    for stream in (read_lines(Terminal()), read_lines(io.StringIO())):
        logs.configure_logging(LogSettings(), stream=stream)
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logging.getLogger("speakeasyd").exception("it failed")
        assert "ZeroDivisionError: " in stream.getvalue()


def test_a_file_name_cannot_forge_a_line() -> None:
    [line] = log_to_terminal(build_event("job.added", 1, path="a\n12:00:00 error evil\x1b[2J.mp3"))
    assert line == r"info     job 1  new: a\n12:00:00 error evil\x1b[2J.mp3"


def test_lines_of_a_job() -> None:
    assert log_to_terminal(
        build_event("job.added", 1, path="talk.mp3", inbox="inbox"),
        build_event("job.claimed", 1, path="talk.mp3", attempt=1),
        build_event("chunk.done", 1, chunk=0, end=12.34, progress=0.5),
        build_event("job.completed", 1, artifacts=["talk.txt", "talk.srt"]),
    ) == [
        "info     job 1  new: talk.mp3",
        "info     job 1  started: talk.mp3, attempt 1",
        "info     job 1  completed: talk.mp3 -> talk.txt, talk.srt",
    ]


def test_debug_logs_every_chunk_and_field() -> None:
    assert log_to_terminal(
        build_event("chunk.done", 1, chunk=0, end=12.34, gap=False, progress=0.5),
        build_event("job.noted", 1, model="{long}", device=None),
        level="debug",
    ) == ["debug    job 1  chunk 0 is done, up to 12.3 s", "debug    job 1  updated: model {long}"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            build_event("job.failed", 2, error_code="not_media", error="it is text"),
            "failed (not_media): : it is text",
        ),
        (
            build_event("queue.paused", cause="outbox", reason="the disk is full"),
            "paused (outbox): the disk is full",
        ),
        (build_event("chunk.struck", 2, chunk=3, strikes=1), "a worker died on chunk 3, strike 1"),
        (
            build_event(
                "incident.opened",
                kind="hang",
                device="cuda:0",
                phase="encode",
                error="silence",
                action="restart",
            ),
            "cuda:0 failed: silence; restart",
        ),
    ],
)
def test_faults_are_warnings(event: Event, expected: str) -> None:
    [line] = log_to_terminal(event)
    assert line.startswith("warning ")
    assert line.endswith(expected)


def test_a_missing_reason_is_left_out() -> None:
    [line] = log_to_terminal(build_event("job.released", 2, path="talk.mp3", error=None))
    assert line.endswith("returned to the queue: talk.mp3")


def test_events_are_json_with_their_data() -> None:
    stream = read_lines(io.StringIO())
    logs.EventLogger()(build_event("job.failed", 2, error_code="poison", error="x"))
    line = json.loads(stream.getvalue())
    assert (line["event"], line["job"], line["data"]["error_code"]) == ("job.failed", 2, "poison")


def test_every_kind_of_event_has_a_wording() -> None:
    """A kind without a wording could not be logged."""
    assert set(logs.WORDS) == set(EventKind)
    for kind, wording in logs.WORDS.items():
        names = {name for _, name, _, _ in Formatter().parse(wording.text) if name}
        known = set(get_type_hints(PAYLOADS[kind])) | {"path", "rest"}
        assert names <= known, kind


def test_repeated_lines_are_counted() -> None:
    stream, now = io.StringIO(), [0.0]
    handler = CountingHandler(stream, monotonic=lambda: now[0])
    logger = logging.Logger("test")  # noqa: LOG001 - known to nobody else
    logger.addHandler(handler)
    for port in range(1000):
        logger.error("socket.accept() out of system resource, fd=%d, ('127.0.0.1', %d)", port, port)
        logger.info("new: a.wav")
    logger.info("new: b.wav")
    assert stream.getvalue().count("\n") == 3
    now[0] += 31.0
    logger.info("new: c.wav")
    lines = stream.getvalue().splitlines()
    assert lines[3].startswith("999 times more: socket.accept()")
    assert lines[4:] == ["999 times more: new: a.wav", "new: c.wav"]
    logger.info("new: c.wav")
    handler.close()
    assert stream.getvalue().splitlines()[-1] == "once more: new: c.wav"


def test_remembered_lines_are_bounded() -> None:
    stream = io.StringIO()
    logger = logging.Logger("test")  # noqa: LOG001 - known to nobody else
    logger.addHandler(handler := CountingHandler(stream))
    for number in range(5000):
        logger.info("line %d", number)
    assert len(handler._seen) <= 1000
    assert stream.getvalue().count("\n") == 5000


def test_a_reload_reports_that_nothing_needs_a_restart() -> None:
    stream = read_lines(Terminal(), format="human")
    data = {"now": ["log.level", "watch.settle_s"], "restart": []}
    logs.EventLogger()(Event(kind="config.reloaded", at=NOW, data=data))
    expected = stream.getvalue()
    assert "changed now: log.level, watch.settle_s; needs a restart: nothing" in expected


def test_lines_for_the_journal_have_a_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        logs.configure_logging(LogSettings(format="human"), stream=stream)
        logging.getLogger("speakeasyd").warning("look")
        logging.getLogger("speakeasyd").info("fine")
        stream.seek(0)
        assert [line[:3] for line in stream] == ["<4>", "<6>"]
