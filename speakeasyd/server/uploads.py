"""Files that come over HTTP: into the inbox, by its rules, and into the ledger before the answer."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import chain, count, takewhile
from pathlib import Path, PurePosixPath
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter, ValidationError

from speakeasyd.config import InboxSettings
from speakeasyd.domain.job import Added
from speakeasyd.domain.naming import component
from speakeasyd.domain.presets import Changes, Presets
from speakeasyd.durable import make_folders, settle_folder
from speakeasyd.errors import FileFault
from speakeasyd.inbox.rules import Rules
from speakeasyd.safe_open import is_link
from speakeasyd.server.answers import Received as Taken
from speakeasyd.server.answers import Upload
from speakeasyd.server.multipart import Form, Received
from speakeasyd.server.parts import Lent, Parts
from speakeasyd.server.problems import Refused

router = APIRouter(tags=["jobs"])

STAGING = ".speakeasyd-upload-"  # a folder of the inbox, not looked at: from there a rename is enough
PATH_LIMIT = 1000  # bytes below the inbox
NUMBER_ROOM = 8  # bytes kept free in a name for ` (123)`

_CHANGES: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "batch": {"type": "string", "description": "A name for what belongs together: a folder."},
                        "preset": {"type": "string"},
                        "options": {"type": "string", "description": "JSON: options as in a sidecar."},
                    },
                }
            }
        },
    }
}


@router.post("/batches", status_code=201, openapi_extra=_BODY)
async def upload(request: Request, parts: Lent, inbox: Annotated[str | None, Query(max_length=200)] = None) -> Upload:
    """Upload any number of files. When it is answered, each is durable in the inbox and has its job."""
    target = _inbox(parts, inbox)
    async with received(request, target) as form:
        if not form.files:
            raise Refused(422, "there is no file in the form")
        changes = allowed(parts, target, _said(form))
        said = form.text("batch").strip(" .")
        batch = component(said) if said else ""
        places = [place(parts, target, file, folder=batch) for file in form.files]
        taken = [
            await take(parts, target, file, wanted=wanted, changes=changes)
            for file, wanted in zip(form.files, places, strict=True)
        ]
        return Upload(batch=_batch(taken[0].path) or target.name, inbox=target.name, files=taken)


@asynccontextmanager
async def received(request: Request, inbox: InboxSettings) -> AsyncIterator[Form]:
    """The form of a request, its files in a folder of the inbox that is gone afterwards."""
    try:
        staging = await asyncio.to_thread(TemporaryDirectory, dir=inbox.path, prefix=STAGING)
        with staging as folder, Form(Path(folder)) as form:
            await form.receive(request)
            yield form
    except OSError as error:
        raise Refused(503, f"the inbox cannot be written: {error.strerror or error}") from error


def place(parts: Parts, inbox: InboxSettings, file: Received, *, folder: str) -> str:
    """Where a received file belongs, relative to the inbox. Raises Refused for a name that the inbox does not take."""
    wanted = _wanted(folder, file.name)
    if len(os.fsencode(wanted)) > PATH_LIMIT:
        raise Refused(422, f"{file.name[:200]!r} is not taken: it has more than {PATH_LIMIT} bytes")
    if reason := Rules.for_inbox(parts.settings, inbox).why_ignored(os.fsencode(wanted)):
        raise Refused(422, f"{file.name[:200]!r} is not taken: {reason}")
    return wanted


def sweep(inboxes: Iterable[InboxSettings]) -> None:
    """Remove uploads that a crash has cut short."""
    for left in chain.from_iterable(inbox.path.glob(f"{STAGING}*") for inbox in inboxes):
        rmtree(left, ignore_errors=True)


async def take(
    parts: Parts, inbox: InboxSettings, file: Received, *, wanted: str, changes: Changes, awaited: bool = False
) -> Taken:
    """Move a received file to its place, or beside it where that is taken, and give it a job."""
    path = await asyncio.to_thread(_put, file.path, inbox.path, wanted)
    added: Added = await parts.admit(inbox.name, os.fsencode(path), file.sha256, changes, awaited)
    return Taken(path=path, bytes=file.bytes, job_id=added.job_id, status=added.status)


def allowed(parts: Parts, inbox: InboxSettings, changes: Changes) -> Changes:
    """Options that a client may ask for: no model but those of the configuration, since a model may be a path."""
    settings = parts.settings
    presets = Presets(defaults=settings.options, presets=settings.presets, inbox_preset=inbox.preset)
    try:
        model = presets.choose("", changes).options.model
    except FileFault as fault:
        raise Refused(422, f"these options cannot be used: {str(fault).partition(': ')[2]}") from fault
    known = {"auto", "bundled", settings.options.model, *(one.get("model") for one in settings.presets.values())}
    if model not in known:
        raise Refused(422, "this model is not one of the configuration's", hint="Make a preset for it.")
    return changes


def _batch(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""


def _said(form: Form) -> dict[str, object]:
    try:
        changes = _CHANGES.validate_json(form.text("options", "{}"))
    except ValidationError as error:
        raise Refused(422, "options is not a JSON object") from error
    return changes | ({"preset": form.text("preset")} if form.text("preset") else {})


def _inbox(parts: Parts, name: str | None) -> InboxSettings:
    if name is None:
        return parts.settings.upload_inbox
    found = next((inbox for inbox in parts.settings.inboxes if inbox.name == name), None)
    if found is None:
        raise Refused(422, f"there is no inbox {name[:80]!r}")
    return found


def _wanted(folder: str, name: str) -> str:
    """A path below the inbox from what a client says: no part of it leads anywhere else."""
    parts = [part for part in name.replace("\\", "/").split("/") if part.strip(" .")]
    return "/".join(component(part, room=NUMBER_ROOM) for part in chain([folder] if folder else [], parts or ["_"]))


def _put(received: Path, root: Path, wanted: str) -> str:
    """Under the first name that is free, durably. Returns it, relative to the inbox."""
    plain = PurePosixPath(wanted)
    folder = root / plain.parent
    above = [root / parent for parent in reversed(plain.parents)][1:]
    if any(is_link(one.lstat()) for one in takewhile(os.path.lexists, above)):
        raise Refused(422, f"{plain.parent.as_posix()!r} is a link, which may lead out of the inbox")
    try:
        make_folders(folder)
    except NotADirectoryError as error:
        raise Refused(422, f"{plain.parent.as_posix()!r} is no folder") from error
    for number in count(1):
        name = f"{plain.stem} ({number}){plain.suffix}" if number > 1 else plain.name
        if _moved(received, folder / name):
            settle_folder(folder)
            return (plain.parent / name).as_posix()
    raise AssertionError("there is always a free number")


def _moved(received: Path, target: Path) -> bool:
    """Whether the name was free. Never over another file: a link refuses where a rename would not."""
    try:
        os.link(received, target)
    except FileExistsError:
        return False
    except OSError:  # a filesystem without hard links
        if os.path.lexists(target):
            return False
        received.rename(target)
    else:
        received.unlink()
    return True
