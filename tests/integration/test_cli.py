"""Every command on a real ledger: what it prints, and how it ends."""

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
from speakeasyd.ledger.claims import claim_jobs, fail_job, update_claimed_job
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.ledger.maintenance import open_incident, store_state
from speakeasyd.ledger.new_jobs import add_jobs, store_waiting_files
from speakeasyd.ledger.results import store_chunks
from tests.ledgers import a_chunk, a_file, finish, opened

REPOSITORY = Path(__file__).parents[2]


class Desk:
    """A person at a terminal, with an inbox, an outbox and a state folder."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.inbox, self.outbox, self.state = root / "inbox", root / "outbox", root / "state"
        for folder in (self.inbox, self.state):
            folder.mkdir()
        self._capsys = capsys
        self.out = self.err = ""

    def says(self, *arguments: str) -> int:
        """Give a command. Returns its exit status; what it printed is in `out` and `err`."""
        status = cli.main(arguments)
        self.out, self.err = self._capsys.readouterr()
        return status

    def asks(self, *arguments: str) -> int:
        return self.says(*arguments, "--state", str(self.state))

    def gets(self, *arguments: str) -> Any:
        assert self.asks(*arguments, "--json") in {0, 1}, self.err
        return json.loads(self.out)

    def why(self, file: Path) -> int:
        return self.asks("why", str(file), "--inbox", str(self.inbox), "--outbox", str(self.outbox))


@pytest.fixture
def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Desk:
    monkeypatch.setenv("COLUMNS", "120")
    return Desk(tmp_path, capsys)


@pytest.fixture
def ledger(desk: Desk) -> Desk:
    """Four jobs: 1 completed, 2 failed, 3 half done by a daemon that is gone, 4 pending."""
    asyncio.run(_fill(desk.state / "ledger.db"))
    return desk


async def _fill(path: Path) -> None:
    async with opened(path, clock=SystemClock()) as ledger:
        first, second, third = await _claim(ledger, "talk.mp3", "letter.mp3", "calls/long.wav")
        await finish(ledger, first, " Good morning, ladies", " and gentlemen.")
        await ledger.write(
            fail_job, second.id, second.token, code=ErrorCode.NOT_MEDIA, error="it is text"
        )
        await ledger.write(
            update_claimed_job,
            third.id,
            third.token,
            JobNoted(language="en", model="tiny.en", device="cpu", container_seconds=100.0),
        )
        await ledger.write(store_chunks, [(third.id, third.token, a_chunk(0, " Half of it."))])
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
        await ledger.write(add_jobs, [a_file("later.flac")])
        await ledger.write(
            store_waiting_files,
            "inbox",
            [
                WaitingFile(
                    b"copying.mkv", 7, "2026-01-01T00:00:00.000Z", "it is still being written"
                )
            ],
        )


async def _claim(ledger: Ledger, *names: str) -> list[Job]:
    """Claim jobs of these files, in this order whatever the order of the queue."""
    jobs = []
    for name in names:
        await ledger.write(add_jobs, [a_file(name)])
        jobs += await ledger.write(claim_jobs, 1)
    return jobs


# --- the boundary


def test_the_version(desk: Desk) -> None:
    assert desk.says("--version") == 0
    assert desk.out == f"speakeasyd {__version__}\n"


def test_every_command_has_help_and_the_whole_has_all_of_them(desk: Desk) -> None:
    assert desk.says("--help") == 0
    overview = desk.out
    for name in cli.COMMANDS:
        assert re.search(rf"^\W*{name} ", overview, re.MULTILINE)
        assert desk.says(name, "--help") == 0
        assert f"speakeasyd {name}" in desk.out


def test_a_wrong_command_or_option_is_told_and_costs_2(desk: Desk) -> None:
    assert desk.says("statsu") == 2
    assert "Did you mean 'status'?" in desk.err
    assert desk.says("jobs", "--status", "lost") == 2
    assert "'pending'" in desk.err
    assert desk.says("show", "one") == 2
    assert desk.says("retry") == 2
    assert "--where" in desk.err


def test_an_expected_error_is_a_sentence_and_a_hint(desk: Desk) -> None:
    assert desk.asks("jobs") == 2
    assert desk.err.startswith("speakeasyd: there is no ledger")
    assert "speakeasyd run" in desk.err
    assert "Traceback" not in desk.err


def test_a_wrong_configuration_stops_every_command(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[watch]\nsetle_s = 1")
    assert desk.says("status", "--config", str(file)) == 78
    assert f"{file}: there is no key watch.setle_s; did you mean settle_s?" in desk.err


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


def test_a_defect_leaves_a_file_and_costs_3(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(_state: Path) -> None:
        raise ZeroDivisionError("a defect made for this test")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(status, "take_snapshot", broken)
    assert desk.asks("status") == 3
    assert "Traceback" not in desk.err
    [file] = tmp_path.glob("speakeasyd-defect-*.log")
    assert str(file) in desk.err
    assert "a defect made for this test" in file.read_text(encoding="utf-8")


def test_ctrl_c_costs_130(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_state: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "take_snapshot", interrupted)
    assert desk.asks("status") == 130


def test_starting_is_quick_and_imports_no_models_library() -> None:
    """Measured in imports, which do not depend on the machine's mood."""
    probe = (
        "import sys; from speakeasyd.cli import main; main(sys.argv[1:]);"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    heavy = {"ctranslate2", "faster_whisper", "torch", "av", "onnxruntime"}
    slow = heavy | {"sqlalchemy", "alembic", "watchdog", "numpy"}
    for arguments, unwanted in (
        ("--version", slow | {"pydantic_core"}),
        ("status", slow),
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
        assert unwanted & set(re.findall(r"'(\w+)'", done.stderr)) == set(), arguments


# --- asking


def test_jobs(ledger: Desk) -> None:
    assert ledger.asks("jobs") == 0
    assert [line.split()[0] for line in ledger.out.splitlines()] == ["job", "4", "3", "2", "1"]
    assert [job["job_id"] for job in ledger.gets("jobs", "--status", "failed")] == [2]
    assert [job["job_id"] for job in ledger.gets("jobs", "--limit", "2")] == [4, 3]
    assert ledger.gets("jobs", "--batch", "nothing") == []


def test_show(ledger: Desk) -> None:
    assert ledger.asks("show", "1", "--text") == 0
    assert ledger.out == "Good morning, ladies and gentlemen.\n"
    assert ledger.asks("show", "3", "--text") == 0
    assert ledger.out == "Half of it.\n"
    told = ledger.gets("show", "1")
    assert told["artifacts"][0]["path"] == "1.txt"
    assert told["attempts_made"][0]["outcome"] == "completed"
    assert ledger.asks("show", "2") == 0
    assert "not_media, it is text" in ledger.out
    assert " ".join(find_hint("not_media").split()) in " ".join(ledger.out.split())
    assert ledger.asks("show", "99") == 1
    assert "no job 99" in ledger.err


def test_status_in_json(ledger: Desk) -> None:
    told = ledger.gets("status")
    assert told["daemon"] is None
    assert told["counts"] == {
        "pending": 1,
        "processing": 1,
        "completed": 1,
        "failed": 1,
        "cancelled": 0,
        "skipped": 0,
    }
    assert [job["path"] for job in told["in_work"]] == ["calls/long.wav"]
    assert told["speed"] > 0


def test_status_for_people(ledger: Desk) -> None:
    assert ledger.asks("status") == 1, "the daemon is down"
    assert "down" in ledger.out
    assert "calls/long.wav" in ledger.out
    assert "illegal access; a new worker is started; not resolved" in ledger.out
    assert "copying.mkv waits since" in ledger.out
    with LedgerLock(ledger.state):
        assert ledger.asks("status") == 0
        assert f"process {os.getpid()}" in ledger.out


def test_status_on_the_screen_until_ctrl_c(ledger: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def press_ctrl_c(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", press_ctrl_c)
    assert ledger.asks("status", "--watch") == 0
    assert "calls/long.wav" in ledger.out


def test_a_killed_daemon_is_down(ledger: Desk) -> None:
    signature = {"pid": os.getpid(), "host": "here", "started_at": "2026-01-01T00:00:00.000Z"}
    (ledger.state / "daemon.lock").write_text(json.dumps(signature))
    assert ledger.gets("status")["daemon"] is None


def test_sql(ledger: Desk) -> None:
    query = "SELECT job_id, path FROM job_status WHERE job_id < 3 ORDER BY 1"
    assert ledger.gets("sql", query) == [
        {"job_id": 1, "path": "talk.mp3"},
        {"job_id": 2, "path": "letter.mp3"},
    ]
    assert ledger.asks("sql", query, "--csv") == 0
    assert list(csv.reader(io.StringIO(ledger.out)))[1:] == [["1", "talk.mp3"], ["2", "letter.mp3"]]
    assert ledger.asks("sql", "SELECT 1 WHERE 0") == 0
    assert "no rows" in ledger.out
    assert ledger.asks("sql", "DELETE FROM jobs") == 2
    assert "more than read" in ledger.err
    assert ledger.asks("sql", "SELEC") == 2
    assert len(ledger.gets("jobs")) == 4


def test_search(ledger: Desk) -> None:
    [hit] = ledger.gets("search", "morning", "lad*")
    assert (hit["job_id"], hit["path"]) == (1, "talk.mp3")
    assert ledger.asks("search", "morning") == 0
    assert "[morning]" in ledger.out
    assert ledger.asks("search", "evening") == 1


# --- changing


def test_retry(ledger: Desk) -> None:
    assert ledger.asks("retry", "2") == 0
    assert "1 to retry: 2" in ledger.out
    assert "daemon is down" in ledger.out
    assert ledger.gets("jobs", "--status", "pending")[1]["attempts"] == 0
    assert ledger.gets("retry", "2", "1") == {"retried": [1], "refused": [2]}


def test_retry_by_condition(ledger: Desk) -> None:
    assert ledger.gets("retry", "--where", "error_code = 'not_media'") == {
        "retried": [2],
        "refused": [],
    }
    assert ledger.asks("retry", "--where", "no_such_column = 1") == 2
    assert "no_such_column" in ledger.err


def test_cancel(ledger: Desk) -> None:
    assert ledger.gets("cancel", "4", "3", "1") == {"cancelled": [3, 4], "refused": [1]}
    assert ledger.asks("cancel", "1") == 1
    assert "ended already" in ledger.out


# --- why


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("talk.mp3", ["job 1: completed", "speakeasyd show 1 --text"]),
        ("letter.mp3", ["job 2: failed", "not_media", "Play the file in another program"]),
        ("later.flac", ["job 4: pending", "The daemon is down"]),
        ("calls/long.wav", ["job 3: processing", "it goes on where it was"]),
        ("copying.mkv", ["7 bytes: it is still being written"]),
    ],
)
def test_why_of_a_file_with_a_past(ledger: Desk, name: str, said: list[str]) -> None:
    assert ledger.why(ledger.inbox / name) == 0
    assert [part for part in said if part not in ledger.out] == []


def test_why_of_a_file_that_is_ignored(ledger: Desk) -> None:
    (ledger.inbox / "notes.txt").write_text("x")
    assert ledger.why(ledger.inbox / "notes.txt") == 0
    assert re.search(r"it is ignored: .*txt.* is not among watch.extensions", ledger.out)
    (ledger.inbox / "talk.mp3.part").write_text("x")
    assert ledger.why(ledger.inbox / "talk.mp3.part") == 0
    assert "'*.part'" in ledger.out


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_why_of_a_link(ledger: Desk) -> None:
    (ledger.inbox / "link.mp3").symlink_to("/dev/null")
    assert ledger.why(ledger.inbox / "link.mp3") == 0
    assert "symbolic link" in ledger.out


def test_why_of_a_file_that_is_new_or_nowhere(ledger: Desk) -> None:
    (ledger.inbox / "new.mp3").write_text("x")
    assert ledger.why(ledger.inbox / "new.mp3") == 0
    assert "no job yet" in ledger.out
    assert "daemon is down" in ledger.out
    with LedgerLock(ledger.state):
        ledger.why(ledger.inbox / "new.mp3")
        assert "has been still for 2 s" in ledger.out
    assert ledger.why(ledger.inbox / "never.mp3") == 1
    assert "No such file" in ledger.out
    assert ledger.why(ledger.inbox.parent / "elsewhere.mp3") == 1
    assert f"Copy it into one: {ledger.inbox}" in " ".join(ledger.out.split())


@pytest.mark.skipif(sys.platform == "win32", reason="the ledger of the tests has a POSIX outbox")
def test_why_of_a_transcript(ledger: Desk) -> None:
    assert ledger.why(Path("/outbox/1.txt")) == 0
    assert "it is a transcript of talk.mp3" in ledger.out


def test_why_before_the_first_start(desk: Desk) -> None:
    (desk.inbox / "new.mp3").write_text("x")
    assert desk.why(desk.inbox / "new.mp3") == 0
    assert "speakeasyd run" in desk.out


# --- config


def test_config_init_check_show_path(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "speakeasyd.toml"
    assert desk.says("config", "init", str(file)) == 0
    assert desk.says("config", "init", str(file)) == 1
    assert "--force" in desk.err
    assert desk.says("config", "init", str(file), "--force") == 0
    assert desk.says("config", "check", str(file)) == 0
    assert "all is well" in desk.out
    file.write_text("[watch]\nsettle_s = 7\n[presets.fr]\nlanguage = 'fr'\n")
    assert desk.says("config", "show", "--config", str(file)) == 0
    assert f"settle_s = 7  # {file}" in desk.out
    assert "rescan_s = 300\n" in desk.out
    assert "[presets.fr]" in desk.out
    assert desk.says("config", "show", "--config", str(file), "--json") == 0
    assert json.loads(desk.out)["watch"]["settle_s"] == 7
    assert desk.says("config", "path", "--config", str(file)) == 0
    assert f"in use: {file}" in desk.out
    assert desk.says("config", "path", "--config", str(tmp_path / "nowhere.toml")) == 78
    assert "looked for" in desk.out
    assert desk.says("config", "init", "--stdout") == 0
    assert desk.out == (REPOSITORY / "config" / "speakeasyd.toml").read_text(encoding="utf-8")
    file.write_text("[log]\nlevel = 'loud'")
    assert desk.says("config", "check", str(file)) == 78


def test_flags_choose_one_inbox_of_several(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text(
        "[[inboxes]]\nname='a'\npath='a'\noutbox='x'\n[[inboxes]]\nname='b'\npath='b'\noutbox='y'\n"
    )
    assert desk.says("once", "--config", str(file), "--outbox", str(desk.outbox)) == 78
    assert "there are several inboxes" in desk.err
    places = ["--inbox", str(tmp_path / "nowhere"), "--state", str(desk.state)]
    assert desk.says("once", "--config", str(file), *places) == 2
    assert f"there is no inbox {tmp_path / 'nowhere'}" in desk.err


# --- doctor


@pytest.mark.real
def test_doctor(desk: Desk) -> None:
    places = [
        "--inbox",
        str(desk.inbox),
        "--outbox",
        str(desk.outbox),
        "--model",
        "bundled",
        "--device",
        "cpu",
    ]
    found = {finding["what"]: finding for finding in desk.gets("doctor", *places)}
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
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library of another version is told as such, with the advice that fits."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sitecustomize.py").write_text("import av\nav.open = lambda file: None\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'other'}{os.pathsep}{REPOSITORY}")
    assert (
        desk.asks("doctor", "--inbox", str(desk.inbox), "--model", "bundled", "--device", "cpu")
        == 1
    )
    told = " ".join(desk.out.split())
    assert "fail engine: a defect of speakeasyd, or of its installation: TypeError" in told
    assert "install speakeasyd again" in told


@pytest.mark.real
def test_doctor_has_nothing_to_say_against_the_default_inbox(desk: Desk) -> None:
    """It is made at the first start."""
    found = {
        finding["what"]: finding
        for finding in desk.gets("doctor", "--model", "bundled", "--device", "cpu")
    }
    assert found["inbox inbox"]["level"] == "ok"
    assert "to be made" in found["inbox inbox"]["text"]


def test_doctor_says_how_to_mend(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    places = [
        "--inbox",
        str(tmp_path / "away"),
        "--outbox",
        str(tmp_path / "file" / "outbox"),
        "--device",
        "cuda",
    ]
    assert desk.asks("doctor", *places, "--model", "no such model") == 1
    told = " ".join(desk.out.split())
    assert "is not there Create it, or mount it." in told
    assert "fail GPU: none is found" in told or "ok GPU: cuda:0" in told
    assert re.search(r"fail model no such model: .*no model 'no such model'", told)


# --- the words


def test_every_error_code_has_advice() -> None:
    assert set(WHAT_TO_DO) == set(ErrorCode)
    assert find_hint("of_a_newer_version") == find_hint(None) == ""


def test_every_error_code_is_in_the_docs() -> None:
    """What happened, in the words of the code itself, and what to do."""
    docs = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    what_happened = _docstrings("ErrorCode")
    for code, advice in WHAT_TO_DO.items():
        assert f"### `{code}`\n\n{what_happened[code.name]}\n\n{advice}\n" in docs


def _docstrings(name: str) -> dict[str, str]:
    """The text below each member of an enum in errors.py."""
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
def test_ctrl_c_in_a_query_says_that_it_was_interrupted(ledger: Desk) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n"
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        assert ledger.asks("sql", "--timeout", "0", endless) == 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert "interrupted" in ledger.err


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_config_show_tells_no_secret(desk: Desk, tmp_path: Path, arguments: list[str]) -> None:
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
    assert desk.says("config", "show", "--config", str(file), *arguments) == 0
    assert "hidden" not in desk.out
    assert all(host in desk.out for host in ("one.example", "two.example", "three.example"))


@pytest.mark.parametrize(
    ("cause", "says", "never"),
    [
        (PERSON_PAUSE, "until `speakeasyd resume`", "by itself"),
        (PauseCause(PauseKind.OUTBOX, "in"), "It ends when the cause is removed", "resume"),
    ],
)
def test_status_says_which_pauses_end_by_themselves(
    ledger: Desk, cause: PauseCause, says: str, never: str
) -> None:
    async def note() -> None:
        async with opened(ledger.state / "ledger.db", clock=SystemClock()) as open_ledger:
            await open_ledger.write(store_state, "pauses", [describe_pause(cause, "for a reason")])

    asyncio.run(note())
    with LedgerLock(ledger.state):
        assert ledger.asks("status") == 0
        assert says in ledger.out
        assert never not in ledger.out
        assert ledger.gets("status")["paused_by"] == [describe_pause(cause, "for a reason")]


def test_why_and_doctor_name_the_pause(ledger: Desk) -> None:
    async def note(cause: PauseCause) -> None:
        async with opened(ledger.state / "ledger.db", clock=SystemClock()) as open_ledger:
            await open_ledger.write(
                store_state, "pauses", [describe_pause(cause, "its disk is full")]
            )

    asyncio.run(note(PauseCause(PauseKind.OUTBOX, "inbox")))
    with LedgerLock(ledger.state):
        assert ledger.why(ledger.inbox / "later.flac") == 0
        assert "It waits in the queue, which is paused: its disk is full" in ledger.out
        found = ledger.gets("doctor", "--inbox", str(ledger.inbox), "--device", "cpu")
        queue = {"what": "queue", "level": "warn", "mend": ""}
        assert queue | {"text": "paused (outbox inbox): its disk is full"} in found
        asyncio.run(note(PauseCause(PauseKind.OUTBOX, "another inbox")))
        assert ledger.why(ledger.inbox / "later.flac") == 0
        assert "It is waiting in the queue." in ledger.out


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [("speakeasyd st", {"status"}), ("speakeasyd search --li", {"--limit", "--line"})],
)
def test_bash_is_told_how_words_may_go_on(words: str, offered: set[str]) -> None:
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
