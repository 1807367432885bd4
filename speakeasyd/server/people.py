"""Known people, whose voices are recognised in new files."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from speakeasyd.domain.job import JobId
from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger import people
from speakeasyd.ledger.people import LONGEST_NAME, add_voice_sample, check_name, load_people
from speakeasyd.safe_open import FolderHandle
from speakeasyd.server.context import Lent, ServerContext
from speakeasyd.server.error_answers import RequestRefused, conflicts_as_409
from speakeasyd.server.jobs import find_job
from speakeasyd.server.multipart import FILE_SCHEMA, UploadForm, describe_form
from speakeasyd.server.schemas import ChangedJobs, PeopleAnswer, VoiceSampleAnswer
from speakeasyd.server.speakers import Number
from speakeasyd.services.speakers import remember_speaker
from speakeasyd.services.voice_samples import measure_sample

router = APIRouter(prefix="/people", tags=["speakers"])

NewName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
_Name = Annotated[str, Path(max_length=LONGEST_NAME, description="The name of a known person.")]


class _Wish(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")


class RememberedVoice(_Wish):
    """A speaker of a job whose voice shall be recognised."""

    name: NewName
    """Of a new person, or of a known one, who gets a further sample."""
    job_id: Annotated[int, Field(ge=0, lt=2**63)]
    speaker: Number
    """The number of the speaker in that job."""


_SAMPLE_BODY = describe_form(
    {"name": {"type": "string", "maxLength": LONGEST_NAME}, "file": FILE_SCHEMA},
    required=("name", "file"),
)


class NewPersonName(_Wish):
    name: NewName
    """The new name. If another person has it, both become one."""


@router.get("", response_model=PeopleAnswer)
async def list_people(parts: Lent) -> Mapping[str, Any]:
    """List the people whose voices are recognised."""
    return {
        "people": [person.describe() for person in await parts.ledger.clients.read(load_people)]
    }


@router.post("", status_code=204)
async def remember_voice(parts: Lent, wish: RememberedVoice) -> None:
    """Remember the voice of a speaker of a job. 409: there is too little speech."""
    await find_job(parts, wish.job_id)
    with conflicts_as_409():
        await remember_speaker(parts.ledger, JobId(wish.job_id), wish.speaker, wish.name)


@router.post("/samples", status_code=201, openapi_extra=_SAMPLE_BODY)
async def add_sample(request: Request, parts: Lent) -> VoiceSampleAnswer:
    """Remember a voice from a recording of one person who speaks for 5 s or longer.

    The recording is not kept. A known name gets a further sample. 422: the recording is too short
    or noisy, or has more than one voice.
    """
    try:
        async with _receive_recording(request, parts) as (name, path, source):
            sample = await measure_sample(path, source=source)
    except OSError as error:
        raise RequestRefused(
            503, f"the recording cannot be processed: {error.strerror or error}"
        ) from error
    await parts.ledger.write(add_voice_sample, name, sample)
    return VoiceSampleAnswer(source=sample.source, seconds=sample.seconds, model=sample.model)


@asynccontextmanager
async def _receive_recording(
    request: Request, parts: ServerContext
) -> AsyncIterator[tuple[str, FilePath, str]]:
    """Receive a form with a name and a file into a temporary folder.

    Yields the name, the path of the file and what the client calls it. Raises RequestRefused: 422
    for a wrong form or a recording that the body refuses.
    """
    calls = parts.calls.samples
    with parts.uploads.take(None), TemporaryDirectory(prefix="speakeasyd-") as folder:
        with FolderHandle.open(FilePath(folder)) as handle:
            form = UploadForm(handle, calls)
            try:
                await form.receive_form(request)
            finally:
                await calls.release(form.close)
        if len(form.files) != 1:
            raise RequestRefused(422, "the form must have one file")
        [file] = form.files
        try:
            name = check_name(form.get_text("name"))
            yield name, FilePath(folder, file.temporary), FilePath(file.name).name[:200]
        except RequestRefused:
            raise
        except SpeakeasyError as error:
            raise RequestRefused(422, str(error), hint=error.hint) from error


@router.patch("/{name}")
async def rename_person(parts: Lent, name: _Name, wish: NewPersonName) -> ChangedJobs:
    """Rename a person, or merge two, also in the transcripts. 409: nobody has this name."""
    with conflicts_as_409():
        known = {person.name for person in await parts.ledger.clients.read(load_people)}
        merged = wish.name in known - {name}
        change = people.merge_people if merged else people.rename_person
        return ChangedJobs(jobs=await parts.ledger.write(change, name, wish.name))


@router.delete("/{name}", status_code=204)
async def forget_person(parts: Lent, name: _Name) -> None:
    """Delete a person and all samples of the voice. Names in transcripts stay. 409: unknown."""
    with conflicts_as_409():
        await parts.ledger.write(people.forget_person, name)
