"""The ledger for programs in Python: jobs, transcripts and search. It only reads."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from speakeasyd.config import load_configuration
from speakeasyd.domain.job import Status
from speakeasyd.domain.transcript import Transcript, WarningKind
from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger.job_details import find_job_row
from speakeasyd.ledger.job_lists import list_jobs
from speakeasyd.ledger.readonly import LEDGER, QUERY_S, open_snapshot, query_readonly
from speakeasyd.ledger.rows import Parameters, Row
from speakeasyd.ledger.search import SearchFilters, SearchHit, search_text

_PAGE = 500  # jobs that are read at once

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as the SQL view `job_status` shows it: docs/sql.md explains the columns.

    Times are UTC in ISO 8601. Columns that a ledger of an earlier version lacks are None.
    """

    job_id: int
    batch: str
    inbox: str
    path: str  # of the source, relative to the inbox
    status: Status
    progress: float | None  # 0 to 1
    attempts: int
    audio_seconds: float | None
    language: str | None
    model: str | None
    device: str | None
    error_code: str | None
    error: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    available_at: str | None
    preset: str | None
    warning: str | None
    crashes: int
    compute_seconds: float | None
    language_probability: float | None
    bytes: int
    sha256: str
    priority: int
    requested_model: str
    duplicate_of: int | None = None
    warning_kinds: frozenset[WarningKind] = frozenset()
    superseded_by: int | None = None
    retry_error: str | None = None
    has_transcript: bool = False
    container_seconds: float | None = None


class Ledger:
    """Reads a ledger, with or without a running daemon. It cannot change it.

    Every call reads one snapshot and closes the database. Errors: SpeakeasyError, with a `hint`, if
    there is no ledger or it cannot be read.

    >>> ledger = Ledger("state")
    >>> for job in ledger.jobs(status="completed"):
    ...     print(job.job_id, job.path, job.audio_seconds)
    1 monday.mp3 60.0
    >>> ledger.transcript(1).text
    'Good morning. The budget is agreed.'
    >>> [(hit.path, hit.start, hit.snippet) for hit in ledger.search("budg*")]
    [('monday.mp3', 10.0, ' The [budget] is agreed.')]
    """

    def __init__(self, path: str | Path | None = None) -> None:
        """`path`: the state folder or its `ledger.db`; None: that of the user's configuration."""
        place = load_configuration().settings.state if path is None else Path(path)
        self.path = place if place.name.endswith(".db") else place / LEDGER

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r})"

    def jobs(
        self,
        *,
        status: str | None = None,
        batch: str | None = None,
        inbox: str | None = None,
        preset: str | None = None,
        path: str | None = None,
    ) -> Iterator[JobRecord]:
        """Yield the jobs, newest first.

        `path`: a part of it, in any case. The others are compared as a whole.
        """
        filters: dict[str, object] = {
            "status": status,
            "batch": batch,
            "inbox": inbox,
            "preset": preset,
            "part": path,
        }
        while rows := self._read(list_jobs, filters, limit=_PAGE):
            yield from map(_build_record, rows)
            filters["before"] = rows[-1]["job_id"]

    def job(self, job_id: int) -> JobRecord:
        """Return one job. Raises SpeakeasyError if there is none with this number."""
        row = self._read(find_job_row, job_id)
        if row is None:
            raise SpeakeasyError(
                f"there is no job {job_id}", hint="`speakeasyd jobs` lists the jobs."
            )
        return _build_record(row)

    def transcript(self, job_id: int) -> Transcript:
        """Return the transcript of a job: the finished one, else what is transcribed so far.

        Raises SpeakeasyError if there is no such job.
        """
        # SQLAlchemy is slow to import: only this needs it.
        from speakeasyd.ledger.transcript_reading import read_transcript  # noqa: PLC0415

        return read_transcript(self.path, job_id)

    def transcripts(
        self, *, batch: str | None = None, inbox: str | None = None, preset: str | None = None
    ) -> Iterator[Transcript]:
        """Yield the finished transcripts, newest first, without those of replaced files."""
        for job in self.jobs(batch=batch, inbox=inbox, preset=preset):
            if job.has_transcript and job.superseded_by is None:
                yield self.transcript(job.job_id)

    def search(
        self,
        words: str,
        *,
        limit: int = 20,
        since: str | None = None,
        until: str | None = None,
        batch: str | None = None,
        inbox: str | None = None,
        preset: str | None = None,
        speaker: str | None = None,
    ) -> Sequence[SearchHit]:
        """Return segments with all of these words, best first; of very common words, newest first.

        `"in quotes"`: a phrase; `trans*`: a prefix; `-not`: must not occur. `since` and `until`:
        when the file was received, such as `2026-05` or `2026-05-31`. `speaker`: a part of the
        name.
        """
        filters = SearchFilters(
            since=since, until=until, batch=batch, inbox=inbox, preset=preset, speaker=speaker
        )
        return self._read(search_text, words, limit=limit, filters=filters)

    def query(
        self, sql: str, parameters: Parameters = (), *, limit_s: float = QUERY_S
    ) -> list[Row]:
        """Return the rows of an SQL query as dictionaries. docs/sql.md has the views.

        Raises SpeakeasyError if the query is wrong, does more than read, or takes longer than
        `limit_s` seconds.
        """
        return query_readonly(self.path, sql, parameters, limit_s=limit_s)

    def _read(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        with open_snapshot(self.path) as connection:
            return query(connection, *args, **kwargs)


_FIELDS = frozenset(field.name for field in fields(JobRecord))


def _build_record(row: Row) -> JobRecord:
    values: dict[str, Any] = dict.fromkeys(_FIELDS) | {
        name: value for name, value in row.items() if name in _FIELDS
    }
    values["status"] = Status(values["status"])
    values["has_transcript"] = bool(values["has_transcript"])
    values["warning_kinds"] = frozenset(
        map(WarningKind, json.loads(values["warning_kinds"] or "[]"))
    )
    return JobRecord(**values)
