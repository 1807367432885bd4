"""OpenAI's `diarized_json`: a transcript with its speakers, and speakers that a client knows."""

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

from speakeasyd.domain.transcript import Transcript
from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger.people import VoiceSample, check_name
from speakeasyd.ledger.speakers import JobSpeakers
from speakeasyd.server.error_answers import RequestRefused
from speakeasyd.server.multipart import ReceivedFile, UploadForm
from speakeasyd.server.uploads import Reception
from speakeasyd.services.speakers import recognise_in_job
from speakeasyd.services.voice_samples import measure_sample

DIARIZED = "diarized_json"
NAMES_FIELD, REFERENCES = "known_speaker_names[]", "known_speaker_references[]"
MOST_KNOWN = 4  # speakers, as in OpenAI's interface
LEAST_S = 1.0  # seconds of speech of a reference, which has 2 to 10 s
REFERENCE_BYTES = 16 << 20  # of a data URL

_DATA_URL = re.compile(rb"data:[^,]{0,200};base64,")


class DiarizedSegment(TypedDict):
    id: str
    type: str
    start: float
    end: float
    speaker: str
    text: str


class Diarized(TypedDict):
    task: str
    duration: float
    text: str
    segments: list[DiarizedSegment]
    usage: dict[str, object]


async def read_known_speakers(reception: Reception) -> list[VoiceSample]:
    """Return a sample of each speaker that the client knows, with the name as its source.

    Raises RequestRefused: 400 if they are not as they must be.
    """
    names = reception.form.get_texts(NAMES_FIELD)
    references = [file for file in reception.form.files if file.field == REFERENCES]
    if len(names) != len(references) or len(names) > MOST_KNOWN:
        raise RequestRefused(
            400, f"there must be as many {REFERENCES} as {NAMES_FIELD}, at most {MOST_KNOWN}"
        )
    with TemporaryDirectory(prefix="speakeasyd-") as folder:
        try:
            return [
                await _measure_reference(
                    reception, file, check_name(name), Path(folder, str(number))
                )
                for number, (name, file) in enumerate(zip(names, references, strict=True))
            ]
        except RequestRefused:
            raise
        except SpeakeasyError as error:
            raise RequestRefused(400, str(error), hint=error.hint) from error


async def _measure_reference(
    reception: Reception, file: ReceivedFile, name: str, path: Path
) -> VoiceSample:
    await reception.calls.run(_store_reference, reception.form, file, path)
    return await measure_sample(path, source=name, least_s=LEAST_S)


def _store_reference(form: UploadForm, file: ReceivedFile, path: Path) -> None:
    with form.folder.open_file(file.temporary) as content:
        url = content.read(REFERENCE_BYTES + 1)
    head = _DATA_URL.match(url)
    if head is None or len(url) > REFERENCE_BYTES:
        raise RequestRefused(400, f"{REFERENCES} must be base64 data URLs of at most 16 MiB")
    try:
        path.write_bytes(base64.b64decode(url[head.end() :].strip(), validate=True))
    except binascii.Error as error:
        raise RequestRefused(400, f"{REFERENCES}: invalid base64: {error}") from error


def build_diarized(
    transcript: Transcript, known: JobSpeakers, people: Sequence[VoiceSample] = ()
) -> Diarized:
    """Return the answer. Speakers without a name are called A, B, C, ... as in OpenAI's."""
    names = {speaker.number: speaker.name for speaker in transcript.speakers if speaker.name}
    if people:
        names |= recognise_in_job(known, people)
    return Diarized(
        task="transcribe",
        duration=transcript.audio_seconds,
        text=transcript.text,
        segments=[
            DiarizedSegment(
                id=f"seg_{number}",
                type="transcript.text.segment",
                start=segment.start,
                end=segment.end,
                speaker=names.get(segment.speaker or 0) or name_by_letter(segment.speaker),
                text=segment.text,
            )
            for number, segment in enumerate(transcript.segments)
        ],
        usage={"type": "duration", "seconds": transcript.audio_seconds},
    )


def name_by_letter(number: int | None) -> str:
    """Return A, B, ... Z, AA, AB, ... for 1, 2, ...; `unknown` for None."""
    if number is None:
        return "unknown"
    rounds, letter = divmod(number - 1, 26)
    return (chr(ord("A") + rounds - 1) if rounds else "") + chr(ord("A") + letter)
