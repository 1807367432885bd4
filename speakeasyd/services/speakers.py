"""Finds the speakers of transcribed jobs from the ledger alone, and carries out users' changes."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from speakeasyd.domain.diarization import MODEL, LocalKey, Speaker
from speakeasyd.domain.file_speakers import (
    FileSpeakers,
    build_file_speakers,
    merge_numbers,
    number_by_key,
    number_speakers,
    transfer_names,
)
from speakeasyd.domain.job import Job, JobId
from speakeasyd.domain.options import MOST_SPEAKERS
from speakeasyd.errors import LedgerError, SpeakeasyError
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.people import Person, VoiceSample, add_voice_sample, check_name, load_people
from speakeasyd.ledger.speakers import (
    JobSpeakers,
    load_job_speakers,
    replace_speakers,
    store_found_speakers,
)
from speakeasyd.services.voice_samples import SHORTEST_SAMPLE_S

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerChange:
    """What a user wants to change about the speakers of a job; carried out in this order."""

    count: int | Literal["auto"] | None = None  # find them again, as many as this
    merge: tuple[int, ...] = ()  # numbers of speakers that are one
    split: int | None = None  # number of a speaker that is two
    names: Mapping[int, str] = field(default_factory=dict)  # by number; empty: remove the name


class SpeakerLabeller:
    """Finds the speakers of jobs before they are published."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def label_job(self, job: Job) -> None:
        """Find the speakers of a transcribed job, unless it has them or does not ask for them.

        A failure becomes a warning of the job. Raises ClaimLost, LedgerError.
        """
        if job.options.speakers == "off":
            return
        known = await self._ledger.read(load_job_speakers, job.id)
        if known.speakers is not None:
            return
        problems: Sequence[str] = known.errors
        try:
            people = await self._ledger.read(load_people)
            found = await asyncio.to_thread(find_file_speakers, known, people)
        except LedgerError:
            raise
        except Exception as error:
            log.exception("the speakers of job %s cannot be told apart", job.id)
            found, problems = FileSpeakers(), [f"{type(error).__name__}: {error}"]
        await self._ledger.write(
            store_found_speakers, job.id, job.token, found, describe_problems(problems)
        )


def describe_problems(problems: Sequence[str]) -> str:
    """Return the warning about a file whose speakers are not known everywhere; empty without one."""
    if not problems:
        return ""
    return f"speakers could not be told apart everywhere: {'; '.join(problems)}"


def find_file_speakers(
    known: JobSpeakers,
    people: Sequence[Person],
    *,
    count: int | Literal["auto"] | None = None,
) -> FileSpeakers:
    """Return the speakers of a file and, of those that are known, who they are.

    `count`: how many there are; None: as the job's options say.
    """
    # Imported when needed: numpy is large, and who does not ask for speakers does not pay for it.
    from speakeasyd.domain.speaker_clustering import find_speakers  # noqa: PLC0415
    from speakeasyd.domain.speaker_recognition import (  # noqa: PLC0415
        KnownPerson,
        average_speakers,
        recognise_speakers,
    )

    match count:
        case None:
            low, high = known.options.speaker_limits
        case "auto":
            low, high = 1, MOST_SPEAKERS
        case _:
            low = high = count
    numbers = number_speakers(known.chunks, find_speakers(known.chunks, low=low, high=high))
    samples = [
        KnownPerson(person.id, person.name, usable)
        for person in people
        if (usable := tuple(one.embedding for one in person.samples if one.model == MODEL))
    ]
    recognised = recognise_speakers(average_speakers(known.chunks, numbers), samples)
    return build_file_speakers(known.chunks, numbers, known.words, recognised)


async def change_speakers(ledger: Ledger, job_id: JobId, change: SpeakerChange) -> FileSpeakers:
    """Change the speakers of a completed job; the daemon then publishes its transcript again.

    Neither the recording nor a model is needed. Returns the new speakers. Raises SpeakeasyError if
    the change is not possible.
    """
    known = await ledger.read(load_job_speakers, job_id)
    if known.speakers is None or not known.chunks:
        raise SpeakeasyError(
            f"the speakers of job {job_id} were not told apart",
            hint='Set speakers = "auto" in its options, then transcribe the file again.',
        )
    people = await ledger.read(load_people) if change.count or change.names else []
    changed = await asyncio.to_thread(apply_change, known, change, people)
    if changed != known.file_speakers:
        await ledger.write(replace_speakers, job_id, changed, expected=known.speakers)
    return changed


def apply_change(
    known: JobSpeakers, change: SpeakerChange, people: Sequence[Person] = ()
) -> FileSpeakers:
    """Return the speakers after a change. Raises SpeakeasyError if it is not possible."""
    found = known.file_speakers
    if change.count is not None:
        again = find_file_speakers(known, people, count=change.count)
        numbers = number_by_key(again)
        names = {speaker.number: speaker for speaker in again.speakers}
        names |= transfer_names(known.chunks, found, numbers)
        found = build_file_speakers(known.chunks, numbers, known.words, names)
    if change.merge:
        _require_numbers(found, change.merge)
        numbers = merge_numbers(number_by_key(found), change.merge)
        found = _rebuild_speakers(known, found, numbers)
    if change.split is not None:
        _require_numbers(found, [change.split])
        found = _split_speaker(known, found, change.split)
    _require_numbers(found, change.names)
    renamed = [
        _rename_speaker(speaker, change.names[speaker.number], people)
        if speaker.number in change.names
        else speaker
        for speaker in found.speakers
    ]
    return replace(found, speakers=tuple(renamed))


def _rename_speaker(speaker: Speaker, name: str, people: Sequence[Person]) -> Speaker:
    name = check_name(name) if name.strip() else ""
    return replace(
        speaker,
        name=name,
        person=next((person.id for person in people if person.name == name), None),
        similarity=None,
        suggestion="",
    )


def _rebuild_speakers(
    known: JobSpeakers, found: FileSpeakers, numbers: Mapping[LocalKey, int]
) -> FileSpeakers:
    names = {speaker.number: speaker for speaker in found.speakers}
    return build_file_speakers(known.chunks, numbers, known.words, names)


def _split_speaker(known: JobSpeakers, found: FileSpeakers, number: int) -> FileSpeakers:
    from speakeasyd.domain.speaker_clustering import split_speaker  # noqa: PLC0415

    numbers = number_by_key(found)
    own = [key for key, other in numbers.items() if other == number]
    second = split_speaker(known.chunks, own)
    if not second:
        raise SpeakeasyError(f"speaker {number} cannot be divided: there is too little speech")
    new = max(speaker.number for speaker in found.speakers) + 1
    return _rebuild_speakers(
        known, found, {key: new if key in second else n for key, n in numbers.items()}
    )


def _require_numbers(found: FileSpeakers, wanted: Sequence[int] | Mapping[int, str]) -> None:
    there = [speaker.number for speaker in found.speakers]
    if unknown := [number for number in wanted if number not in there]:
        raise SpeakeasyError(
            f"there is no speaker {unknown[0]}",
            hint=f"There is {', '.join(map(str, there)) or 'none'}.",
        )


def build_sample(known: JobSpeakers, job_id: JobId, number: int) -> VoiceSample:
    """Return a sample of the voice of a speaker of a job. Raises SpeakeasyError if there is none."""
    from speakeasyd.domain.speaker_clustering import encode_embedding  # noqa: PLC0415
    from speakeasyd.domain.speaker_recognition import average_speakers  # noqa: PLC0415

    found = known.file_speakers
    _require_numbers(found, [number])
    embeddings = average_speakers(known.chunks, number_by_key(found))
    [speaker] = [one for one in found.speakers if one.number == number]
    if number not in embeddings or speaker.seconds < SHORTEST_SAMPLE_S:
        raise SpeakeasyError(
            f"speaker {number} of job {job_id} speaks too little to be recognised elsewhere",
            hint=f"A sample has at least {SHORTEST_SAMPLE_S:.0f} s of speech.",
        )
    return VoiceSample(
        f"job {job_id}, speaker {number}", speaker.seconds, encode_embedding(embeddings[number])
    )


def recognise_in_job(known: JobSpeakers, people: Sequence[VoiceSample]) -> dict[int, str]:
    """Return which speakers of a job have these voices: the name by number.

    `people`: a sample of each, with the person's name as its source.
    """
    from speakeasyd.domain.speaker_recognition import (  # noqa: PLC0415
        KnownPerson,
        average_speakers,
        recognise_speakers,
    )

    persons = [
        KnownPerson(number, sample.source, (sample.embedding,))
        for number, sample in enumerate(people)
    ]
    embeddings = average_speakers(known.chunks, number_by_key(known.file_speakers))
    found = recognise_speakers(embeddings, persons)
    return {number: speaker.name for number, speaker in found.items() if speaker.name}


async def remember_speaker(ledger: Ledger, job_id: JobId, number: int, name: str = "") -> None:
    """Store a sample of the voice of a speaker of a job, to recognise it in other files.

    `name`: the person's; empty: that of the speaker. Raises SpeakeasyError if there is no name, or
    too little speech.
    """
    known = await ledger.read(load_job_speakers, job_id)
    sample = build_sample(known, job_id, number)
    names = {speaker.number: speaker.name for speaker in known.speakers or ()}
    if not (name or names[number]):
        raise SpeakeasyError(f"speaker {number} has no name", hint="Give the speaker a name first.")
    await ledger.write(add_voice_sample, name or names[number], sample, speaker=(job_id, number))
