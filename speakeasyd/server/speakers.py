"""The speakers of a job: who they are, and a user's corrections."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from speakeasyd.domain.job import JobId
from speakeasyd.domain.options import MOST_SPEAKERS
from speakeasyd.ledger.job_details import list_job_speakers
from speakeasyd.server.context import Lent
from speakeasyd.server.error_answers import conflicts_as_409
from speakeasyd.server.jobs import find_job
from speakeasyd.server.schemas import ChangedSpeakers, SpeakersAnswer
from speakeasyd.services.speakers import SpeakerChange, change_speakers

router = APIRouter(prefix="/jobs", tags=["speakers"])

_Id = Annotated[int, "the number of a job"]
Number = Annotated[int, Field(ge=1, le=MOST_SPEAKERS)]
_Key = Annotated[str, Field(pattern=r"^[1-9][0-9]?$")]  # a number, as keys are in JSON


class SpeakerCorrection(BaseModel):
    """Carried out in this order. The recording is not needed."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    count: Number | Literal["auto"] | None = None
    """Find the speakers again: as many as this."""
    merge: list[Number] = Field([], max_length=MOST_SPEAKERS)
    """Numbers of speakers that are one."""
    split: Number | None = None
    """Number of a speaker that is two people."""
    names: dict[_Key, str] = Field(
        {}, max_length=MOST_SPEAKERS, json_schema_extra={"additionalProperties": False}
    )
    """Names by number; an empty one removes the name."""


@router.get("/{job_id}/speakers", response_model=SpeakersAnswer)
async def get_speakers(parts: Lent, job_id: _Id) -> Mapping[str, Any]:
    """Who speaks in the finished transcript, and how much."""
    await find_job(parts, job_id)
    return {"speakers": await parts.ledger.clients.read(list_job_speakers, job_id)}


@router.patch("/{job_id}/speakers")
async def correct_speakers(
    parts: Lent, job_id: _Id, correction: SpeakerCorrection
) -> ChangedSpeakers:
    """Correct the speakers of a completed job; its transcripts are written again.

    409: not possible in the job's state, or there is no such speaker.
    """
    await find_job(parts, job_id)
    change = SpeakerChange(
        count=correction.count,
        merge=tuple(correction.merge),
        split=correction.split,
        names={int(number): name for number, name in correction.names.items()},
    )
    with conflicts_as_409():
        changed = await change_speakers(parts.ledger, JobId(job_id), change)
    return ChangedSpeakers(speakers=[speaker.label for speaker in changed.speakers])
