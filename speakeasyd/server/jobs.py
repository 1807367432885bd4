"""Jobs, their transcripts and their audio."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from itertools import takewhile
from mimetypes import guess_type
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Response

from speakeasyd.config import InboxSettings
from speakeasyd.domain.error_hints import find_hint
from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.job import JobId, Status
from speakeasyd.domain.options import Format
from speakeasyd.domain.tracks import split_transcript
from speakeasyd.domain.transcript import Transcript
from speakeasyd.ledger.job_details import SourceFile, find_job_row, find_source, load_job
from speakeasyd.ledger.job_lists import JobOrder, count_matching_jobs, list_job_ids
from speakeasyd.ledger.job_lists import list_jobs as load_jobs
from speakeasyd.ledger.publication import load_transcript
from speakeasyd.ledger.rows import ReadConnection, Row
from speakeasyd.outbox.source_folder import propose_archive_names
from speakeasyd.safe_open import FolderHandle, open_below
from speakeasyd.server.context import Lent, ServerContext
from speakeasyd.server.error_answers import RequestRefused
from speakeasyd.server.schemas import ChangedJobs, JobAnswer, JobDetails, Jobs, JobSelection
from speakeasyd.server.sound import OpenFileResponse

router = APIRouter(prefix="/jobs", tags=["jobs"])

_Text = Annotated[str | None, Query(max_length=1000)]
_Number = Annotated[int, Query(ge=0, lt=2**63)]


async def _read_filters(
    *,
    status: Status | None = None,
    batch: _Text = None,
    inbox: _Text = None,
    preset: _Text = None,
    q: Annotated[_Text, Query(description="Part of the path.")] = None,
) -> dict[str, object]:
    return {"status": status, "batch": batch, "inbox": inbox, "preset": preset, "part": q}


Filters = Annotated[dict[str, object], Depends(_read_filters)]


@router.get("", response_model=Jobs)
async def list_jobs(
    parts: Lent,
    filters: Filters,
    *,
    sort: JobOrder = JobOrder.NEWEST,
    before: _Number | None = None,
    offset: _Number = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Mapping[str, Any]:
    """List jobs, newest first unless `sort` says otherwise; `-` reverses an order.

    `before`: the `next` of the previous page, newest first only. `offset`: jobs to leave out.
    """
    newest_first = sort is JobOrder.NEWEST
    if before is not None and not newest_first:
        raise RequestRefused(422, "`before` is for the newest first", hint="Use `offset`.")
    jobs, total = await parts.ledger.clients.read(
        _load_page, filters, before=before, limit=limit + 1, order=sort, offset=offset
    )
    page = jobs[:limit]
    more = newest_first and len(jobs) > limit
    return {"jobs": page, "next": page[-1]["job_id"] if more else None, "total": total}


def _load_page(
    connection: ReadConnection,
    filters: dict[str, object],
    *,
    before: int | None,
    limit: int,
    order: JobOrder,
    offset: int,
) -> tuple[list[Row], int]:
    """Return a page of jobs, and how many match the filters."""
    asked = filters | {"before": before}
    jobs = load_jobs(connection, asked, limit=limit, order=order, offset=offset)
    return jobs, count_matching_jobs(connection, filters)


_Id = Annotated[int, "the number of a job"]


@router.get("/{job_id}", response_model=JobDetails)
async def get_job(parts: Lent, job_id: _Id) -> Row:
    """Everything about one job: its state, attempts, artifacts, incidents."""
    row = await _read_job(parts, load_job, job_id)
    return row | {"advice": find_hint(row["error_code"])}


@router.get("/{job_id}/transcript", response_class=Response)
async def get_transcript(
    parts: Lent,
    job_id: _Id,
    format: Annotated[Format | None, Query(description="Download in this format.")] = None,  # noqa: A002
    track: Annotated[int | None, Query(ge=1, description="Of this audio track only.")] = None,
) -> Response:
    """Return the finished transcript, or the text so far: as JSON, or as a download in any format.

    404 for a download of which there is no text, and for a track that has no transcript of its own.
    """
    row = await find_job(parts, job_id)
    transcript = await parts.ledger.clients.read(load_transcript, JobId(job_id))
    if format and not row["has_transcript"] and not transcript.segments:
        raise RequestRefused(
            404, f"there is no transcript: the job is {row['status']}", hint=str(row["error"] or "")
        )
    if track is not None:
        transcript = _find_track(transcript, track)
    wanted = FORMATS[format or "json"]
    body = await parts.calls.rendering.run(wanted.render_file, transcript)
    answer = Response(body, media_type=wanted.media_type)
    if format:
        name = f"{Path(str(row['path'])).stem}.{format}"
        answer.headers["Content-Disposition"] = (
            f"attachment; filename*=UTF-8''{quote(name, safe='')}"
        )
    return answer


def _find_track(transcript: Transcript, number: int) -> Transcript:
    """What is transcribed of one audio track. Raises RequestRefused if it is not kept apart."""
    for part in split_transcript(transcript).values():
        if part.track and part.track.number == number:
            return part
    raise RequestRefused(404, f"audio track {number} has no transcript of its own")


_PARTS: dict[int | str, dict[str, Any]] = {
    206: {"description": "A range."},
    416: {"description": "No such range."},
}


@router.get("/{job_id}/audio", response_class=Response, responses=_PARTS)
async def get_audio(parts: Lent, job_id: _Id) -> OpenFileResponse:
    """Return the source, or a range of it. 404: it is no longer in its inbox."""
    await find_job(parts, job_id)
    source = await parts.ledger.clients.read(find_source, job_id)
    inbox = next(
        (one for one in parts.settings.inboxes if source and one.name == source.inbox), None
    )
    if source is None or inbox is None:
        raise RequestRefused(404, _NO_AUDIO)
    calls = parts.calls.audio(inbox.name)
    opened = await calls.acquire(_open_source, OpenSource.close, inbox, source)
    guessed = guess_type(opened.name)[0] or ""
    sound = guessed.startswith(
        ("audio/", "video/")
    )  # nothing that a browser would show as a page of this server
    media_type = guessed if sound else "application/octet-stream"
    return OpenFileResponse(opened.file, opened.state, calls, media_type=media_type)


_NO_AUDIO = "the audio is no longer in the inbox"


@dataclass(frozen=True, slots=True)
class OpenSource:
    name: str
    file: FileIO
    state: os.stat_result

    def close(self) -> None:
        self.file.close()


def _open_source(inbox: InboxSettings, wanted: SourceFile) -> OpenSource:
    """Open the version that the job is about, in its inbox or archive.

    The checks apply to the open file, so a replacement or a link is never served. Raises
    RequestRefused: 404 if it is not there.
    """
    for root, path in _list_places(inbox, wanted.path):
        with suppress(OSError, ValueError):
            file = open_below(root, path)
            state = os.fstat(file.fileno())
            if (
                state.st_size,
                state.st_mtime_ns,
            ) in wanted.versions:  # a rename keeps both, and so does a copy
                return OpenSource(path, file, state)
            file.close()
    raise RequestRefused(404, _NO_AUDIO)


def _list_places(inbox: InboxSettings, path: bytes) -> Iterator[tuple[Path, str]]:
    """Yield the folders where the source may be, each with its path below it."""
    relative = os.fsdecode(path)
    yield inbox.path, relative
    above, slash, name = relative.rpartition("/")
    for folder in filter(None, (inbox.archive, inbox.failed)):
        with suppress(OSError), FolderHandle.open(folder, above) as handle:
            for candidate in takewhile(handle.has, propose_archive_names(name)):
                yield folder, f"{above}{slash}{candidate}"


async def find_job(parts: ServerContext, job_id: int) -> Row:
    """Return the row of `job_status`. Raises RequestRefused: 404 for an unknown job."""
    return await _read_job(parts, find_job_row, job_id)


def _can_be_job(job_id: int) -> bool:
    """Return whether the number is in SQLite's range for a job."""
    return 0 <= job_id < 2**63


async def _read_job(
    parts: ServerContext, query: Callable[[ReadConnection, int], Row | None], job_id: int
) -> Row:
    row = await parts.ledger.clients.read(query, job_id) if _can_be_job(job_id) else None
    if row is None:
        raise RequestRefused(404, f"there is no job {job_id}")
    return row


_Wish = Literal["retry", "cancel"]


@router.post("/{wish}")
async def change_jobs(
    parts: Lent, wish: _Wish, filters: Filters, chosen: JobSelection | None = None
) -> ChangedJobs:
    """Retry ended jobs, or cancel jobs that have not ended: those of the body, or all that match.

    Jobs whose state does not allow it are left out. Without a `status`, a retry is of failed jobs.
    """
    if chosen:
        job_ids = list(filter(_can_be_job, chosen.job_ids))
    else:
        if wish == "retry" and not filters["status"]:
            filters["status"] = Status.FAILED
        job_ids = await parts.ledger.clients.read(list_job_ids, filters)
    return ChangedJobs(jobs=await _change_jobs(parts, wish, job_ids))


@router.post("/{job_id}/{wish}", response_model=JobAnswer)
async def change_job(parts: Lent, job_id: _Id, wish: _Wish) -> Row:
    """Retry an ended job, or cancel one that has not ended. 409: not possible in its state."""
    row = await find_job(parts, job_id)
    if not await _change_jobs(parts, wish, [job_id]):
        raise RequestRefused(409, f"the job is {row['status']}", hint=_WHY_NOT[wish])
    return await find_job(parts, job_id)


async def _change_jobs(parts: ServerContext, wish: _Wish, job_ids: Sequence[int]) -> list[JobId]:
    ledger = parts.ledger
    return await (ledger.retry_jobs(job_ids) if wish == "retry" else ledger.cancel_jobs(job_ids))


_WHY_NOT = {
    "retry": "Only an ended job whose file was not replaced can be retried.",
    "cancel": "Only a job that has not ended can be cancelled.",
}
