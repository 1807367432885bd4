"""A bar appears for what takes long, on a terminal only."""

import io
import logging
import sys

import pytest

from speakeasyd.cli.progress import show_progress
from speakeasyd.cli.run import log_folders
from speakeasyd.config.loading import combine_sources


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "delay_s", "shown"),
    [(Terminal(), 0.0, True), (Terminal(), 3600.0, False), (io.StringIO(), 0.0, False)],
)
def test_the_bar(
    stream: io.StringIO, delay_s: float, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    with show_progress("copying", delay_s=delay_s) as advance:
        advance(0.42)
        if shown:
            while "42%" not in stream.getvalue():
                advance(0.42)
    assert ("copying" in stream.getvalue()) == shown


def test_run_says_where_to_put_the_first_file(caplog: pytest.LogCaptureFixture) -> None:
    settings = combine_sources(None, flags={}, environ={}).settings
    with caplog.at_level(logging.INFO):
        log_folders(settings)
    [line] = caplog.messages
    assert str(settings.inboxes[0].path) in line
    assert str(settings.inboxes[0].outbox) in line
