"""The audio part of OpenAI's API, through the same inbox and ledger, ahead of the queue.

Fields, answers and streamed events: https://platform.openai.com/docs/api-reference/audio. `temperature` has no effect.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool as in_thread

from speakeasyd.domain.formats import render
from speakeasyd.domain.job import JobId, Status
from speakeasyd.domain.language_codes import NAMES, find_code
from speakeasyd.domain.media_types import HEAD_BYTES, guess_extension
from speakeasyd.domain.transcript import Segment, Transcript
from speakeasyd.errors import SpeakeasyError
from speakeasyd.inbox.rules import Rules
from speakeasyd.ledger.reading import Row
from speakeasyd.server.answers import Received
from speakeasyd.server.jobs import find
from speakeasyd.server.live import Client, encoded
from speakeasyd.server.multipart import Form
from speakeasyd.server.multipart import Received as ReceivedFile
from speakeasyd.server.parts import Lent, Parts
from speakeasyd.server.problems import Refused
from speakeasyd.server.uploads import Reception, allowed, place, received, take
from speakeasyd.services.pauses import LEAVING

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])

FOLDER = "api"  # of the inbox, and so the batch
FIRST = 100  # the highest priority: somebody waits
STEM = 50  # characters of a file's own name that are kept
PROMPT = 2000  # characters of a prompt that count: the last ones
FOLLOW_S = 15.0  # seconds without news after which a stream says that it is still there
USUAL = "whisper-1"  # the name that stands for whatever is configured

_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "model"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "model": {"type": "string", "description": f"`{USUAL}`, or the name of a preset."},
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
                    },
                }
            }
        },
    }
}


@router.post("/audio/{task}", response_class=Response, openapi_extra=_BODY)
async def transcriptions(request: Request, parts: Lent, task: Literal["transcriptions", "translations"]) -> Response:
    """Transcribe one file, or translate it to English, and wait for the text."""
    _require_work(parts)
    with ExitStack() as stack:
        async with received(request, parts, parts.settings.upload_inbox, file_field="file") as reception:
            form = reception.form
            wanted, streams = _read_format(form)
            client = stack.enter_context(parts.live.client())
            taken = await _take(parts, reception, task)
        if streams:
            events = _stream_events(parts, taken.job_id, client, stack.pop_all())
            return StreamingResponse(events, media_type="text/event-stream")
        job = await _unless_gone(request, _ended(parts, taken.job_id, client))
    if job["status"] != Status.COMPLETED:
        raise Refused(422, str(job["error"] or f"the job is {job['status']}"))
    told = await parts.ledger.clients.transcript(JobId(taken.job_id))
    return _answer(told, wanted, words="word" in form.texts("timestamp_granularities[]"), task=task)


def _read_format(form: Form) -> tuple[str, bool]:
    """The format of the answer, and whether it is streamed."""
    wanted = form.text("response_format", "json")
    if wanted not in _FORMATS:
        raise Refused(422, f"response_format is one of {', '.join(_FORMATS)}")
    streams = form.text("stream").lower() in {"true", "1"}
    if streams and wanted not in {"json", "text"}:
        raise Refused(422, "stream gives plain text: response_format is then json or text")
    return wanted, streams


async def _take(parts: Parts, reception: Reception, task: str) -> Received:
    form = reception.form
    file = next((file for file in form.files if file.field == "file"), None)
    if file is None:
        raise Refused(422, "there is no `file` in the form")
    inbox = parts.settings.upload_inbox
    changes = allowed(parts, inbox, _changes(parts, form, task))
    # Under a name that was there before, the same bytes would be a duplicate: each request has a name of its own.
    name = await in_thread(_complete_name, parts, reception, file)
    wanted = place(parts, inbox, replace(file, name=_named(name)), folder=FOLDER)
    return (await take(parts, inbox, reception, wanted=[wanted], changes=changes, awaited=True))[0]


def _complete_name(parts: Parts, reception: Reception, file: ReceivedFile) -> str:
    """The file's name, with an extension by its first bytes where the name has none that the inbox takes."""
    rules = Rules.for_inbox(parts.settings, parts.settings.upload_inbox)
    name = PurePosixPath(file.name.replace("\\", "/")).name or "audio"
    if not rules.has_other_extension(name):
        return name
    with reception.form.folder.open_file(file.temporary) as content:
        extension = guess_extension(content.read(HEAD_BYTES))
    if extension is None:
        raise Refused(400, "the file is in no format of audio or video that is known here")
    return f"{name}.{extension}"


def _named(name: str) -> str:
    plain = PurePosixPath(name.replace("\\", "/"))
    return f"{plain.stem[:STEM]} {secrets.token_hex(4)}{plain.suffix}"


def _changes(parts: Parts, form: Form, task: str) -> Mapping[str, object]:
    """The options of a form."""
    asked: dict[str, object] = {
        "language": _read_language(form.text("language")),
        "initial_prompt": form.text("prompt")[-PROMPT:],
        "word_timestamps": "word" in form.texts("timestamp_granularities[]"),
        "task": "translate" if task == "translations" else "",
    }
    changes: dict[str, object] = {"priority": FIRST} | {key: value for key, value in asked.items() if value}
    model = form.text("model", USUAL)
    if model == USUAL:
        return changes
    return changes | {"preset" if model in parts.settings.presets else "model": model}


def _read_language(text: str) -> str | None:
    """A code of ISO 639-1, also from a name (`English`) or a tag (`en-US`). Raises Refused for no language."""
    if not text.strip() or text.strip().lower() == "auto":
        return None
    code = find_code(text)
    if code is None:
        raise Refused(400, f"{text[:80]!r} is no language of Whisper", hint="Give a code of ISO 639-1, such as en.")
    return code


def _require_work(parts: Parts, hint: str = "") -> None:
    """Raises Refused while nothing would come of waiting."""
    inbox = parts.settings.upload_inbox.name
    causes = (*LEAVING, "device", "ledger", f"inbox {inbox}", f"outbox {inbox}")
    if reasons := [parts.pauses.reasons[cause] for cause in causes if cause in parts.pauses]:
        raise Refused(503, "; ".join(reasons), hint=hint)


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, Row]) -> Row:
    """Raises Refused as soon as nobody waits for the answer: the whole request has been read, so its end comes next."""
    waiting, gone = asyncio.ensure_future(answer), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise Refused(400, "the client has gone")
        return waiting.result()
    finally:
        waiting.cancel()
        gone.cancel()


async def _ended(parts: Parts, job_id: int, client: Client) -> Row:
    """Its row, once it has ended. `client` has listened since before it began."""
    async for row in _follow(parts, job_id, client):
        if row["finished_at"] is not None:
            return row
    raise AssertionError("a job that does not end is followed for ever")


async def _follow(parts: Parts, job_id: int, client: Client) -> AsyncIterator[Row]:
    """Its row now, after each of its events, and after a while without any. The last one is of its end."""
    row = await find(parts, job_id)
    yield row
    while row["finished_at"] is None:
        _require_work(parts, hint=f"Job {job_id} goes on after that.")
        with suppress(TimeoutError):
            async with asyncio.timeout(FOLLOW_S):
                await _hear_of(job_id, client)
        row = await find(parts, job_id)
        yield row


async def _hear_of(job_id: int, client: Client) -> None:
    """Wait for the next event of the job, or of a pause."""
    while (news := await client.next()) is not None:
        if any(event.job_id == job_id or event.kind == "queue.paused" for event in news.events):
            return
    raise Refused(503, "the daemon is too busy to wait for the text", hint=f"It will be that of job {job_id}.")


async def _stream_events(parts: Parts, job_id: int, client: Client, stack: ExitStack) -> AsyncIterator[str]:
    """Server-sent events: the text as its chunks come, at the end all of it, or an error."""
    sent = ""
    with stack:
        try:
            async for row in _follow(parts, job_id, client):
                text = await _read_text(parts, JobId(job_id), ended=row["finished_at"] is not None)
                if text.startswith(sent) and text != sent:
                    yield _format_event({"type": "transcript.text.delta", "delta": text[len(sent) :]})
                    sent = text
                elif row["finished_at"] is None:
                    yield ": still at work\n\n"
            if row["status"] != Status.COMPLETED:
                raise Refused(422, str(row["error"] or f"the job is {row['status']}"))
            yield _format_event({"type": "transcript.text.done", "text": text})
        except SpeakeasyError as error:
            yield _format_event({"error": {"message": str(error), "hint": error.hint, "type": "server_error"}})


async def _read_text(parts: Parts, job_id: JobId, *, ended: bool) -> str:
    """All of the text once the job has ended, until then that of its first chunks."""
    if ended:
        return (await parts.ledger.clients.transcript(job_id)).text
    return await parts.ledger.clients.leading_text(job_id)


def _format_event(data: Mapping[str, object]) -> str:
    return f"data: {encoded(data)}\n\n"


def _answer(told: Transcript, wanted: str, *, words: bool, task: str) -> Response:
    match wanted:
        case "json":
            return JSONResponse({"text": told.text})
        case "verbose_json":
            return JSONResponse(_verbose(told, words=words, task=task))
        case "text":
            return PlainTextResponse(told.text + "\n")
        case _:
            return PlainTextResponse(render(told, wanted))


def _verbose(told: Transcript, *, words: bool, task: str) -> Mapping[str, object]:
    spoken = [
        {"word": word.text.strip(), "start": word.start, "end": word.end}
        for segment in told.segments
        for word in segment.words
    ]
    return {
        "task": "translate" if task == "translations" else "transcribe",
        "language": NAMES.get(told.language or "", told.language),
        "duration": told.audio_seconds,
        "text": told.text,
        "segments": [_segment(number, segment) for number, segment in enumerate(told.segments)],
    } | ({"words": spoken} if words else {})


def _segment(number: int, segment: Segment) -> Mapping[str, object]:
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
async def models(parts: Lent) -> Mapping[str, object]:
    """What may be asked for as `model`: the configured one, and the presets."""
    return {"object": "list", "data": [_model(name) for name in (USUAL, *sorted(parts.settings.presets))]}


@router.get("/models/{name}")
async def model(parts: Lent, name: str) -> Mapping[str, object]:
    if name != USUAL and name not in parts.settings.presets:
        raise Refused(404, f"there is no model {name[:80]!r}", hint="GET /v1/models lists them.")
    return _model(name)


def _model(name: str) -> Mapping[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "speakeasyd"}
