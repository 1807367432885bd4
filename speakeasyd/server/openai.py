"""Endpoints compatible with OpenAI's audio API. Files use the inbox and the ledger, with priority.

Fields, answers and streamed events: https://platform.openai.com/docs/api-reference/audio.
`temperature` has no effect.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.job import JobId, Status
from speakeasyd.domain.language_codes import NAMES, find_code
from speakeasyd.domain.media_types import HEAD_BYTES, guess_extension
from speakeasyd.domain.presets import Presets
from speakeasyd.domain.transcript import Segment, Transcript
from speakeasyd.errors import SpeakeasyError
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.ledger.people import VoiceSample
from speakeasyd.ledger.publication import load_transcript, read_leading_text
from speakeasyd.ledger.rows import Row
from speakeasyd.ledger.speakers import load_job_speakers
from speakeasyd.server.broadcast import LiveClient, encode_json
from speakeasyd.server.context import Lent, ServerContext
from speakeasyd.server.diarized import (
    DIARIZED,
    NAMES_FIELD,
    REFERENCES,
    Diarized,
    build_diarized,
    read_known_speakers,
)
from speakeasyd.server.error_answers import RequestRefused
from speakeasyd.server.jobs import find_job
from speakeasyd.server.multipart import FILE_SCHEMA, ReceivedFile, UploadForm, describe_form
from speakeasyd.server.schemas import UploadedFile
from speakeasyd.server.upload_keys import KEY_PARAMETER
from speakeasyd.server.uploads import (
    Reception,
    check_options,
    choose_place,
    receive_files,
    take_upload,
)

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])

FOLDER = "api"  # of the inbox, and so the batch
FIRST = 100  # the highest priority: somebody waits
STEM = 50  # characters of a file's own name that are kept
PROMPT = 2000  # characters of a prompt that count: the last ones
FOLLOW_S = 15.0  # seconds without events after which a stream sends a comment
USUAL = "whisper-1"  # the name that stands for whatever is configured
# Names of models that tell speakers apart; they stand for the same
_DIARIZING = frozenset({"gpt-4o-transcribe-diarize"})

# Those of OpenAI's interface; `srt` and `vtt` are rendered as registered
_FORMATS = ("json", "text", "srt", "verbose_json", "vtt", DIARIZED)
_BODY: dict[str, Any] = {
    "parameters": [KEY_PARAMETER],
    **describe_form(
        {
            "file": FILE_SCHEMA,
            "model": {
                "type": "string",
                "description": f"`{USUAL}`, or the name of a preset.",
            },
            "language": {"type": "string"},
            "prompt": {"type": "string"},
            "stream": {
                "type": "boolean",
                "description": "Send the text as server-sent events while it is transcribed.",
            },
            "response_format": {"type": "string", "enum": list(_FORMATS), "default": "json"},
            "timestamp_granularities[]": {
                "type": "array",
                "items": {"type": "string", "enum": ["word", "segment"]},
            },
            NAMES_FIELD: {"type": "array", "items": {"type": "string"}},
            REFERENCES: {
                "type": "array",
                "items": {"type": "string"},
                "description": "A recording of each of these speakers, as a data URL.",
            },
        },
        required=("file", "model"),
    ),
}


@router.post("/audio/{task}", response_class=Response, openapi_extra=_BODY)
async def create_transcription(
    request: Request, parts: Lent, task: Literal["transcriptions", "translations"]
) -> Response:
    """Transcribe one file, or translate it to English, and return the text."""
    _require_running_queue(parts)
    with ExitStack() as stack:
        async with receive_files(
            request, parts, parts.settings.upload_inbox, file_fields=("file", REFERENCES)
        ) as reception:
            form = reception.form
            wanted, streams = _read_format(form)
            people = await read_known_speakers(reception)
            client = stack.enter_context(parts.live.register_client())
            taken = await _receive_upload(parts, reception, task)
        if streams:
            label = partial(_load_diarized, parts, people=people) if wanted == DIARIZED else None
            events = _stream_events(parts, taken.job_id, client, stack.pop_all(), label)
            return StreamingResponse(events, media_type="text/event-stream")
        job = await _cancel_on_disconnect(request, _wait_for_end(parts, taken.job_id, client))
    if job["status"] != Status.COMPLETED:
        raise RequestRefused(422, str(job["error"] or f"the job is {job['status']}"))
    if wanted == DIARIZED:
        return JSONResponse(await _load_diarized(parts, JobId(taken.job_id), people=people))
    transcript = await parts.ledger.clients.read(load_transcript, JobId(taken.job_id))
    words = "word" in form.get_texts("timestamp_granularities[]")
    return await parts.calls.rendering.run(
        _build_answer, transcript, wanted, words=words, task=task
    )


def _read_format(form: UploadForm) -> tuple[str, bool]:
    """Return the response format, and whether to stream.

    Raises RequestRefused: 422 for an unknown format.
    """
    wanted = form.get_text("response_format", "json")
    if wanted not in _FORMATS:
        raise RequestRefused(422, f"response_format must be one of {', '.join(_FORMATS)}")
    streams = form.get_text("stream").lower() in {"true", "1"}
    if streams and wanted not in {"json", "text", DIARIZED}:
        raise RequestRefused(422, f"with stream, response_format must be json, text or {DIARIZED}")
    return wanted, streams


async def _receive_upload(parts: ServerContext, reception: Reception, task: str) -> UploadedFile:
    form = reception.form
    file = next((file for file in form.files if file.field == "file"), None)
    if file is None:
        raise RequestRefused(422, "the form has no `file`")
    inbox = parts.settings.upload_inbox
    changes = check_options(parts, inbox, _read_options(parts, form, task))
    # Under a name that was there before, the same bytes would be a duplicate: each request has a name of its own.
    name = await reception.calls.run(_complete_name, parts, reception, file)
    wanted = choose_place(parts, inbox, replace(file, name=_name_upload(name)), folder=FOLDER)
    return (
        await take_upload(parts, inbox, reception, wanted=[wanted], changes=changes, awaited=True)
    )[0]


def _complete_name(parts: ServerContext, reception: Reception, file: ReceivedFile) -> str:
    """Return the file's name; without an accepted extension, one is added by the file's content."""
    rules = InboxRules.for_inbox(parts.settings, parts.settings.upload_inbox)
    name = PurePosixPath(file.name.replace("\\", "/")).name or "audio"
    if not rules.has_other_extension(name):
        return name
    with reception.form.folder.open_file(file.temporary) as content:
        extension = guess_extension(content.read(HEAD_BYTES))
    if extension is None:
        raise RequestRefused(400, "unknown audio or video format")
    return f"{name}.{extension}"


def _name_upload(name: str) -> str:
    plain = PurePosixPath(name.replace("\\", "/"))
    return f"{plain.stem[:STEM]} {secrets.token_hex(4)}{plain.suffix}"


def _read_options(parts: ServerContext, form: UploadForm, task: str) -> Mapping[str, object]:
    """Return the options of a form."""
    asked: dict[str, object] = {
        "language": _read_language(form.get_text("language")),
        "initial_prompt": form.get_text("prompt")[-PROMPT:],
        "word_timestamps": "word" in form.get_texts("timestamp_granularities[]"),
        "task": "translate" if task == "translations" else "",
    }
    changes: dict[str, object] = {"priority": FIRST} | {
        key: value for key, value in asked.items() if value
    }
    model = form.get_text("model", USUAL)
    if form.get_text("response_format") == DIARIZED:
        changes |= _choose_speaker_options(parts, model)
    if model == USUAL or model in _DIARIZING:
        return changes
    return changes | {"preset" if model in parts.settings.presets else "model": model}


def _choose_speaker_options(parts: ServerContext, model: str) -> Mapping[str, object]:
    """Return the options that tell speakers apart, unless the preset or the inbox does."""
    inbox = parts.settings.upload_inbox
    presets = Presets(
        defaults=parts.settings.options,
        presets=parts.settings.presets,
        inbox_preset=inbox.preset,
    )
    named = {"preset": model} if model in parts.settings.presets else {}
    is_off = presets.choose_options(FOLDER, named).options.speakers == "off"
    return {"speakers": "auto"} if is_off else {}


def _read_language(text: str) -> str | None:
    """Return the ISO 639-1 code of a code, a name (`English`) or a tag (`en-US`).

    Raises RequestRefused: 400 for an unknown language.
    """
    if not text.strip() or text.strip().lower() == "auto":
        return None
    code = find_code(text)
    if code is None:
        raise RequestRefused(
            400,
            f"unknown language {text[:80]!r}",
            hint="Use an ISO 639-1 code such as en.",
        )
    return code


def _require_running_queue(parts: ServerContext, hint: str = "") -> None:
    """Raises RequestRefused: 503 while work is paused."""
    inbox = parts.settings.upload_inbox.name
    pauses = parts.pauses.reasons.items()
    if reasons := [reason for cause, reason in pauses if cause.covers(inbox)]:
        raise RequestRefused(503, "; ".join(reasons), hint=hint)


async def _cancel_on_disconnect(request: Request, answer: Coroutine[Any, Any, Row]) -> Row:
    """Await the answer. Raises RequestRefused: 400 when the client disconnects.

    The request was read completely, so the next message is the disconnect.
    """
    waiting, gone = asyncio.ensure_future(answer), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise RequestRefused(400, "the client disconnected")
        return waiting.result()
    finally:
        waiting.cancel()
        gone.cancel()


async def _wait_for_end(parts: ServerContext, job_id: int, client: LiveClient) -> Row:
    """Return the job's row once it has ended. `client` was registered before the job was added."""
    async for row in _follow_job(parts, job_id, client):
        if row["finished_at"] is not None:
            return row
    raise AssertionError("_follow_job yields until the job ends")


async def _follow_job(parts: ServerContext, job_id: int, client: LiveClient) -> AsyncIterator[Row]:
    """Yield the job's row now, after each of its events, and every FOLLOW_S without any, to its end."""
    row = await find_job(parts, job_id)
    yield row
    while row["finished_at"] is None:
        _require_running_queue(parts, hint=f"Job {job_id} resumes afterwards.")
        with suppress(TimeoutError):
            async with asyncio.timeout(FOLLOW_S):
                await _wait_for_event(job_id, client)
        row = await find_job(parts, job_id)
        yield row


async def _wait_for_event(job_id: int, client: LiveClient) -> None:
    """Wait for the next event of the job, or of a pause."""
    while (news := await client.next_message()) is not None:
        if any(
            event.job_id == job_id or event.kind is EventKind.QUEUE_PAUSED for event in news.events
        ):
            return
    raise RequestRefused(
        503, "the daemon is too busy to wait", hint=f"The text will be that of job {job_id}."
    )


async def _stream_events(
    parts: ServerContext,
    job_id: int,
    client: LiveClient,
    stack: ExitStack,
    load_diarized: Callable[[JobId], Awaitable[Diarized]] | None,
) -> AsyncIterator[str]:
    """Yield server-sent events: text as chunks finish, finally the whole text or an error.

    Segments with their speakers come before the end, since only the whole file tells the speakers.
    """
    sent = ""
    with stack:
        try:
            async for row in _follow_job(parts, job_id, client):
                text = await _read_text(parts, JobId(job_id), ended=row["finished_at"] is not None)
                if text.startswith(sent) and text != sent:
                    yield _format_event(
                        {"type": "transcript.text.delta", "delta": text[len(sent) :]}
                    )
                    sent = text
                elif row["finished_at"] is None:
                    yield ": in progress\n\n"
            if row["status"] != Status.COMPLETED:
                raise RequestRefused(422, str(row["error"] or f"the job is {row['status']}"))
            if load_diarized:
                for segment in (await load_diarized(JobId(job_id)))["segments"]:
                    yield _format_event(segment)
            yield _format_event({"type": "transcript.text.done", "text": text})
        except SpeakeasyError as error:
            yield _format_event(
                {"error": {"message": str(error), "hint": error.hint, "type": "server_error"}}
            )


async def _read_text(parts: ServerContext, job_id: JobId, *, ended: bool) -> str:
    """Return the whole text of an ended job, otherwise that of its leading chunks."""
    if ended:
        return (await parts.ledger.clients.read(load_transcript, job_id)).text
    return await parts.ledger.clients.read(read_leading_text, job_id)


async def _load_diarized(
    parts: ServerContext, job_id: JobId, *, people: Sequence[VoiceSample]
) -> Diarized:
    transcript = await parts.ledger.clients.read(load_transcript, job_id)
    known = await parts.ledger.clients.read(load_job_speakers, job_id)
    return await parts.calls.rendering.run(build_diarized, transcript, known, people)


def _format_event(data: Mapping[str, object]) -> str:
    return f"data: {encode_json(data)}\n\n"


def _build_answer(transcript: Transcript, wanted: str, *, words: bool, task: str) -> Response:
    match wanted:
        case "json":
            return JSONResponse({"text": transcript.text})
        case "verbose_json":
            return JSONResponse(_build_verbose(transcript, words=words, task=task))
        case "text":
            return PlainTextResponse(transcript.text + "\n")
        case _:
            return PlainTextResponse(FORMATS[wanted].render_file(transcript))


def _build_verbose(transcript: Transcript, *, words: bool, task: str) -> Mapping[str, object]:
    timed_words = [
        {"word": word.text.strip(), "start": word.start, "end": word.end}
        for segment in transcript.segments
        for word in segment.words
    ]
    return {
        "task": "translate" if task == "translations" else "transcribe",
        "language": NAMES.get(transcript.language or "", transcript.language),
        "duration": transcript.audio_seconds,
        "text": transcript.text,
        "segments": [
            _build_segment(number, segment) for number, segment in enumerate(transcript.segments)
        ],
    } | ({"words": timed_words} if words else {})


def _build_segment(number: int, segment: Segment) -> Mapping[str, object]:
    return {
        "id": number,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": segment.avg_logprob or 0.0,  # clients expect numbers
        "compression_ratio": segment.compression_ratio or 0.0,
        "no_speech_prob": segment.no_speech_prob or 0.0,
    }


@router.get("/models")
async def list_models(parts: Lent) -> Mapping[str, object]:
    """List the values of `model`: the configured model and the presets."""
    return {
        "object": "list",
        "data": [_build_model(name) for name in (USUAL, *sorted(parts.settings.presets))],
    }


@router.get("/models/{name}")
async def get_model(parts: Lent, name: str) -> Mapping[str, object]:
    if name != USUAL and name not in parts.settings.presets:
        raise RequestRefused(404, f"unknown model {name[:80]!r}", hint="GET /v1/models lists them.")
    return _build_model(name)


def _build_model(name: str) -> Mapping[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "speakeasyd"}
