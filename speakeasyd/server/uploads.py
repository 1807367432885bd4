"""Uploads: files are stored in the inbox and added to the ledger before the answer."""

import asyncio
import hashlib
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path, PurePosixPath
from shutil import rmtree
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter, ValidationError

from speakeasyd.config import InboxSettings
from speakeasyd.domain.job import Status
from speakeasyd.domain.naming import make_component
from speakeasyd.domain.options import Options
from speakeasyd.domain.pausing import LEDGER_PAUSE, PauseCause, PauseKind
from speakeasyd.domain.presets import Changes, Presets
from speakeasyd.domain.uploads import UploadRequest
from speakeasyd.errors import ErrorCode, FileFault, LedgerError
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.ledger.job_details import files_with_bytes
from speakeasyd.ledger.uploads import begin_upload, find_upload, forget_upload
from speakeasyd.safe_open import FolderHandle, LinkRefused
from speakeasyd.server.blocking_calls import BlockingCalls
from speakeasyd.server.context import Lent, ServerContext
from speakeasyd.server.error_answers import RequestRefused
from speakeasyd.server.jobs import find_job
from speakeasyd.server.multipart import FILE_SCHEMA, ReceivedFile, UploadForm, describe_form
from speakeasyd.server.schemas import Upload
from speakeasyd.server.schemas import UploadedFile as Taken
from speakeasyd.server.upload_keys import KEY_PARAMETER, compute_fingerprint
from speakeasyd.services.uploads_under_way import UploadsUnderWay

router = APIRouter(tags=["jobs"])
log = logging.getLogger(__name__)

# A folder in the inbox that is not scanned; a rename moves a file to its place
STAGING = ".speakeasyd-upload-"
PATH_LIMIT = 1000  # bytes below the inbox
UPLOAD_PRIORITY = 50  # somebody waits: before what arrives in folders
TAKE_BACK_TRIES = 50
TAKE_BACK_S = 0.02  # seconds between them
NAME_LIMIT = 255  # bytes of a name, as filesystems have it
LONGER_THAN_ANY = 1 << 16  # bytes: a name that is too long is refused, not cut
NUMBER_ROOM = 8  # bytes kept free in a folder's name for ` (123)`

_AWAY = frozenset({ErrorCode.SOURCE_MISSING, ErrorCode.SOURCE_UNREADABLE})

_CHANGES: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])
_BODY: dict[str, Any] = {
    "parameters": [KEY_PARAMETER],
    **describe_form(
        {
            "files": {"type": "array", "items": FILE_SCHEMA},
            "batch": {
                "type": "string",
                "description": "Name of the batch: a folder of the inbox.",
            },
            "preset": {"type": "string"},
            "options": {"type": "string", "description": "JSON: options as in a sidecar."},
        },
        required=("files",),
    ),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a received file belongs in the inbox."""

    file: ReceivedFile
    folder: str  # '/' between parts; "" is the inbox itself
    name: str

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a received file was stored."""

    file: ReceivedFile
    path: str  # relative to the inbox
    moved: bool  # False: the file was there from the same upload, sent before


@dataclass(frozen=True, slots=True)
class Reception:
    """A form whose files are in a folder of the inbox, and an open handle of the inbox."""

    form: UploadForm
    root: FolderHandle
    calls: BlockingCalls  # for everything in this inbox
    key: str  # idempotency key

    async def place_files(
        self,
        parts: ServerContext,
        inbox: InboxSettings,
        wanted: Sequence["Wanted"],
        known: "KnownFiles",
    ) -> "Placement":
        """Move the files to their places durably: all or none."""

        def place() -> Placement:
            placement = Placement(self.root, inbox.name, parts.under_way)
            return _place_all(placement, self.form.folder, wanted, known)

        return await self.calls.acquire(place, Placement.take_back)


class Staging:
    """A temporary folder of the inbox for the files of one upload, and open handles of both."""

    def __init__(self, parts: ServerContext, inbox: InboxSettings) -> None:
        """Create the folder.

        Raises RequestRefused: 503 if the inbox is missing or not mounted; OSError.
        """
        with ExitStack() as stack:
            self.root = stack.enter_context(FolderHandle.open(inbox.path))
            _require_inbox(parts, inbox, self.root)
            prefix = f"{STAGING}{parts.run_id}-"
            self.folder = stack.enter_context(self.root.temporary_folder(prefix))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Remove the folder with the files in it."""
        self._stack.close()


class Placement:
    """The files of an upload at their places in the inbox, and a handle of the inbox of its own.

    The paths are reserved until it is closed: the scan of the inbox adds no job for them.
    """

    def __init__(self, root: FolderHandle, inbox: str, under_way: UploadsUnderWay) -> None:
        self._root = root.open_below("")
        self._inbox = inbox
        self.under_way = under_way
        self._reserved: set[bytes] = set()
        self.files: list[Placed] = []

    def close(self) -> None:
        self._root.close()
        for path in self._reserved:
            self.under_way.release(self._inbox, path)

    def reserve(self, path: str) -> None:
        self._reserved.add(os.fsencode(path))
        self.under_way.reserve(self._inbox, os.fsencode(path))

    def release(self, path: str) -> None:
        self._reserved.discard(os.fsencode(path))
        self.under_way.release(self._inbox, os.fsencode(path))

    def was_interrupted(self, sha256: str) -> bool:
        """Return whether an upload of these bytes was interrupted by the end of a daemon."""
        return self.under_way.find_options(self._inbox, sha256) is not None

    def take_back(self) -> None:
        """Remove the files of a refused upload, and close."""
        with closing(self):
            for one in self.files:
                if one.moved and not any(
                    _remove_file(self._root, one.path) for _ in range(TAKE_BACK_TRIES)
                ):
                    log.warning("cannot remove %r of a refused upload from the inbox", one.path)

    def open_folder(self, folder: str) -> FolderHandle:
        """Open a folder of the inbox, or create it.

        Raises RequestRefused: 422 if it is a link or no folder; OSError.
        """
        try:
            return self._root.open_below(folder, create=True)
        except LinkRefused as error:
            raise RequestRefused(
                422, f"{folder!r} contains a link, which may lead out of the inbox"
            ) from error
        except NotADirectoryError as error:
            raise RequestRefused(422, f"{folder!r} is not a folder") from error


@router.post("/batches", status_code=201, openapi_extra=_BODY)
async def upload_files(
    request: Request, parts: Lent, inbox: Annotated[str | None, Query(max_length=200)] = None
) -> Upload:
    """Upload files. After 201, each file is durable in the inbox and has a job.

    After any other answer none has. Repeating an upload (same bytes, names, batch, options) gives
    the same jobs while its files are in the inbox, so it can be repeated after a lost answer. With
    the header `Idempotency-Key`, it gives them for a day, wherever the files are.
    """
    target = _find_inbox(parts, inbox)
    async with receive_files(request, parts, target) as reception:
        form = reception.form
        if not form.files:
            raise RequestRefused(422, "the form has no file")
        changes = check_options(parts, target, _read_fields(form))
        name = form.get_text("batch").strip(" .")
        batch = make_component(name) if name else ""
        wanted = [choose_place(parts, target, file, folder=batch) for file in form.files]
        taken = await take_upload(parts, target, reception, wanted=wanted, changes=changes)
        return Upload(
            batch=_name_batch(taken[0].path) or target.name, inbox=target.name, files=taken
        )


@asynccontextmanager
async def receive_files(
    request: Request, parts: ServerContext, inbox: InboxSettings, *, file_fields: Sequence[str] = ()
) -> AsyncIterator[Reception]:
    """Receive a form into a temporary folder of the inbox. `file_fields`: see `UploadForm`.

    Raises RequestRefused: 503 while the inbox or the ledger is unavailable.
    """
    for cause in (LEDGER_PAUSE, PauseCause(PauseKind.INBOX, inbox.name)):
        if reason := parts.pauses.reasons.get(cause):
            raise RequestRefused(503, reason, hint="Nothing was stored. Retry later.")
    calls = parts.calls.uploads(inbox.name)
    with parts.upload_keys.hold(request) as key, parts.uploads.take(inbox.name):
        try:
            staging = await calls.acquire(Staging, Staging.close, parts, inbox)
            form = UploadForm(staging.folder, calls, file_fields=file_fields)
            try:
                await form.receive_form(request)
                yield Reception(form, staging.root, calls, key)
            finally:
                await calls.release(form.close)
                await calls.release(staging.close)
        except OSError as error:
            raise RequestRefused(
                503, f"the inbox cannot be written: {error.strerror or error}"
            ) from error


def _require_inbox(parts: ServerContext, inbox: InboxSettings, root: FolderHandle) -> None:
    if not parts.is_present(inbox.name) or not root.is_at_its_path():
        raise RequestRefused(
            503,
            f"the inbox {inbox.name!r} is missing or not mounted",
            hint="Retry later.",
        )


def choose_place(
    parts: ServerContext, inbox: InboxSettings, file: ReceivedFile, *, folder: str
) -> Wanted:
    """Return the place of a received file in the inbox.

    Raises RequestRefused: 422 for a name that the inbox does not accept.
    """
    wanted = _sanitize_path(file, folder)
    if len(os.fsencode(wanted.path)) > PATH_LIMIT:
        raise RequestRefused(
            422, f"{file.name[:200]!r} is refused: its path has more than {PATH_LIMIT} bytes"
        )
    if len(os.fsencode(wanted.name)) > NAME_LIMIT:
        raise RequestRefused(
            422, f"{file.name[:200]!r} is refused: a name has at most {NAME_LIMIT} bytes"
        )
    rules = InboxRules.for_inbox(parts.settings, inbox)
    if reason := rules.why_ignored(os.fsencode(wanted.path)):
        if rules.has_other_extension(wanted.name):
            ending = PurePosixPath(wanted.name).suffix
            what = f"files with the ending {ending}" if ending else "files without an ending"
            raise RequestRefused(
                422,
                f"{file.name[:200]!r} is refused: {what} are not transcribed",
                hint='`watch.extensions` lists the endings; watch.unknown = "try" tries every file.',
            )
        raise RequestRefused(422, f"{file.name[:200]!r} is refused: {reason}")
    return wanted


async def remove_stale_uploads(parts: ServerContext) -> None:
    """Remove what a crash left of uploads. A folder that does not answer delays no other."""
    sweeps = (
        parts.calls.uploads(inbox.name).release(partial(_remove_stale, inbox.path, parts.run_id))
        for inbox in parts.settings.inboxes
    )
    await asyncio.gather(*sweeps)


def _remove_stale(inbox: Path, run_id: str) -> None:
    """`run_id`: of the present uploads, which stay."""
    for stale in inbox.glob(f"{STAGING}*"):
        if not stale.name.startswith(f"{STAGING}{run_id}-"):
            rmtree(stale, ignore_errors=True)


async def take_upload(
    parts: ServerContext,
    inbox: InboxSettings,
    reception: Reception,
    *,
    wanted: Sequence[Wanted],
    changes: Changes,
    awaited: bool = False,
) -> list[Taken]:
    """Move received files into the inbox and add a job for each: all or none.

    A file gets a number if its name is taken. A request whose idempotency key is known gets the
    jobs of the first one. Raises RequestRefused: 422 if that had other content.
    """
    folders = [one.folder for one in wanted]
    fingerprint = compute_fingerprint(inbox.name, changes, folders, reception.form.files)
    if earlier := await _find_earlier(parts, reception.key, fingerprint):
        return earlier
    hashes = tuple(sorted({one.file.sha256 for one in wanted}))
    known = await _find_known_files(parts, inbox, wanted, changes)
    request = UploadRequest(reception.key, fingerprint, inbox.name, changes, hashes)
    await parts.ledger.write(begin_upload, request)
    try:
        placement = await reception.place_files(parts, inbox, wanted, known)
        async with _closing_or_taking_back(parts, reception, placement):
            await reception.calls.run(_require_inbox, parts, inbox, reception.root)
            files = [(os.fsencode(one.path), one.file.sha256) for one in placement.files]
            added = await parts.admit(inbox.name, files, changes, awaited, request.key)
    except _Committed:
        return await _find_earlier(parts, request.key, fingerprint) or []
    except LedgerError:
        raise
    except Exception as error:
        with suppress(LedgerError):
            await parts.ledger.write(forget_upload, request.key)
        if isinstance(error, FileFault) and error.code in _AWAY:
            raise RequestRefused(
                503, f"the inbox lost a file: {error}", hint="Retry later."
            ) from error
        raise
    return [
        Taken(path=one.path, bytes=one.file.bytes, job_id=job.job_id, status=job.status)
        for one, job in zip(placement.files, added, strict=True)
    ]


class _Committed(Exception):
    """The ledger stored the jobs of an upload although it reported an error."""


@asynccontextmanager
async def _closing_or_taking_back(
    parts: ServerContext, reception: Reception, placement: Placement
) -> AsyncIterator[None]:
    """Close the placement; after an error without jobs in the ledger, take its files back.

    Raises _Committed after an error with jobs in the ledger.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, LedgerError) and await _is_committed(parts, reception.key):
            await reception.calls.release(placement.close)
            raise _Committed from error
        await reception.calls.release(placement.take_back)
        raise
    except BaseException:  # cancelled: the ledger may have taken them by then
        await reception.calls.release(placement.close)
        raise
    await reception.calls.release(placement.close)


async def _is_committed(parts: ServerContext, key: str) -> bool:
    try:
        return await parts.ledger.read(find_upload, key, parts.ledger.now()) is not None
    except LedgerError:
        return False


async def _find_earlier(parts: ServerContext, key: str, fingerprint: str) -> list[Taken] | None:
    """Return the answer to an earlier request with this key, with the present state of its jobs.

    None if there was none. Raises RequestRefused: 422 if it had other content; LedgerError.
    """
    earlier = await parts.ledger.read(find_upload, key, parts.ledger.now())
    if earlier is None:
        return None
    if earlier.fingerprint != fingerprint:
        raise RequestRefused(
            422,
            "this Idempotency-Key was used for another upload",
            hint="Use a new key for each upload.",
        )
    rows = [await find_job(parts, file["job_id"]) for file in earlier.files]
    return [
        Taken(**file, status=Status(str(row["status"])))
        for file, row in zip(earlier.files, rows, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class KnownFiles:
    """Path and SHA-256 of files with a job."""

    same: frozenset[tuple[str, str]]  # with these options: a repeated upload
    all: frozenset[tuple[str, str]]


async def _find_known_files(
    parts: ServerContext, inbox: InboxSettings, wanted: Sequence[Wanted], changes: Changes
) -> KnownFiles:
    """Return the files of the inbox with the bytes of received ones."""
    presets = _build_presets(parts, inbox)
    options = {
        batch: presets.choose_options(batch, changes).options
        for batch in {_name_batch(one.path) for one in wanted}
    }
    hashes = sorted({one.file.sha256 for one in wanted})
    rows = await parts.ledger.clients.read(files_with_bytes, inbox.name, hashes)
    same = frozenset(
        (row.path, row.sha256)
        for row in rows
        if row.has_result
        and Options.model_validate(row.options) == options.get(_name_batch(row.path))
    )
    return KnownFiles(same, frozenset((row.path, row.sha256) for row in rows))


def check_options(parts: ServerContext, inbox: InboxSettings, changes: Changes) -> Changes:
    """Check a client's options. Returns them, with the priority of uploads unless one is set.

    Raises RequestRefused: 422 for invalid options, and for a model that is not configured, since a
    model may be a path.
    """
    presets = _build_presets(parts, inbox)
    try:
        options = presets.choose_options("", changes).options
    except FileFault as fault:
        raise RequestRefused(422, f"invalid options: {str(fault).partition(': ')[2]}") from fault
    if options.model not in parts.settings.list_models():
        raise RequestRefused(422, "this model is not configured", hint="Add a preset for it.")
    if "priority" in changes or options.priority:
        return changes
    return {**changes, "priority": UPLOAD_PRIORITY}


def _build_presets(parts: ServerContext, inbox: InboxSettings) -> Presets:
    settings = parts.settings
    return Presets(defaults=settings.options, presets=settings.presets, inbox_preset=inbox.preset)


def _name_batch(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""


def _read_fields(form: UploadForm) -> dict[str, object]:
    try:
        changes = _CHANGES.validate_json(form.get_text("options", "{}"))
    except ValidationError as error:
        raise RequestRefused(422, "options is not a JSON object") from error
    return changes | ({"preset": form.get_text("preset")} if form.get_text("preset") else {})


def _find_inbox(parts: ServerContext, name: str | None) -> InboxSettings:
    if name is None:
        return parts.settings.upload_inbox
    found = next((inbox for inbox in parts.settings.inboxes if inbox.name == name), None)
    if found is None:
        raise RequestRefused(422, f"unknown inbox {name[:80]!r}")
    return found


def _sanitize_path(file: ReceivedFile, folder: str) -> Wanted:
    """Build a place below the inbox from a client's file name; no part leads out of it."""
    names = [part for part in file.name.replace("\\", "/").split("/") if part.strip(" .")]
    *above, name = names or ["_"]
    folders = [
        make_component(part, room=NUMBER_ROOM) for part in chain([folder] if folder else [], above)
    ]
    return Wanted(file, "/".join(folders), make_component(name, longest=LONGER_THAN_ANY))


def _place_all(
    placement: Placement, staging: FolderHandle, wanted: Sequence[Wanted], known: KnownFiles
) -> Placement:
    """Move the files of a form durably: all or none."""
    try:
        for folder, group in groupby(wanted, key=lambda one: one.folder):
            with placement.open_folder(folder) as handle:
                placer = _Placer(placement, staging, handle, known)
                placement.files.extend(map(placer.place, group))
                handle.sync()
    except BaseException:
        placement.take_back()
        raise
    return placement


class _Placer:
    """Moves files into one folder under free names. Reads the folder's names once."""

    def __init__(
        self,
        placement: Placement,
        staging: FolderHandle,
        folder: FolderHandle,
        known: KnownFiles,
    ) -> None:
        self._placement = placement
        self._staging = staging
        self._folder = folder
        self._known = known
        self._used = {one.path for one in placement.files}
        self._names: frozenset[str] | None = None
        self._numbers: dict[str, int] = {}  # the next to try

    def place(self, wanted: Wanted) -> Placed:
        while True:
            number = self._numbers.get(wanted.name, 1)
            self._numbers[wanted.name] = number + 1
            name = number_name(wanted.name, number)
            path = replace(wanted, name=name).path
            if path in self._used:
                continue
            if self._is_same(wanted.file, name, path):
                moved = False
            elif number > 1 and name in self._list_names():
                continue
            elif self._move_file(wanted.file, name, path):
                moved = True
            else:
                continue
            self._used.add(path)
            return Placed(wanted.file, path, moved=moved)

    def _move_file(self, file: ReceivedFile, name: str, path: str) -> bool:
        """Move a file to its place. Returns False if the name is taken."""
        self._placement.reserve(path)
        moved = self._staging.move_to(file.temporary, self._folder, name)
        if not moved:
            self._placement.release(path)
        return moved

    def _list_names(self) -> frozenset[str]:
        if self._names is None:
            self._names = frozenset(self._folder.names())
        return self._names

    def _is_same(self, file: ReceivedFile, name: str, path: str) -> bool:
        """Return whether the file of that name is this one, from the same upload sent before."""
        is_known = (path, file.sha256) in self._known.same
        may_be_left = (
            path,
            file.sha256,
        ) not in self._known.all and self._placement.was_interrupted(file.sha256)
        if not (is_known or may_be_left):
            return False
        try:
            state = self._folder.stat(name)
        except FileNotFoundError:
            return False
        is_alike = stat.S_ISREG(state.st_mode) and state.st_size == file.bytes
        return is_alike and (is_known or self._hash_file(name) == file.sha256)

    def _hash_file(self, name: str) -> str:
        with self._folder.open_file(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def number_name(name: str, number: int) -> str:
    """Return `name (2).wav`; a long name is shortened."""
    if number == 1:
        return name
    plain = PurePosixPath(name)
    ending = f" ({number}){plain.suffix}"
    room = NAME_LIMIT - len(os.fsencode(ending))
    return os.fsencode(plain.stem)[:room].decode("utf-8", "ignore") + ending


def _remove_file(root: FolderHandle, path: str) -> bool:
    """Remove a file. Returns whether it is gone; False while a folder above it is a link."""
    folder, _, name = path.rpartition("/")
    try:
        with root.open_below(folder) as handle:
            handle.remove_file(name)
            handle.sync()
    except FileNotFoundError:
        return True
    except OSError:
        time.sleep(TAKE_BACK_S)
        return False
    return True
