"""Publication: renders and writes transcripts, completes the jobs, disposes of the sources."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import PurePosixPath
from typing import Concatenate, ParamSpec, TypeVar

from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.job import EndedJob, Job, JobId
from speakeasyd.domain.naming import propose_names
from speakeasyd.domain.tracks import split_transcript
from speakeasyd.domain.transcript import Artifact, OwnFile, Transcript, WarningKind
from speakeasyd.errors import ErrorCode, FileFault
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.publication import (
    JobArtifacts,
    complete_jobs,
    find_taken_names,
    load_publications,
    reserve_artifacts,
)
from speakeasyd.ledger.transitions import split_into_slices
from speakeasyd.outbox.publish import Outbox
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.shared_calls import SharedCalls
from speakeasyd.services.source_disposal import SourceDisposal
from speakeasyd.services.speakers import SpeakerLabeller
from speakeasyd.thread_group import ThreadGroup

P = ParamSpec("P")
T = TypeVar("T")

MOST_TOGETHER = 16  # jobs that are completed together
WRITTEN_TOGETHER = 4  # jobs in one call of the outbox: they share the time for its answer


@dataclass(frozen=True, slots=True)
class _Rendered:
    """What is to be written for a job."""

    job: Job
    transcript: Transcript
    own: Sequence[OwnFile]
    files: Mapping[str, bytes]  # by ending


class Publisher:
    """Publishes transcripts. Every step is idempotent: call `publish_job` again after a failure."""

    def __init__(self, *, ledger: Ledger, outboxes: Outboxes, sources: SourceDisposal) -> None:
        self._ledger = ledger
        self._outboxes = outboxes
        self._sources = sources
        self._labeller = SpeakerLabeller(ledger)
        # One at a time: more threads of Python would not be faster, and would delay all others
        self._render_threads = ThreadGroup("render")
        self._completions = SharedCalls(self._complete_jobs, most=MOST_TOGETHER)

    async def publish_job(self, job: Job) -> None:
        """Write the artifacts of a transcribed job, complete it, and dispose of its source.

        Raises OutboxUnavailable (retry later), FileFault (no name can be written), ClaimLost,
        LedgerUnwritable.
        """
        await self._labeller.label_job(job)
        ended = await self._completions.call(job.inbox, job)
        await self._sources.dispose_source(job.inbox, ended)

    async def _complete_jobs(self, jobs: Sequence[Job]) -> list[EndedJob]:
        """Write the artifacts of jobs of one inbox and complete them. Raises as `publish_job`.

        Most of the cost of a step does not depend on how many jobs take it. If it fails for one
        job, it fails for all of them.
        """
        inbox = jobs[0].inbox
        loaded = await self._ledger.read(load_publications, [job.id for job in jobs])
        rendered = await self._render_threads.run(_render_jobs, jobs, loaded)
        reserved = await self._reserve_artifacts(inbox, rendered)
        written = await self._call_outbox(inbox, _replace_files, rendered, reserved)
        await self._ledger.write(complete_jobs, written)
        return [
            _build_ended_job(one.job, warnings=one.transcript.warning_kinds) for one in rendered
        ]

    async def _call_outbox(
        self,
        inbox: str,
        function: Callable[Concatenate[Outbox, Sequence[T], P], Iterable[JobArtifacts]],
        items: Sequence[T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[JobArtifacts]:
        """Call a function with a few of the items at a time; the calls run at the same time.

        Raises OutboxUnavailable and FileFault, when all calls have ended.
        """
        calls = (
            self._outboxes.call_outbox(
                inbox, function, self._outboxes[inbox], some, *args, **kwargs
            )
            for some in split_into_slices(items, WRITTEN_TOGETHER)
        )
        found = list[JobArtifacts]()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            found += result
        return found

    async def publish_failure(self, job: Job, code: ErrorCode, error: str) -> None:
        """Dispose of the source of a failed job, with a note that says why."""
        await self._sources.dispose_source(job.inbox, _build_ended_job(job, failure=(code, error)))

    async def _reserve_artifacts(
        self, inbox: str, rendered: Sequence[_Rendered]
    ) -> dict[JobId, JobArtifacts]:
        """Reserve the artifacts of each job under the best name that is free or own.

        Raises FileFault if every name is taken, OutboxUnavailable, ClaimLost, LedgerUnwritable.
        """
        names = {one.job.id: self._propose_names(one) for one in rendered}
        reserved: dict[JobId, JobArtifacts] = {}
        while wanting := [one for one in rendered if one.job.id not in reserved]:
            proposed = [(await _next_name(names[one.job.id], one.job), one) for one in wanting]
            intended = await self._call_outbox(inbox, _build_artifacts, proposed)
            refused = await self._ledger.write(reserve_artifacts, intended)
            reserved |= {one.job_id: one for one in intended if one.job_id not in refused}
        return reserved

    async def _propose_names(self, rendered: _Rendered) -> AsyncIterator[str]:
        """Yield the best name, which is nearly always free, then others that no other job has."""
        job = rendered.job
        folder, _, source = os.fsdecode(job.path).rpartition("/")
        names = propose_names(
            job.options.name, _build_name_fields(job, source, rendered.transcript), folder=folder
        )
        yield next(names)
        paths = {name: [f"{name}.{ending}" for ending in rendered.files] for name in names}
        outbox = str(self._outboxes[job.inbox].path)
        taken = await self._ledger.read(
            find_taken_names, outbox, list(chain(*paths.values())), job_id=job.id
        )
        for name, of_name in paths.items():
            if taken.isdisjoint(of_name):
                yield name


def _build_ended_job(
    job: Job,
    *,
    failure: tuple[str, str] | None = None,
    warnings: frozenset[WarningKind] = frozenset(),
) -> EndedJob:
    return EndedJob(job.id, job.path, job.signature, job.sha256, failure, warnings)


async def _next_name(names: AsyncIterator[str], job: Job) -> str:
    """Return the next proposed name. Raises FileFault after the last."""
    try:
        return await anext(names)
    except StopAsyncIteration:
        raise FileFault(
            ErrorCode.OUTPUT_REFUSED,
            f"every name for the transcript is taken, up to `(job {job.id})`",
            hint="Put {job_id} or {stem} into the naming template.",
        ) from None


def _render_jobs(
    jobs: Sequence[Job], loaded: Sequence[tuple[Transcript, Sequence[OwnFile]]]
) -> list[_Rendered]:
    return [
        _Rendered(job, transcript, own, _render_formats(transcript, job.options.formats))
        for job, (transcript, own) in zip(jobs, loaded, strict=True)
    ]


def _render_formats(transcript: Transcript, formats: Sequence[str]) -> dict[str, bytes]:
    """Return the files by ending, in the order in which they are written.

    An ending is `srt`, or `eng.srt` where tracks have their own transcripts.
    """
    parts = split_transcript(transcript)
    specs = sorted(
        {FORMATS[name] for name in formats}, key=lambda spec: (spec.written_last, spec.name)
    )
    return {
        f"{label}.{spec.name}" if label else spec.name: spec.render_file(part)
        for spec in specs
        for label, part in parts.items()
    }


def _hashes_by_path(outbox: Outbox, own: Sequence[OwnFile]) -> dict[str, frozenset[str]]:
    return {file.path: file.hashes for file in own if file.outbox == str(outbox.path)}


def _build_artifacts(
    outbox: Outbox, proposed: Sequence[tuple[str, _Rendered]]
) -> list[JobArtifacts]:
    """Return the artifacts of jobs under the proposed names. Blocks.

    Leaves out a job whose name is taken by other bytes than ours, such as a file that a user edited.
    """
    outbox.require_folder()
    intended = []
    for name, rendered in proposed:
        ours = _hashes_by_path(outbox, rendered.own)
        artifacts = [
            Artifact(
                format=ending.rpartition(".")[2],
                outbox=str(outbox.path),
                path=f"{name}.{ending}",
                sha256=hashlib.sha256(data).hexdigest(),
                bytes=len(data),
            )
            for ending, data in rendered.files.items()
        ]
        if all(
            outbox.hash_existing(new.path) in {None, new.sha256, *ours.get(new.path, frozenset())}
            for new in artifacts
        ):
            intended.append(JobArtifacts(rendered.job.id, rendered.job.token, artifacts))
    return intended


def _replace_files(
    outbox: Outbox, rendered: Sequence[_Rendered], reserved: Mapping[JobId, JobArtifacts]
) -> list[JobArtifacts]:
    """Write the new files, then remove own files with other names. Blocks.

    Returns the publications with the removed files. In this order, so that there is always a
    transcript. Files that a user edited stay.
    """
    new = {
        artifact.path: data
        for one in rendered
        for artifact, data in zip(reserved[one.job.id].artifacts, one.files.values(), strict=True)
    }
    outbox.write_files(
        new, replacing=_hashes_by_path(outbox, [file for one in rendered for file in one.own])
    )
    return [
        replace(
            reserved[one.job.id],
            removed=[
                file
                for file in one.own
                if file.outbox == str(outbox.path)
                and file.path not in new
                and outbox.remove_file(file.path, hashes=file.hashes)
            ],
        )
        for one in rendered
    ]


def _build_name_fields(job: Job, name: str, transcript: Transcript) -> dict[str, str]:
    suffix = PurePosixPath(name).suffix
    return {
        "stem": name.removesuffix(suffix),
        "name": name,
        "ext": suffix.removeprefix("."),
        "preset": job.preset or "default",
        "language": transcript.language or "unknown",
        "date": _format_day(job.signature.mtime_ns),
        "job_id": str(job.id),
        "batch": job.batch,
        "model": transcript.model,
    }


def _format_day(mtime_ns: int) -> str:
    """Return the local date of a file's modification time, which recorders set.

    It does not depend on when the job is published.
    """
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=mtime_ns // 1000)
        return moment.astimezone().date().isoformat()
    except (OverflowError, OSError, ValueError):  # the time is out of range
        return "unknown"
