"""A migration of the ledger is complete or changes nothing."""

import json
import runpy
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path, PurePath

import pytest
from sqlalchemy import create_engine

from speakeasyd.domain.incidents import ACTION_WORDS, IncidentAction
from speakeasyd.errors import LedgerError
from speakeasyd.ledger import views
from speakeasyd.ledger.migrate import (
    find_schema,
    find_scripts,
    known_revisions,
    migrate_ledger,
    require_local_filesystem,
)
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.tables import metadata
from tests.ledgers import build_job, create_ledger, open_ledger
from tools.write_schema import PATTERN, build_schema, read_statements

NEXT_MIGRATION = """
from alembic import op

revision = "9999"
down_revision = {down!r}


def upgrade():
    op.execute("ALTER TABLE jobs ADD COLUMN mood TEXT")
    {middle}
    op.execute("UPDATE jobs SET mood = 'good'")
"""


OLD_JOB = """
    INSERT INTO jobs (batch, inbox, path_raw, path, size, mtime_ns, inode, sha256, options, requested_model, status,
                      created_at, available_at, finished_at, warning)
    VALUES ('talks', 'inbox', ?, ?, 1, 1, 1, 'x', '{}', 'auto', 'completed', '2026', '2026', '2026', ?)
"""
OLD_SEGMENT = """
    UPDATE jobs SET language = 'nl' WHERE id = 1;
    INSERT INTO chunks (job_id, number, start_seconds, end_seconds, committed_at) VALUES (1, 0, 0, 2, '2026');
    INSERT INTO segments (job_id, chunk, position, start_seconds, end_seconds, text, avg_logprob, compression_ratio,
                          no_speech_prob)
    VALUES (1, 0, 0, 0, 2, ' Dag.', -0.1, 1.0, 0.0);
"""
OLD_INCIDENT = """
    INSERT INTO incident_records (at, kind, phase, device, error, action)
    VALUES ('2026', 'hang', 'encode', 'cpu', ?, ?)
"""
OLD_STATE = """
    INSERT INTO state (key, value, updated_at)
    VALUES ('inbox talks', '{"path": "/in"}', '2026'), ('daemon', '{}', '2026')
"""
OLD_EVENT = "INSERT INTO events (at, kind, data) VALUES ('2026', 'incident.opened', ?)"
OLD_INCIDENTS = [
    ("the worker crashed: SIGSEGV: at 0x0", "a fresh worker takes over", "start_worker"),
    (
        "the driver is missing",
        "no workers are started until the daemon is restarted",
        "wait_for_restart",
    ),
    ("", "something else", "other"),
]
OLD_WARNINGS = {
    None: None,
    "cut or damaged: 1.0 s of 9.0 s could be decoded": "cut",
    "a stand-in was executed; cut: the file ends early, after 2.0 s": "cut",
    "damaged: 3 frames could not be decoded and were left out": "damaged",
    "not transcribed: 1.0 s to 2.0 s": "left_out",
    "a stand-in was executed": "other",
}


def read_schema(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def test_a_new_ledger_is_what_the_migrations_make(tmp_path: Path) -> None:
    """If not: `python -m tools.write_schema`."""
    [schema] = find_scripts().glob(PATTERN)
    assert schema == find_schema(find_scripts())
    assert schema.name == f"schema_{read_head()}.sql"
    made = build_schema()
    assert schema.read_text("utf-8") == made
    migrate_ledger(tmp_path / "new.db")
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        assert read_statements(connection) == made


def read_moods(path: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT mood FROM jobs").fetchall()


REVISIONS = sorted(known_revisions())


def read_head() -> str:
    return REVISIONS[-1]


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """The path of a current ledger with one job."""
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await ledger.write(add_jobs, [build_job("a.wav")])
    return tmp_path / "ledger.db"


@pytest.fixture
def newer_scripts(tmp_path: Path) -> Path:
    """Migrations with an additional one."""
    return add_next_migration(tmp_path / "tomorrow", middle="pass")


def add_next_migration(scripts: Path, *, middle: str) -> Path:
    shutil.copytree(find_scripts(), scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / "9999_next.py").write_text(
        NEXT_MIGRATION.format(down=read_head(), middle=middle), encoding="utf-8"
    )
    return scripts


def test_the_tables_in_code_are_those_of_the_migrations(tmp_path: Path) -> None:
    migrate_ledger(tmp_path / "migrated.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'declared.db'}")
    metadata.create_all(engine)
    engine.dispose()
    declared = {
        name: split_definition(sql) for name, sql in read_schema(tmp_path / "declared.db").items()
    }
    migrated = {
        name: split_definition(sql) for name, sql in read_schema(tmp_path / "migrated.db").items()
    }
    assert {name: migrated[name] for name in declared} == declared
    more = migrated.keys() - declared.keys() - views.VIEWS.keys()
    assert {name for name in more if not name.startswith(("jobs_", "segments_"))} == {
        "alembic_version"
    }  # triggers, FTS


def split_definition(sql: str) -> list[str]:
    """Return the parts of a table's definition.

    SQLite appends migrated columns after the constraints, so their order is ignored.
    """
    return sorted("".join(sql.split()).removesuffix(")").split(","))


def test_a_second_migration_changes_nothing(path: Path) -> None:
    before = read_schema(path)
    migrate_ledger(path)
    assert read_schema(path) == before
    assert not (path.parent / "backups").exists()


def test_a_new_ledger_is_ready_for_many_readers(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_an_upgrade_keeps_a_copy(
    path: Path, newer_scripts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "speakeasyd")
    migrate_ledger(path, scripts=newer_scripts)
    assert read_moods(path) == [("good",)]
    [copy] = (path.parent / "backups").iterdir()
    assert "mood" not in read_schema(copy)["jobs"]
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT path FROM job_status").fetchall() == [("a.wav",)]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    begun, kept, done = caplog.messages
    assert begun.startswith("upgrading the ledger")
    assert str(copy) in kept
    assert done == "the ledger is upgraded"


def test_a_ledger_of_the_first_version_keeps_its_jobs(tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(
        find_scripts(), first, ignore=shutil.ignore_patterns("__pycache__", "000[2-9]*", "00[1-9]*")
    )
    path = tmp_path / "ledger.db"
    migrate_ledger(path, scripts=first)
    with closing(sqlite3.connect(path)) as connection, connection:
        assert "deliveries" not in read_schema(path)
        connection.execute("INSERT INTO batches (name, created_at) VALUES ('talks', '2026')")
        for number, warning in enumerate(OLD_WARNINGS):
            name = f"{number}.wav"
            connection.execute(OLD_JOB, [name, name, warning])
        connection.executescript(OLD_SEGMENT)
        connection.execute(OLD_STATE)
        for error, action, _ in OLD_INCIDENTS:
            connection.execute(OLD_INCIDENT, [error, action])
            data = json.dumps({"error": error, "action": action})
            connection.execute(OLD_EVENT, [data])
    migrate_ledger(path)
    assert "deliveries" in read_schema(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT batch FROM batch_progress").fetchall() == [("talks",)]
        kinds = connection.execute("SELECT warning, warning_kinds FROM job_status").fetchall()
        texts = connection.execute("SELECT path, language, text FROM segments_text").fetchall()
        incidents = connection.execute(
            "SELECT error, action_kind, summary, detail FROM incidents"
        ).fetchall()
        action_kinds = connection.execute("SELECT data ->> '$.action_kind' FROM events").fetchall()
        new = "SELECT speaker, confidence FROM segments_text"
        assert connection.execute(new).fetchall() == [(None, None)]
        assert connection.execute("SELECT * FROM speakers").fetchall() == []
        watched = connection.execute("SELECT inbox, value ->> 'path' FROM inbox_states").fetchall()
        assert connection.execute("SELECT key FROM state").fetchall() == [("daemon",)]
    assert watched == [("talks", "/in")]
    assert {warning: found and json.loads(found)[0] for warning, found in kinds} == OLD_WARNINGS
    assert texts == [("0.wav", "nl", " Dag.")]
    assert [(error, kind) for error, kind, _, _ in incidents] == [
        (error, kind) for error, _, kind in OLD_INCIDENTS
    ]
    assert incidents[0][2:] == ("the worker crashed", "SIGSEGV: at 0x0")
    assert incidents[1][2:] == ("the driver is missing", "")
    assert action_kinds == [(kind,) for _, _, kind in OLD_INCIDENTS]


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_every_earlier_version_comes_up_to_date(tmp_path: Path, revision: str) -> None:
    then = tmp_path / "then"
    shutil.copytree(find_scripts(), then, ignore=shutil.ignore_patterns("__pycache__"))
    for script in (then / "versions").glob("[0-9]*.py"):
        if script.name.partition("_")[0] > revision:
            script.unlink()
    path, new = tmp_path / "ledger.db", tmp_path / "new.db"
    migrate_ledger(path, scripts=then)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO batches (name, created_at) VALUES ('talks', '2026')")
        connection.execute(OLD_JOB, ["a.wav", "a.wav", None])
    migrate_ledger(path)
    create_ledger(new)
    upgraded, fresh = read_schema(path), read_schema(new)
    assert {name: split_definition(sql) for name, sql in upgraded.items()} == {
        name: split_definition(sql) for name, sql in fresh.items()
    }
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT path, status FROM job_status").fetchall() == [
            ("a.wav", "completed")
        ]


def test_every_stored_action_is_known() -> None:
    path = find_scripts() / "versions" / "0007_incidents.py"
    written = runpy.run_path(str(path))["ACTIONS_BY_TEXT"]
    assert set(written.values()) <= set(IncidentAction)
    assert {written[text] for text in ACTION_WORDS.values() if text in written} == set(
        written.values()
    ), "the present wording is among those that were stored"


def test_the_last_three_copies_are_kept(path: Path, newer_scripts: Path) -> None:
    for _ in range(5):
        previous = path.read_bytes()
        migrate_ledger(path, scripts=newer_scripts)
        assert read_moods(path) == [("good",)]
        path.write_bytes(previous)
    assert len(list((path.parent / "backups").iterdir())) == 3


def test_a_newer_ledger_is_refused_and_unchanged(path: Path, newer_scripts: Path) -> None:
    migrate_ledger(path, scripts=newer_scripts)
    before = read_schema(path)
    with pytest.raises(LedgerError, match="newer version") as refused:
        migrate_ledger(path)
    assert refused.value.hint
    assert read_schema(path) == before


def test_an_upgrade_that_fails_changes_nothing(path: Path, tmp_path: Path) -> None:
    scripts = add_next_migration(
        tmp_path / "broken", middle='op.execute("INSERT INTO nowhere VALUES (1)")'
    )
    before = read_schema(path)
    with pytest.raises(LedgerError, match="cannot be created or upgraded"):
        migrate_ledger(path, scripts=scripts)
    assert read_schema(path) == before


def test_an_upgrade_that_breaks_references_changes_nothing(path: Path, tmp_path: Path) -> None:
    scripts = add_next_migration(
        tmp_path / "broken", middle="op.execute(\"UPDATE jobs SET batch = 'nowhere'\")"
    )
    with pytest.raises(LedgerError, match="broken references"):
        migrate_ledger(path, scripts=scripts)
    assert "mood" not in read_schema(path)["jobs"]


def test_a_killed_upgrade_is_completed_at_the_next_start(
    path: Path, tmp_path: Path, newer_scripts: Path
) -> None:
    scripts = add_next_migration(tmp_path / "killed", middle="import os; os.kill(os.getpid(), 9)")
    code = (
        "import sys; from pathlib import Path; from speakeasyd.ledger.migrate import migrate_ledger as migrate;"
        "migrate(Path(sys.argv[1]), scripts=Path(sys.argv[2]))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path), str(scripts)], check=False)
    assert killed.returncode not in {0, 1}
    assert "mood" not in read_schema(path)["jobs"]
    migrate_ledger(path, scripts=newer_scripts)
    assert read_moods(path) == [("good",)]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_views_are_updated_without_a_migration(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = read_schema(path)["job_status"]
    monkeypatch.setattr(views, "VIEWS", {"job_status": "SELECT id AS job_id, 1 AS more FROM jobs"})
    migrate_ledger(path)
    assert set(views.VIEWS) == {
        name for name, sql in read_schema(path).items() if sql.startswith("CREATE VIEW")
    }
    monkeypatch.undo()
    migrate_ledger(path)
    assert read_schema(path)["job_status"] == today


def test_a_damaged_ledger_is_reported(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no database, " * 1000)
    with pytest.raises(LedgerError, match="damaged") as refused:
        migrate_ledger(tmp_path / "ledger.db")
    assert "backups" in refused.value.hint


# --- unsupported locations


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "NFS"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(LedgerError, match="network filesystem") as refused:
        require_local_filesystem(
            tmp_path / "ledger.db",
            [(PurePath(tmp_path.anchor), "ext4"), (tmp_path.resolve(), kind)],
        )
    assert "inboxes and outboxes may stay" in refused.value.hint
    require_local_filesystem(tmp_path / "ledger.db")  # the real type
