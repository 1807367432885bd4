"""Every command on a real ledger: output and exit status."""

import ast
import asyncio
import csv
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from speakeasyd import __version__, cli
from speakeasyd.cli import status
from speakeasyd.clock import SystemClock
from speakeasyd.domain.error_hints import WHAT_TO_DO, find_hint
from speakeasyd.domain.event_payloads import JobNoted
from speakeasyd.domain.fault import FaultKind
from speakeasyd.domain.incidents import Incident, IncidentAction
from speakeasyd.domain.job import Job, WaitingFile
from speakeasyd.domain.pausing import PERSON_PAUSE, PauseCause, PauseKind, describe_pause
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger.claims import claim_jobs, fail_job
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.ledger.maintenance import open_incident, store_state
from speakeasyd.ledger.new_jobs import add_jobs, store_waiting_files
from speakeasyd.ledger.results import store_results
from tests.ledgers import build_chunk, build_job, finish_job, open_ledger

REPOSITORY = Path(__file__).parents[2]


class CommandLine:
    """Runs commands on an inbox, an outbox and a state folder."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.inbox, self.outbox, self.state = root / "inbox", root / "outbox", root / "state"
        for folder in (self.inbox, self.state):
            folder.mkdir()
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *arguments: str) -> int:
        """Run a command. Returns its exit status; its output is in `out` and `err`."""
        status = cli.main(arguments)
        self.out, self.err = self._capsys.readouterr()
        return status

    def run_on_state(self, *arguments: str) -> int:
        return self.run(*arguments, "--state", str(self.state))

    def run_for_json(self, *arguments: str) -> Any:
        assert self.run_on_state(*arguments, "--json") in {0, 1}, self.err
        return json.loads(self.out)

    def run_why(self, file: Path) -> int:
        return self.run_on_state(
            "why", str(file), "--inbox", str(self.inbox), "--outbox", str(self.outbox)
        )


@pytest.fixture
def command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    monkeypatch.setenv("COLUMNS", "120")
    return CommandLine(tmp_path, capsys)


@pytest.fixture
def ledger(command_line: CommandLine) -> CommandLine:
    """A ledger with four jobs: 1 completed, 2 failed, 3 half done by a dead daemon, 4 pending."""
    asyncio.run(_fill_ledger(command_line.state / "ledger.db"))
    return command_line


async def _fill_ledger(path: Path) -> None:
    async with open_ledger(path, clock=SystemClock()) as ledger:
        first, second, third = await _claim_in_order(
            ledger, "talk.mp3", "letter.mp3", "calls/long.wav"
        )
        await finish_job(ledger, first, " Good morning, ladies", " and gentlemen.")
        await ledger.write(
            fail_job, second.id, second.token, code=ErrorCode.NOT_MEDIA, error="it is text"
        )
        await ledger.write(
            store_results,
            [
                (
                    third.id,
                    third.token,
                    JobNoted(language="en", model="tiny.en", device="cpu", container_seconds=100.0),
                )
            ],
        )
        await ledger.write(store_results, [(third.id, third.token, build_chunk(0, " Half of it."))])
        await ledger.write(
            open_incident,
            Incident(
                kind=FaultKind.CONTEXT_LOST,
                phase="encode",
                device="cuda:0",
                worker="gpu-0",
                summary="illegal access",
                action=IncidentAction.START_WORKER,
            ),
        )
        await ledger.write(add_jobs, [build_job("later.flac")])
        await ledger.write(
            store_waiting_files,
            "inbox",
            [
                WaitingFile(
                    b"copying.mkv", 7, "2026-01-01T00:00:00.000Z", "it is still being written"
                )
            ],
        )


async def _claim_in_order(ledger: Ledger, *names: str) -> list[Job]:
    """Claim jobs of these files in the given order."""
    jobs = []
    for name in names:
        await ledger.write(add_jobs, [build_job(name)])
        jobs += await ledger.write(claim_jobs, 1)
    return jobs


# --- options, errors and defects


def test_the_version(command_line: CommandLine) -> None:
    assert command_line.run("--version") == 0
    assert command_line.out == f"speakeasyd {__version__}\n"


def test_every_command_has_help(command_line: CommandLine) -> None:
    assert command_line.run("--help") == 0
    overview = command_line.out
    for name in cli.COMMANDS:
        assert re.search(rf"^\W*{name} ", overview, re.MULTILINE)
        assert command_line.run(name, "--help") == 0
        assert f"speakeasyd {name}" in command_line.out


def test_an_unknown_command_or_option_exits_with_2(command_line: CommandLine) -> None:
    assert command_line.run("statsu") == 2
    assert "Did you mean 'status'?" in command_line.err
    assert command_line.run("jobs", "--status", "lost") == 2
    assert "'pending'" in command_line.err
    assert command_line.run("show", "one") == 2
    assert command_line.run("retry") == 2
    assert "--where" in command_line.err


def test_an_expected_error_prints_a_message_and_a_hint(command_line: CommandLine) -> None:
    assert command_line.run_on_state("jobs") == 2
    assert command_line.err.startswith("speakeasyd: there is no ledger")
    assert "speakeasyd run" in command_line.err
    assert "Traceback" not in command_line.err


def test_an_invalid_configuration_stops_every_command(
    command_line: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[watch]\nsetle_s = 1")
    assert command_line.run("status", "--config", str(file)) == 78
    assert f"{file}: there is no key watch.setle_s; did you mean settle_s?" in command_line.err


@pytest.mark.skipif(sys.platform == "win32", reason="systemd")
def test_errors_have_a_priority_in_the_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with journal.open("w") as stream:
        state = os.fstat(stream.fileno())
        subprocess.run(
            [sys.executable, "-m", "speakeasyd", "run", "--config", tmp_path / "nowhere.toml"],
            env=os.environ | {"JOURNAL_STREAM": f"{state.st_dev}:{state.st_ino}"},
            stderr=stream,
            check=False,
        )
    lines = journal.read_text().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("<3>") for line in lines)


def test_a_defect_writes_a_report_and_exits_with_3(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def raise_defect(_state: Path) -> None:
        raise ZeroDivisionError("a defect made for this test")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(status, "take_snapshot", raise_defect)
    assert command_line.run_on_state("status") == 3
    assert "Traceback" not in command_line.err
    [file] = tmp_path.glob("speakeasyd-defect-*.log")
    assert str(file) in command_line.err
    assert "a defect made for this test" in file.read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_an_output_on_a_full_disk_is_no_defect() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "speakeasyd", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("speakeasyd: No space left on device\nMake room")


def test_ctrl_c_exits_with_130(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_interrupt(_state: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "take_snapshot", raise_interrupt)
    assert command_line.run_on_state("status") == 130


def test_the_start_imports_no_model_library() -> None:
    """Imports are counted because times depend on the machine."""
    probe = (
        "import sys; from speakeasyd.cli import main; main(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr)"
    )
    heavy = {"ctranslate2", "faster_whisper", "torch", "av", "onnxruntime"}
    slow = heavy | {"sqlalchemy", "alembic", "watchdog", "numpy"}
    for arguments, unwanted in (
        ("--version", slow | {"pydantic_core"}),
        ("status", slow | {"speakeasyd.domain.options"}),
        ("run", heavy),
    ):
        command = [
            sys.executable,
            "-c",
            probe,
            arguments,
            *(["--help"] if arguments != "--version" else []),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
        assert unwanted & set(done.stderr.split()) == set(), arguments


# --- reading commands


def test_jobs(ledger: CommandLine) -> None:
    assert ledger.run_on_state("jobs") == 0
    assert [line.split()[0] for line in ledger.out.splitlines()] == ["job", "4", "3", "2", "1"]
    assert [job["job_id"] for job in ledger.run_for_json("jobs", "--status", "failed")] == [2]
    assert [job["job_id"] for job in ledger.run_for_json("jobs", "--limit", "2")] == [4, 3]
    assert ledger.run_for_json("jobs", "--batch", "nothing") == []


def test_show(ledger: CommandLine) -> None:
    assert ledger.run_on_state("show", "1", "--text") == 0
    assert ledger.out == "Good morning, ladies and gentlemen.\n"
    assert ledger.run_on_state("show", "3", "--text") == 0
    assert ledger.out == "Half of it.\n"
    output = ledger.run_for_json("show", "1")
    assert output["artifacts"][0]["path"] == "1.txt"
    assert output["attempts_made"][0]["outcome"] == "completed"
    assert ledger.run_on_state("show", "2") == 0
    assert "not_media, it is text" in ledger.out
    assert " ".join(find_hint("not_media").split()) in " ".join(ledger.out.split())
    assert ledger.run_on_state("show", "99") == 1
    assert "no job 99" in ledger.err


def test_status_in_json(ledger: CommandLine) -> None:
    output = ledger.run_for_json("status")
    assert output["daemon"] is None
    assert output["counts"] == {
        "pending": 1,
        "processing": 1,
        "completed": 1,
        "failed": 1,
        "cancelled": 0,
        "skipped": 0,
    }
    assert [job["path"] for job in output["in_work"]] == ["calls/long.wav"]
    assert output["speed"] > 0


def test_status_for_people(ledger: CommandLine) -> None:
    assert ledger.run_on_state("status") == 1, "the daemon is down"
    assert "down" in ledger.out
    assert "calls/long.wav" in ledger.out
    assert "illegal access; a new worker is started; not resolved" in ledger.out
    assert "copying.mkv waits since" in ledger.out
    with LedgerLock(ledger.state):
        assert ledger.run_on_state("status") == 0
        assert f"process {os.getpid()}" in ledger.out


def test_status_on_the_screen_until_ctrl_c(
    ledger: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", press_ctrl_c)
    assert ledger.run_on_state("status", "--watch") == 0
    assert "calls/long.wav" in ledger.out


def test_a_killed_daemon_is_down(ledger: CommandLine) -> None:
    signature = {"pid": os.getpid(), "host": "here", "started_at": "2026-01-01T00:00:00.000Z"}
    (ledger.state / "daemon.lock").write_text(json.dumps(signature))
    assert ledger.run_for_json("status")["daemon"] is None


def test_sql(ledger: CommandLine) -> None:
    query = "SELECT job_id, path FROM job_status WHERE job_id < 3 ORDER BY 1"
    assert ledger.run_for_json("sql", query) == [
        {"job_id": 1, "path": "talk.mp3"},
        {"job_id": 2, "path": "letter.mp3"},
    ]
    assert ledger.run_on_state("sql", query, "--csv") == 0
    assert list(csv.reader(io.StringIO(ledger.out)))[1:] == [["1", "talk.mp3"], ["2", "letter.mp3"]]
    assert ledger.run_on_state("sql", "SELECT 1 WHERE 0") == 0
    assert "no rows" in ledger.out
    assert ledger.run_on_state("sql", "DELETE FROM jobs") == 2
    assert "more than read" in ledger.err
    assert ledger.run_on_state("sql", "SELEC") == 2
    assert len(ledger.run_for_json("jobs")) == 4


def test_search(ledger: CommandLine) -> None:
    [hit] = ledger.run_for_json("search", "morning", "lad*")
    assert (hit["job_id"], hit["path"]) == (1, "talk.mp3")
    assert ledger.run_on_state("search", "morning") == 0
    assert "[morning]" in ledger.out
    assert ledger.run_on_state("search", "evening") == 1


# --- changing commands


def test_retry(ledger: CommandLine) -> None:
    assert ledger.run_on_state("retry", "2") == 0
    assert "1 to retry: 2" in ledger.out
    assert "daemon is down" in ledger.out
    assert ledger.run_for_json("jobs", "--status", "pending")[1]["attempts"] == 0
    assert ledger.run_for_json("retry", "2", "1") == {"retried": [1], "refused": [2]}


def test_retry_by_condition(ledger: CommandLine) -> None:
    assert ledger.run_for_json("retry", "--where", "error_code = 'not_media'") == {
        "retried": [2],
        "refused": [],
    }
    assert ledger.run_on_state("retry", "--where", "no_such_column = 1") == 2
    assert "no_such_column" in ledger.err


def test_cancel(ledger: CommandLine) -> None:
    assert ledger.run_for_json("cancel", "4", "3", "1") == {"cancelled": [3, 4], "refused": [1]}
    assert ledger.run_on_state("cancel", "1") == 1
    assert "ended already" in ledger.out


# --- why


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("talk.mp3", ["job 1: completed", "speakeasyd show 1 --text"]),
        ("letter.mp3", ["job 2: failed", "not_media", "Play the file in another program"]),
        ("later.flac", ["job 4: pending", "The daemon is down"]),
        ("calls/long.wav", ["job 3: processing", "it goes on where it was"]),
        ("copying.mkv", ["7 bytes: it is still being written"]),
    ],
)
def test_why_of_a_known_file(ledger: CommandLine, name: str, expected: list[str]) -> None:
    assert ledger.run_why(ledger.inbox / name) == 0
    assert [part for part in expected if part not in ledger.out] == []


def test_why_of_a_file_that_is_ignored(ledger: CommandLine) -> None:
    (ledger.inbox / "notes.txt").write_text("x")
    assert ledger.run_why(ledger.inbox / "notes.txt") == 0
    assert re.search(r"it is ignored: .*txt.* is not among watch.extensions", ledger.out)
    (ledger.inbox / "talk.mp3.part").write_text("x")
    assert ledger.run_why(ledger.inbox / "talk.mp3.part") == 0
    assert "'*.part'" in ledger.out


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_why_of_a_link(ledger: CommandLine) -> None:
    (ledger.inbox / "link.mp3").symlink_to("/dev/null")
    assert ledger.run_why(ledger.inbox / "link.mp3") == 0
    assert "symbolic link" in ledger.out


def test_why_of_a_new_or_missing_file(ledger: CommandLine) -> None:
    (ledger.inbox / "new.mp3").write_text("x")
    assert ledger.run_why(ledger.inbox / "new.mp3") == 0
    assert "no job yet" in ledger.out
    assert "daemon is down" in ledger.out
    with LedgerLock(ledger.state):
        ledger.run_why(ledger.inbox / "new.mp3")
        assert "has been still for 2 s" in ledger.out
    assert ledger.run_why(ledger.inbox / "never.mp3") == 1
    assert "No such file" in ledger.out
    assert ledger.run_why(ledger.inbox.parent / "elsewhere.mp3") == 1
    assert f"Copy it into one: {ledger.inbox}" in " ".join(ledger.out.split())


@pytest.mark.skipif(sys.platform == "win32", reason="the ledger of the tests has a POSIX outbox")
def test_why_of_a_transcript(ledger: CommandLine) -> None:
    assert ledger.run_why(Path("/outbox/1.txt")) == 0
    assert "it is a transcript of talk.mp3" in ledger.out


def test_why_before_the_first_start(command_line: CommandLine) -> None:
    (command_line.inbox / "new.mp3").write_text("x")
    assert command_line.run_why(command_line.inbox / "new.mp3") == 0
    assert "speakeasyd run" in command_line.out


# --- config


def test_config_init_check_show_path(command_line: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "speakeasyd.toml"
    assert command_line.run("config", "init", str(file)) == 0
    assert command_line.run("config", "init", str(file)) == 1
    assert "--force" in command_line.err
    assert command_line.run("config", "init", str(file), "--force") == 0
    assert command_line.run("config", "check", str(file)) == 0
    assert "all is well" in command_line.out
    file.write_text("[watch]\nsettle_s = 7\n[presets.fr]\nlanguage = 'fr'\n")
    assert command_line.run("config", "show", "--config", str(file)) == 0
    assert f"settle_s = 7  # {file}" in command_line.out
    assert "rescan_s = 300\n" in command_line.out
    assert "[presets.fr]" in command_line.out
    assert command_line.run("config", "show", "--config", str(file), "--json") == 0
    assert json.loads(command_line.out)["watch"]["settle_s"] == 7
    assert command_line.run("config", "path", "--config", str(file)) == 0
    assert f"in use: {file}" in command_line.out
    assert command_line.run("config", "path", "--config", str(tmp_path / "nowhere.toml")) == 78
    assert "looked for" in command_line.out
    assert command_line.run("config", "init", "--stdout") == 0
    assert command_line.out == (REPOSITORY / "config" / "speakeasyd.toml").read_text(
        encoding="utf-8"
    )
    file.write_text("[log]\nlevel = 'loud'")
    assert command_line.run("config", "check", str(file)) == 78


def test_flags_choose_one_inbox_of_several(command_line: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text(
        "[[inboxes]]\nname='a'\npath='a'\noutbox='x'\n[[inboxes]]\nname='b'\npath='b'\noutbox='y'\n"
    )
    assert (
        command_line.run("once", "--config", str(file), "--outbox", str(command_line.outbox)) == 78
    )
    assert "there are several inboxes" in command_line.err
    places = ["--inbox", str(tmp_path / "nowhere"), "--state", str(command_line.state)]
    assert command_line.run("once", "--config", str(file), *places) == 2
    assert f"there is no inbox {tmp_path / 'nowhere'}" in command_line.err


# --- doctor


@pytest.mark.real
def test_doctor(command_line: CommandLine) -> None:
    places = [
        "--inbox",
        str(command_line.inbox),
        "--outbox",
        str(command_line.outbox),
        "--model",
        "bundled",
        "--device",
        "cpu",
    ]
    found = {finding["what"]: finding for finding in command_line.run_for_json("doctor", *places)}
    assert found["model bundled"]["level"] == "ok"
    assert "libavcodec" in found["FFmpeg"]["text"]
    assert found["engine"]["level"] == "ok"
    assert re.search(
        r"decoded [1-9][\d.]* s .* on cpu \(int8\w*\) heard the canary", found["engine"]["text"]
    )
    assert found["speaker models"]["text"] == "heard the one voice of a sample"
    assert {"speakeasyd", "SQLite", "daemon", "ledger", "state folder", "inbox inbox"} <= set(found)


@pytest.mark.real
def test_doctor_finds_an_engine_that_cannot_decode(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An incompatible library is reported with fitting advice."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sitecustomize.py").write_text("import av\nav.open = lambda file: None\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'other'}{os.pathsep}{REPOSITORY}")
    assert (
        command_line.run_on_state(
            "doctor", "--inbox", str(command_line.inbox), "--model", "bundled", "--device", "cpu"
        )
        == 1
    )
    output = " ".join(command_line.out.split())
    assert "fail engine: a defect of speakeasyd, or of its installation: TypeError" in output
    assert "install speakeasyd again" in output


@pytest.mark.real
def test_doctor_accepts_a_missing_default_inbox(command_line: CommandLine) -> None:
    """The first start creates it."""
    found = {
        finding["what"]: finding
        for finding in command_line.run_for_json("doctor", "--model", "bundled", "--device", "cpu")
    }
    assert found["inbox inbox"]["level"] == "ok"
    assert "to be made" in found["inbox inbox"]["text"]


def test_doctor_prints_how_to_fix_problems(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    places = [
        "--inbox",
        str(tmp_path / "away"),
        "--outbox",
        str(tmp_path / "file" / "outbox"),
        "--device",
        "cuda",
    ]
    assert command_line.run_on_state("doctor", *places, "--model", "no such model") == 1
    output = " ".join(command_line.out.split())
    assert "is not there Create it, or mount it." in output
    assert "fail GPU: none is found" in output or "ok GPU: cuda:0" in output
    assert re.search(r"fail model no such model: .*no model 'no such model'", output)


# --- error codes


def test_every_error_code_has_advice() -> None:
    assert set(WHAT_TO_DO) == set(ErrorCode)
    assert find_hint("of_a_newer_version") == find_hint(None) == ""


def test_every_error_code_is_in_the_docs() -> None:
    """The page has the docstring and the hint of every code."""
    docs = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    what_happened = _read_member_docstrings("ErrorCode")
    for code, advice in WHAT_TO_DO.items():
        assert f"### `{code}`\n\n{what_happened[code.name]}\n\n{advice}\n" in docs


def _read_member_docstrings(name: str) -> dict[str, str]:
    """Return the docstring of each member of an enum in errors.py."""
    tree = ast.parse((REPOSITORY / "speakeasyd" / "errors.py").read_text(encoding="utf-8"))
    [enum] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return {
        member.targets[0].id: text.value.value
        for member, text in itertools.pairwise(enum.body)
        if isinstance(member, ast.Assign)
        and isinstance(member.targets[0], ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


@pytest.mark.skipif(sys.platform == "win32", reason="it takes a signal from a timer")
def test_ctrl_c_in_a_query_prints_that_it_was_interrupted(ledger: CommandLine) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n"
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        assert ledger.run_on_state("sql", "--timeout", "0", endless) == 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert "interrupted" in ledger.err


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_config_show_hides_secrets(
    command_line: CommandLine, tmp_path: Path, arguments: list[str]
) -> None:
    file = tmp_path / "speakeasyd.toml"
    file.write_text(
        """
        [server]
        token = "hidden-token-1234567"
        [notify]
        apprise = ["ntfy://hidden-topic"]
        webhooks = [
            { url = "https://me:hidden-pass@one.example/", secret = "hidden-secret" },
            { url = "https://two.example/hidden-path" },
            { url = "https://three.example/?key=hidden-key" },
        ]
        """
    )
    assert command_line.run("config", "show", "--config", str(file), *arguments) == 0
    assert "hidden" not in command_line.out
    assert all(host in command_line.out for host in ("one.example", "two.example", "three.example"))


@pytest.mark.parametrize(
    ("cause", "says", "never"),
    [
        (PERSON_PAUSE, "until `speakeasyd resume`", "by itself"),
        (PauseCause(PauseKind.OUTBOX, "in"), "It ends when the cause is removed", "resume"),
    ],
)
def test_status_prints_which_pauses_end_by_themselves(
    ledger: CommandLine, cause: PauseCause, says: str, never: str
) -> None:
    async def store_pause() -> None:
        async with open_ledger(ledger.state / "ledger.db", clock=SystemClock()) as opened:
            await opened.write(store_state, "pauses", [describe_pause(cause, "for a reason")])

    asyncio.run(store_pause())
    with LedgerLock(ledger.state):
        assert ledger.run_on_state("status") == 0
        assert says in ledger.out
        assert never not in ledger.out
        assert ledger.run_for_json("status")["paused_by"] == [describe_pause(cause, "for a reason")]


def test_why_and_doctor_name_the_pause(ledger: CommandLine) -> None:
    async def store_pause(cause: PauseCause) -> None:
        async with open_ledger(ledger.state / "ledger.db", clock=SystemClock()) as opened:
            await opened.write(store_state, "pauses", [describe_pause(cause, "its disk is full")])

    asyncio.run(store_pause(PauseCause(PauseKind.OUTBOX, "inbox")))
    with LedgerLock(ledger.state):
        assert ledger.run_why(ledger.inbox / "later.flac") == 0
        assert "It waits in the queue, which is paused: its disk is full" in ledger.out
        found = ledger.run_for_json("doctor", "--inbox", str(ledger.inbox), "--device", "cpu")
        queue = {"what": "queue", "level": "warn", "hint": ""}
        assert queue | {"text": "paused (outbox inbox): its disk is full"} in found
        asyncio.run(store_pause(PauseCause(PauseKind.OUTBOX, "another inbox")))
        assert ledger.run_why(ledger.inbox / "later.flac") == 0
        assert "It is waiting in the queue." in ledger.out


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [("speakeasyd st", {"status"}), ("speakeasyd search --li", {"--limit", "--line"})],
)
def test_bash_completes_words(words: str, offered: set[str]) -> None:
    asked = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_SPEAKEASYD_COMPLETE": "complete_bash",
    }
    program = "import sys; sys.argv = ['speakeasyd']; from speakeasyd.cli import main; main()"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=os.environ | asked, capture_output=True, text=True, timeout=60, check=True
    )
    assert set(done.stdout.split()) == offered
