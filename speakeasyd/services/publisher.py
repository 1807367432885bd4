"""Publication: renders and writes a transcript, completes the job, disposes of the source."""

import hashlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import PurePosixPath

from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.job import EndedJob, Job
from speakeasyd.domain.naming import propose_names
from speakeasyd.domain.tracks import split_transcript
from speakeasyd.domain.transcript import Artifact, OwnFile, Transcript, WarningKind
from speakeasyd.errors import ErrorCode, FileFault
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.publication import (
    complete_job,
    find_taken_names,
    load_publication,
    reserve_artifacts,
)
from speakeasyd.outbox.publish import Outbox
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.source_disposal import SourceDisposal
from speakeasyd.services.speakers import SpeakerLabeller
from speakeasyd.thread_group import ThreadGroup


class Publisher:
    """Publishes transcripts. Every step is idempotent: call `publish_job` again after a failure."""

    def __init__(self, *, ledger: Ledger, outboxes: Outboxes, sources: SourceDisposal) -> None:
        self._ledger = ledger
        self._outboxes = outboxes
        self._sources = sources
        self._labeller = SpeakerLabeller(ledger)
        # One at a time: more threads of Python would not be faster, and would delay all others
        self._render_threads = ThreadGroup("render")

    async def publish_job(self, job: Job) -> None:
        """Write the artifacts of a transcribed job, complete it, and dispose of its source.

        Raises OutboxUnavailable (retry later), FileFault (no name can be written), ClaimLost,
        LedgerUnwritable.
        """
        outbox = self._outboxes[job.inbox]
        await self._labeller.label_job(job)
        transcript, own = await self._ledger.read(load_publication, job.id)
        files = await self._render_threads.run(_render_formats, transcript, job.options.formats)
        artifacts = await self._reserve_artifacts(job, outbox, transcript, files, own)
        new = dict(zip([artifact.path for artifact in artifacts], files.values(), strict=True))
        removed = await self._outboxes.call_outbox(job.inbox, _replace_files, outbox, own, new)
        await self._ledger.write(complete_job, job.id, job.token, artifacts, removed=removed)
        await self._sources.dispose_source(
            job.inbox, _build_ended_job(job, warnings=transcript.warning_kinds)
        )

    async def publish_failure(self, job: Job, code: ErrorCode, error: str) -> None:
        """Dispose of the source of a failed job, with a note that says why."""
        await self._sources.dispose_source(job.inbox, _build_ended_job(job, failure=(code, error)))

    async def _reserve_artifacts(
        self,
        job: Job,
        outbox: Outbox,
        transcript: Transcript,
        files: Mapping[str, bytes],
        own: Sequence[OwnFile],
    ) -> list[Artifact]:
        """Reserve the artifacts under the best name that is free or own, and return them.

        Raises FileFault if every name is taken, OutboxUnavailable, ClaimLost, LedgerUnwritable.
        """
        async for name in self._propose_names(job, outbox, transcript, list(files)):
            artifacts = await self._outboxes.call_outbox(
                job.inbox, _build_artifacts, outbox, name, files, own
            )
            if artifacts:
                collisions = await self._ledger.write(
                    reserve_artifacts, job.id, job.token, artifacts
                )
                if not collisions:
                    return artifacts
        raise FileFault(
            ErrorCode.OUTPUT_REFUSED,
            f"every name for the transcript is taken, up to `(job {job.id})`",
            hint="Put {job_id} or {stem} into the naming template.",
        )

    async def _propose_names(
        self, job: Job, outbox: Outbox, transcript: Transcript, endings: Sequence[str]
    ) -> AsyncIterator[str]:
        """Yield the best name, which is nearly always free, then others that no other job has."""
        folder, _, source = os.fsdecode(job.path).rpartition("/")
        names = propose_names(
            job.options.name, _build_name_fields(job, source, transcript), folder=folder
        )
        yield next(names)
        paths = {name: [f"{name}.{ending}" for ending in endings] for name in names}
        taken = await self._ledger.read(
            find_taken_names, str(outbox.path), list(chain(*paths.values())), job_id=job.id
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
    outbox: Outbox, name: str, files: Mapping[str, bytes], own: Sequence[OwnFile]
) -> list[Artifact]:
    """Return the artifacts of these files under a name. Blocks.

    Empty if a name is taken by other bytes than ours, such as a file that a user edited.
    """
    outbox.require_folder()
    ours = _hashes_by_path(outbox, own)
    artifacts = [
        Artifact(
            format=ending.rpartition(".")[2],
            outbox=str(outbox.path),
            path=f"{name}.{ending}",
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
        )
        for ending, data in files.items()
    ]
    are_free = all(
        outbox.hash_existing(new.path) in {None, new.sha256, *ours.get(new.path, frozenset())}
        for new in artifacts
    )
    return artifacts if are_free else []


def _replace_files(
    outbox: Outbox, own: Sequence[OwnFile], new: Mapping[str, bytes]
) -> list[OwnFile]:
    """Write the new files, then remove own files with other names. Returns the removed.

    In this order, so that there is always a transcript. Files that a user edited stay.
    """
    outbox.write_files(new, replacing=_hashes_by_path(outbox, own))
    others = [file for file in own if file.outbox == str(outbox.path) and file.path not in new]
    return [file for file in others if outbox.remove_file(file.path, hashes=file.hashes)]


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
