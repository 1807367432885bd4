"""Known people, whose voices are recognised in new files."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from speakeasyd.domain.job import JobId
from speakeasyd.ledger import people
from speakeasyd.ledger.people import LONGEST_NAME, load_people
from speakeasyd.server.context import Lent
from speakeasyd.server.error_answers import conflicts_as_409
from speakeasyd.server.jobs import find_job
from speakeasyd.server.schemas import ChangedJobs, PeopleAnswer
from speakeasyd.server.speakers import Number
from speakeasyd.services.speakers import remember_speaker

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
