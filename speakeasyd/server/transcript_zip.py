"""The transcripts of many jobs as one zip file, which is made while it is sent."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import quote
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from fastapi import APIRouter, Query, Response
from starlette.types import Receive, Scope, Send

from speakeasyd.domain.formats import FORMATS, FormatSpec
from speakeasyd.domain.job import JobId
from speakeasyd.domain.naming import build_collision_key, propose_names
from speakeasyd.domain.options import Format
from speakeasyd.domain.transcript import Transcript
from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger.job_lists import list_job_ids
from speakeasyd.ledger.publication import find_transcript
from speakeasyd.server.context import Lent, ServerContext
from speakeasyd.server.error_answers import RequestRefused
from speakeasyd.server.guard import IS_HEAD
from speakeasyd.server.jobs import Filters

READABLE = 0o644 << 16  # the permissions of a file, as a zip file has them

router = APIRouter(prefix="/jobs", tags=["jobs"])
log = logging.getLogger(__name__)

_JobIds = Annotated[
    str | None,
    Query(
        pattern=r"^\d{1,18}(,\d{1,18})*$",
        max_length=12_000,
        description="Numbers of jobs, such as `7,8`. None: all that match the filters, of each "
        "file its newest version.",
    ),
]


@router.get(
    "/transcripts",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}}},
)
async def get_transcripts(
    parts: Lent,
    filters: Filters,
    *,
    format: Annotated[Format, Query(description="Of each transcript.")] = "txt",  # noqa: A002
    job_ids: _JobIds = None,
) -> Response:
    """Download the transcripts of many jobs as one zip file.

    Jobs without a finished transcript are left out. 404: no job has one.
    """
    wanted: dict[str, object] = filters | {"transcribed": True}
    if job_ids:
        wanted["ids"] = json.dumps([int(one) for one in job_ids.split(",")])
    else:
        wanted["newest_version"] = True
    found = await parts.ledger.clients.read(list_job_ids, wanted)
    if not found:
        raise RequestRefused(404, "none of these files has a transcript")
    return TranscriptZip(parts, found, FORMATS[format], name=str(filters["batch"] or "transcripts"))


class TranscriptZip(Response):
    """Sends the zip file. Only one transcript is in memory at a time.

    If a transcript cannot be read, the answer stays incomplete: the connection is closed.
    """

    def __init__(
        self, parts: ServerContext, job_ids: Sequence[int], spec: FormatSpec, *, name: str
    ) -> None:
        """`name`: of the file, without its ending."""
        super().__init__(media_type="application/zip")
        del self.headers["content-length"]
        self.headers["Content-Disposition"] = (
            f"attachment; filename*=UTF-8''{quote(f'{name}.zip', safe='')}"
        )
        self._parts = parts
        self._job_ids = job_ids
        self._spec = spec

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            if not scope.get(IS_HEAD):
                await self._send_files(send)
        except SpeakeasyError as error:
            log.warning("a zip file of transcripts is not complete: %s", error)
            return
        await send({"type": "http.response.body", "body": b""})

    async def _send_files(self, send: Send) -> None:
        zipped = _ZipWriter(self._spec)
        rendering = self._parts.calls.rendering
        for job_id in self._job_ids:
            found = await self._parts.ledger.clients.read(find_transcript, JobId(job_id))
            if found is None:
                continue  # pruned meanwhile
            block = await rendering.run(zipped.add_transcript, *found)
            await send({"type": "http.response.body", "body": block, "more_body": True})
        block = await rendering.run(zipped.finish)
        await send({"type": "http.response.body", "body": block, "more_body": True})


class _ZipWriter:
    """Makes a zip file piece by piece: each call returns the bytes to send next."""

    def __init__(self, spec: FormatSpec) -> None:
        self._spec = spec
        self._pending = bytearray()
        self._zip = ZipFile(self, "w", ZIP_DEFLATED)  # type: ignore[call-overload] # as a stream
        self._files: set[str] = set()  # collision keys of the names in it
        self._folders: set[str] = set()  # and of the folders in these

    def write(self, block: bytes) -> int:
        """Take bytes of the zip file."""
        self._pending += block
        return len(block)

    def flush(self) -> None:
        """Part of a stream; there is nothing to do."""

    def add_transcript(self, path: str, transcript: Transcript) -> bytes:
        """Add a transcript; `path` is that of its source below the inbox."""
        name = next(
            name for name in self._propose_names(path, transcript.job_id) if self._is_free(name)
        )
        self._files.add(build_collision_key(name))
        self._folders |= _list_folders(name)
        entry = ZipInfo(name, time.localtime()[:6])
        entry.external_attr = READABLE
        self._zip.writestr(entry, self._spec.render_file(transcript), ZIP_DEFLATED)
        return self._take()

    def finish(self) -> bytes:
        """Write the directory, which ends the file."""
        self._zip.close()
        return self._take()

    def _propose_names(self, path: str, job_id: int) -> Iterator[str]:
        source = PurePosixPath(path)
        values = {"stem": source.stem, "name": source.name, "job_id": str(job_id)}
        folder = path.rpartition("/")[0]
        for name in propose_names("{stem}", values, folder=folder):
            yield f"{name}.{self._spec.name}"
        for number in count(1):  # a file has the name of the folder, or all names are taken
            yield f"job {job_id} ({number}).{self._spec.name}"

    def _is_free(self, name: str) -> bool:
        """Return whether no file or folder has this name, and no file that of one of its folders."""
        key = build_collision_key(name)
        is_taken = key in self._files or key in self._folders
        return not is_taken and self._files.isdisjoint(_list_folders(name))

    def _take(self) -> bytes:
        block, self._pending = bytes(self._pending), bytearray()
        return block


def _list_folders(name: str) -> set[str]:
    """Return the collision keys of the folders in a name."""
    return {build_collision_key(str(folder)) for folder in PurePosixPath(name).parents[:-1]}
