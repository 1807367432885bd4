"""Recording from the microphone of the daemon's machine."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

from speakeasyd.domain.recording import RecorderState, RecordingLimits
from speakeasyd.server.context import Lent
from speakeasyd.server.error_answers import RequestRefused

router = APIRouter(prefix="/recorder", tags=["recorder"])


class RecordingRequest(BaseModel):
    device: str | Annotated[int, Field(ge=0, lt=2**31)] | None = None
    max_s: float | None = Field(None, gt=0)
    until_silence_s: float | None = Field(None, gt=0)


@router.get("")
async def get_recorder_state(parts: Lent) -> RecorderState:
    """Return the recorder's state."""
    return parts.recorder.state


@router.get("/devices")
async def list_devices(parts: Lent) -> Mapping[str, list[Mapping[str, Any]]]:
    """List the recording devices."""
    devices = await parts.calls.recorder.run(parts.recorder.list_devices)
    return {"devices": [asdict(device) for device in devices]}


@router.post("/start")
async def start_recording(
    parts: Lent, wish: Annotated[RecordingRequest | None, Body()] = None
) -> RecorderState:
    """Start a recording; its file appears in the inbox when it ends."""
    wanted = wish or RecordingRequest()
    limits = RecordingLimits(max_s=wanted.max_s, until_silence_s=wanted.until_silence_s)
    try:
        return await parts.calls.recorder.acquire(
            parts.recorder.start,
            lambda _state: parts.recorder.stop(),  # the client got an error
            device=wanted.device,
            limits=limits,
        )
    except OSError as error:
        raise RequestRefused(
            503, f"the inbox cannot be written: {error.strerror or error}"
        ) from error


@router.post("/stop")
async def stop_recording(parts: Lent) -> RecorderState:
    """Stop the recording. Its file is in the inbox before the answer."""
    return await parts.calls.recorder.run(parts.recorder.stop)
