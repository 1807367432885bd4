"""The audio part of OpenAI's API, through the same inbox and ledger, ahead of the queue.

Fields and answers: https://platform.openai.com/docs/api-reference/audio. `temperature` and `stream` have no effect.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from speakeasyd.domain.formats import render
from speakeasyd.domain.job import JobId, Status
from speakeasyd.domain.transcript import Segment, Transcript
from speakeasyd.ledger.reading import Row
from speakeasyd.server.answers import Received
from speakeasyd.server.jobs import find
from speakeasyd.server.live import Client
from speakeasyd.server.multipart import Form
from speakeasyd.server.parts import Lent, Parts
from speakeasyd.server.problems import Refused
from speakeasyd.server.uploads import Reception, allowed, place, received, take
from speakeasyd.services.pauses import LEAVING

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])

FOLDER = "api"  # of the inbox, and so the batch
FIRST = 100  # the highest priority: somebody waits
STEM = 50  # characters of a file's own name that are kept
USUAL = "whisper-1"  # the name that stands for whatever is configured

_ENDED = frozenset({"job.completed", "job.failed", "job.cancelled", "job.skipped"})
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
        async with received(request, parts, parts.settings.upload_inbox) as reception:
            form = reception.form
            wanted = form.text("response_format", "json")
            if wanted not in _FORMATS:
                raise Refused(422, f"response_format is one of {', '.join(_FORMATS)}")
            client = stack.enter_context(parts.live.client())
            taken = await _take(parts, reception, task)
        job = await _unless_gone(request, _ended(parts, taken.job_id, client))
    if job["status"] != Status.COMPLETED:
        raise Refused(422, str(job["error"] or f"the job is {job['status']}"))
    told = await parts.ledger.clients.transcript(JobId(taken.job_id))
    return _answer(told, wanted, words="word" in form.texts("timestamp_granularities[]"), task=task)


async def _take(parts: Parts, reception: Reception, task: str) -> Received:
    form = reception.form
    file = next((file for file in form.files if file.field == "file"), None)
    if file is None:
        raise Refused(422, "there is no `file` in the form")
    inbox = parts.settings.upload_inbox
    changes = allowed(parts, inbox, _changes(parts, form, task))
    # Under a name that was there before, the same bytes would be a duplicate: each request has a name of its own.
    wanted = place(parts, inbox, replace(file, name=_named(file.name)), folder=FOLDER)
    return (await take(parts, inbox, reception, wanted=[wanted], changes=changes, awaited=True))[0]


def _named(name: str) -> str:
    plain = PurePosixPath(name.replace("\\", "/"))
    return f"{plain.stem[:STEM]} {secrets.token_hex(4)}{plain.suffix}"


def _changes(parts: Parts, form: Form, task: str) -> Mapping[str, object]:
    """The options of a form."""
    asked: dict[str, object] = {
        "language": form.text("language").lower(),
        "initial_prompt": form.text("prompt"),
        "word_timestamps": "word" in form.texts("timestamp_granularities[]"),
        "task": "translate" if task == "translations" else "",
    }
    changes: dict[str, object] = {"priority": FIRST} | {key: value for key, value in asked.items() if value}
    model = form.text("model", USUAL)
    if model == USUAL:
        return changes
    return changes | {"preset" if model in parts.settings.presets else "model": model}


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
    row = await find(parts, job_id)
    while row["finished_at"] is None:
        _require_work(parts, hint=f"Job {job_id} goes on after that.")
        news = await client.next()
        if news is None:
            raise Refused(503, "the daemon is too busy to wait for the text", hint=f"It will be that of job {job_id}.")
        if any(event.job_id == job_id and event.kind in _ENDED for event in news.events):
            row = await find(parts, job_id)
    return row


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
        "language": told.language,
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
