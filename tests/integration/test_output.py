"""Output of commands on a real terminal and in a pipe."""

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
from tests.ledgers import add_claimed_jobs, build_job, finish_job, open_ledger

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

import fcntl
import pty
import struct
import termios

HOSTILE_NAME = "a\x1b[2J\x07\x9b31m\u202e\u2066\r\nb.mp3"
HOSTILE_TEXT = " Hello\x1b]0;title\x07 there\x9b5m \u202egnp"
STYLES = re.compile(r"\x1b\[[0-9;]*m")
COLUMNS = 80


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A ledger whose file names and transcript contain terminal control sequences."""
    asyncio.run(_fill_ledger(tmp_path / "ledger.db"))
    return tmp_path


async def _fill_ledger(path: Path) -> None:
    async with open_ledger(path, clock=SystemClock()) as ledger:
        names = [
            "a folder with a long name/" * 4 + "talk.mp3",
            HOSTILE_NAME,
            "failed " + HOSTILE_NAME,
        ]
        first, second, third = await add_claimed_jobs(ledger, *map(build_job, names))
        await finish_job(ledger, first, " Good morning.")
        await finish_job(ledger, second, HOSTILE_TEXT)
        await ledger.write(
            fail_job, third.id, third.token, code=ErrorCode.NOT_MEDIA, error=f"it is {HOSTILE_NAME}"
        )
        await ledger.write(
            store_waiting_files,
            "inbox",
            [WaitingFile(b"\x1b[2J.mkv", 7, "2026-01-01T00:00:00.000Z", f"why {HOSTILE_NAME}")],
        )


def run_piped(state: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "speakeasyd", *arguments, "--state", str(state)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def run_on_terminal(state: Path, *arguments: str) -> str:
    """Return what reaches a terminal of `COLUMNS` columns, without styles."""
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
        except OSError:  # the end of a terminal on Linux
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
    ["why", f"/nowhere/{HOSTILE_NAME}"],
    ["jobs", "\x1b[2J"],
]


@pytest.mark.parametrize(
    "arguments", COMMANDS, ids=lambda words: " ".join(words).encode("unicode_escape").decode()
)
def test_no_control_sequences_reach_the_terminal(state: Path, arguments: list[str]) -> None:
    shown = run_on_terminal(state, *arguments)
    assert shown.strip()
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def test_a_name_with_line_breaks_stays_on_its_line(state: Path) -> None:
    table = run_on_terminal(state, "jobs").splitlines()
    assert [line.split()[0] for line in table] == ["job", "3", "2", "1"]
    assert r"a\x1b[2J\x07" in table[2]
    why = run_on_terminal(state, "why", f"/nowhere/{HOSTILE_NAME}")
    assert why.startswith(r"/nowhere/a\x1b[2J\x07\x9b31m\u202e\u2066\r\nb.mp3")


@pytest.mark.parametrize(
    "query", ["SELECT * FROM job_status", "SELECT job_id, path, created_at FROM job_status"]
)
def test_a_row_uses_one_line(state: Path, query: str) -> None:
    table = run_on_terminal(state, "sql", query).splitlines()
    assert len([line for line in table if not line.startswith("(")]) == 4
    assert all(len(line) <= COLUMNS for line in table)


def test_hidden_columns_are_reported(state: Path) -> None:
    assert re.search(
        r"\(\d+ columns do not fit; --line",
        run_on_terminal(state, "sql", "SELECT * FROM job_status"),
    )


def test_piped_output_is_not_wrapped_or_cut(state: Path) -> None:
    query = "SELECT job_id, path, created_at FROM job_status ORDER BY job_id"
    _, first, *_ = run_piped(state, "sql", query).splitlines()
    rows = json.loads(run_piped(state, "sql", query, "--json"))
    assert first.split(maxsplit=1)[1] == f"{rows[0]['path']}  {rows[0]['created_at']}"
    assert rows[0]["path"] in run_piped(state, "jobs")
    assert rows[0]["path"] in run_piped(state, "status")
    assert rows[0]["path"] in run_piped(state, "search", "morning")


def test_json_output_is_exact(state: Path) -> None:
    query = "SELECT path, text FROM transcript_text WHERE job_id = 2"
    exact = {"path": HOSTILE_NAME, "text": HOSTILE_TEXT.strip()}
    [row] = json.loads(run_piped(state, "sql", query, "--json"))
    assert {name: value.strip() for name, value in row.items()} == exact
    command = [sys.executable, "-m", "speakeasyd", "sql", query, "--csv", "--state", str(state)]
    output = subprocess.run(command, capture_output=True, check=False).stdout.decode()
    [fields] = csv.DictReader(io.StringIO(output, newline=""))
    assert {name: value.strip() for name, value in fields.items()} == exact
