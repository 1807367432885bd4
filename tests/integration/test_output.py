"""What commands print on a real terminal and off one."""

import asyncio
import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.domain.job import WaitingFile
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger.claims import fail_job
from speakeasyd.ledger.new_jobs import store_waiting_files
from tests.ledgers import a_file, claimed, finish, opened

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

import fcntl
import pty
import struct
import termios

NASTY = "a\x1b[2J\x07\x9b31m\u202e\u2066\r\nb.mp3"
NASTY_TEXT = " Hello\x1b]0;title\x07 there\x9b5m \u202egnp"
STYLES = re.compile(r"\x1b\[[0-9;]*m")
COLUMNS = 80


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A ledger with file names and a transcript that try to command the terminal."""
    asyncio.run(_fill(tmp_path / "ledger.db"))
    return tmp_path


async def _fill(path: Path) -> None:
    async with opened(path, clock=SystemClock()) as ledger:
        names = ["a folder with a long name/" * 4 + "talk.mp3", NASTY, "failed " + NASTY]
        first, second, third = await claimed(ledger, *map(a_file, names))
        await finish(ledger, first, " Good morning.")
        await finish(ledger, second, NASTY_TEXT)
        await ledger.write(
            fail_job, third.id, third.token, code=ErrorCode.NOT_MEDIA, error=f"it is {NASTY}"
        )
        await ledger.write(
            store_waiting_files,
            "inbox",
            [WaitingFile(b"\x1b[2J.mkv", 7, "2026-01-01T00:00:00.000Z", f"why {NASTY}")],
        )


def piped(state: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "speakeasyd", *arguments, "--state", str(state)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def on_terminal(state: Path, *arguments: str) -> str:
    """What reaches a terminal of `COLUMNS` columns, styles taken out."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    environ = {
        name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "speakeasyd", *arguments, "--state", str(state)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environ | {"TERM": "xterm"},
    )
    os.close(terminal)
    received = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # how Linux tells the end of a terminal
            break
        if not part:
            break
        received += part
    os.close(main)
    child.wait()
    return STYLES.sub("", received.decode().replace("\r\n", "\n"))


COMMANDS = [
    ["jobs"],
    ["jobs", "--line"],
    ["jobs", "--json"],
    ["status"],
    ["status", "--json"],
    ["search", "hello"],
    ["search", "hello", "--line"],
    ["show", "2"],
    ["show", "2", "--text"],
    ["show", "3"],
    ["show", "3", "--json"],
    ["sql", "SELECT * FROM job_status"],
    ["sql", "SELECT * FROM job_status", "--line"],
    ["sql", "SELECT path, text FROM transcript_text", "--csv"],
    ["sql", 'SELECT path AS "\x1b[2J" FROM job_status'],
    ["sql", "SELEC \x1b[2J"],
    ["why", f"/nowhere/{NASTY}"],
    ["jobs", "\x1b[2J"],
]


@pytest.mark.parametrize(
    "arguments", COMMANDS, ids=lambda words: " ".join(words).encode("unicode_escape").decode()
)
def test_nothing_commands_the_terminal(state: Path, arguments: list[str]) -> None:
    shown = on_terminal(state, *arguments)
    assert shown.strip()
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def test_a_name_with_line_breaks_stays_on_its_line(state: Path) -> None:
    table = on_terminal(state, "jobs").splitlines()
    assert [line.split()[0] for line in table] == ["job", "3", "2", "1"]
    assert r"a\x1b[2J\x07" in table[2]
    why = on_terminal(state, "why", f"/nowhere/{NASTY}")
    assert why.startswith(r"/nowhere/a\x1b[2J\x07\x9b31m\u202e\u2066\r\nb.mp3")


@pytest.mark.parametrize(
    "query", ["SELECT * FROM job_status", "SELECT job_id, path, created_at FROM job_status"]
)
def test_a_row_takes_one_line_of_the_terminal(state: Path, query: str) -> None:
    table = on_terminal(state, "sql", query).splitlines()
    assert len([line for line in table if not line.startswith("(")]) == 4
    assert all(len(line) <= COLUMNS for line in table)


def test_columns_that_do_not_fit_are_told_of(state: Path) -> None:
    assert re.search(
        r"\(\d+ columns do not fit; --line", on_terminal(state, "sql", "SELECT * FROM job_status")
    )


def test_off_a_terminal_nothing_is_wrapped_or_cut(state: Path) -> None:
    query = "SELECT job_id, path, created_at FROM job_status ORDER BY job_id"
    _, first, *_ = piped(state, "sql", query).splitlines()
    rows = json.loads(piped(state, "sql", query, "--json"))
    assert first.split(maxsplit=1)[1] == f"{rows[0]['path']}  {rows[0]['created_at']}"
    assert rows[0]["path"] in piped(state, "jobs")
    assert rows[0]["path"] in piped(state, "status")
    assert rows[0]["path"] in piped(state, "search", "morning")


def test_scripts_get_exact_data(state: Path) -> None:
    query = "SELECT path, text FROM transcript_text WHERE job_id = 2"
    exact = {"path": NASTY, "text": NASTY_TEXT.strip()}
    [row] = json.loads(piped(state, "sql", query, "--json"))
    assert {name: value.strip() for name, value in row.items()} == exact
    command = [sys.executable, "-m", "speakeasyd", "sql", query, "--csv", "--state", str(state)]
    output = subprocess.run(command, capture_output=True, check=False).stdout.decode()
    [fields] = csv.DictReader(io.StringIO(output, newline=""))
    assert {name: value.strip() for name, value in fields.items()} == exact
