"""Recordings of people that clients send."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from speakeasyd.server.blocking_calls import CallGroups
from speakeasyd.server.error_answers import RequestRefused
from speakeasyd.server.people import _receive_recording, add_sample
from speakeasyd.server.upload_slots import MOST_INTO_ONE, UploadSlots

FORM = (
    b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nEve\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="../eve.wav"\r\n\r\nsound\r\n'
    b"--x--\r\n"
)


@pytest.fixture
def context() -> Any:
    return SimpleNamespace(calls=CallGroups(), uploads=UploadSlots())


@pytest.fixture
def request_with_form() -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": FORM}

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    return Request({"type": "http", "headers": headers}, receive)


async def test_a_recording_is_received_while_an_inbox_named_people_is_busy(
    context: Any, request_with_form: Request
) -> None:
    with ExitStack() as busy:
        for _ in range(MOST_INTO_ONE):
            busy.enter_context(context.uploads.take("people"))
        async with _receive_recording(request_with_form, context) as (name, path, source):
            assert (name, path.read_bytes(), source) == ("Eve", b"sound", "eve.wav")
    assert not path.exists()


async def test_a_folder_that_refuses_a_recording_is_no_defect(
    context: Any, request_with_form: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(RequestRefused, match="No such file") as refused:
        await add_sample(request_with_form, context)
    assert refused.value.status == 503
