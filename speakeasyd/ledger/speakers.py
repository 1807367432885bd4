"""The speakers of a job in the ledger: what the worker found, the numbers, and users' changes."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, select, update

from speakeasyd.domain.diarization import ChunkSpeakers, LocalKey, Speaker
from speakeasyd.domain.event_payloads import JobSpeakersChanged
from speakeasyd.domain.file_speakers import FileSpeakers
from speakeasyd.domain.job import JobId, Status, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.transcript import WarningKind
from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger import retries
from speakeasyd.ledger.tables import NO_WAIT, jobs
from speakeasyd.ledger.text_columns import encode_json, parse_kinds, parse_speakers
from speakeasyd.ledger.transitions import require_claims
from speakeasyd.ledger.writer import Transaction

_AGAIN: dict[str, object] = {
    "status": Status.PENDING,
    "finished_at": None,
    "attempts": 0,
    "crashes": 0,
    "error_code": None,
    "error": None,
}
"""Columns of a job whose transcript is published again."""


@dataclass(frozen=True, slots=True)
class JobSpeakers:
    """What the ledger knows about the speakers of a job."""

    options: Options
    speakers: tuple[Speaker, ...] | None  # None: not found yet
    numbers: Mapping[int, tuple[int, ...]]  # by chunk: of each local speaker
    chunks: tuple[tuple[int, ChunkSpeakers], ...]  # index and speakers of each chunk
    words: Mapping[LocalKey, int]  # how many each local speaker says

    @property
    def file_speakers(self) -> FileSpeakers:
        return FileSpeakers(self.speakers or (), self.numbers)

    @property
    def errors(self) -> list[str]:
        """Why the speakers of some chunks are not known, each reason once."""
        return list(dict.fromkeys(found.error for _, found in self.chunks if found.error))


def load_job_speakers(connection: Connection, job_id: JobId) -> JobSpeakers:
    """Return the speakers of the current attempt. Raises SpeakeasyError for an unknown job."""
    columns = select(jobs.c.options, jobs.c.speakers).where(jobs.c.id == job_id)
    job = connection.execute(columns).one_or_none()
    if job is None:
        raise _unknown_job(job_id)
    rows = retries.read_work_chunks(connection, job_id)
    words: Counter[LocalKey] = Counter()
    for row in retries.read_work_segments(connection, job_id):
        if row["local_speaker"] is not None:
            words[LocalKey(row["chunk"], row["local_speaker"])] += len(row["text"].split())
    return JobSpeakers(
        Options.model_validate_json(job.options),
        None if job.speakers is None else parse_speakers(job.speakers),
        {row["number"]: tuple(json.loads(row["speaker_numbers"] or "[]")) for row in rows},
        tuple(
            (row["number"], ChunkSpeakers.from_json(json.loads(row["speakers"])))
            for row in rows
            if row["speakers"]
        ),
        words,
    )


def store_found_speakers(
    tx: Transaction, job_id: JobId, token: Token, found: FileSpeakers, warning: str = ""
) -> None:
    """Store the speakers of a transcribed job. Raises ClaimLost.

    `warning`: why some or all of them are not known.
    """
    require_claims(tx, [(job_id, token)])
    retries.store_speaker_numbers(tx, job_id, found.numbers)
    values: dict[str, object] = {"speakers": _encode_speakers(found.speakers)}
    if warning:
        columns = select(jobs.c.warning, jobs.c.warning_kinds).where(jobs.c.id == job_id)
        job = tx.connection.execute(columns).one()
        kinds = parse_kinds(job.warning_kinds) | {WarningKind.OTHER}
        values["warning"] = "; ".join(filter(None, [job.warning, warning]))
        values["warning_kinds"] = encode_json(sorted(kinds))
    tx.connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


def _encode_speakers(speakers: Sequence[Speaker]) -> str:
    return encode_json([asdict(speaker) for speaker in speakers])


def replace_speakers(
    tx: Transaction, job_id: JobId, found: FileSpeakers, *, expected: tuple[Speaker, ...]
) -> None:
    """Change the speakers of a completed job, and have its transcript published again.

    The finished transcript stays as it is until then, as in a retry. `expected`: the speakers as
    the caller read them. Raises SpeakeasyError if the job has changed since then or is not completed.
    """
    columns = select(jobs.c.status, jobs.c.speakers, jobs.c.superseded_by).where(
        jobs.c.id == job_id
    )
    job = tx.connection.execute(columns).one_or_none()
    if job is None:
        raise _unknown_job(job_id)
    if job.status != Status.COMPLETED:
        raise SpeakeasyError(
            f"job {job_id} is {job.status}, not completed",
            hint="Its speakers can be changed when its transcript is complete.",
        )
    if job.superseded_by is not None:
        raise SpeakeasyError(
            f"a newer version of the file replaced job {job_id}",
            hint=f"Change the speakers of job {job.superseded_by}.",
        )
    if parse_speakers(job.speakers) != expected:
        raise SpeakeasyError(f"the speakers of job {job_id} have just changed", hint="Try again.")
    publish_again(tx, job_id, found.speakers)
    retries.store_speaker_numbers(tx, job_id, found.numbers)


def publish_again(tx: Transaction, job_id: JobId, speakers: Sequence[Speaker]) -> None:
    """Have the transcript of a completed job published again, with these speakers."""
    retries.begin_copy(tx, job_id, [*_AGAIN, "speakers"])
    values = _AGAIN | {"available_at": NO_WAIT, "speakers": _encode_speakers(speakers)}
    tx.connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
    names = [speaker.label for speaker in speakers]
    tx.record_event(JobSpeakersChanged(speakers=names), job_id)


def store_speakers(tx: Transaction, job_id: JobId, speakers: Sequence[Speaker]) -> None:
    """Store the table of speakers of a job, without more."""
    values = {"speakers": _encode_speakers(speakers)}
    tx.connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


def _unknown_job(job_id: JobId) -> SpeakeasyError:
    return SpeakeasyError(f"there is no job {job_id}", hint="`speakeasyd jobs` lists them.")
