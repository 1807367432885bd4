"""The endpoints for OpenAI's client, used by that client."""

import threading
import wave
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from speakeasyd.engine.audio import Audio
from speakeasyd.engine.media_file import MediaFile
from tests.conftest import PATIENCE_S, poll_until
from tests.serving_daemon import VOICE_MEMO, ServingDaemon, run_daemon

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingDaemon]:
    strict = {"WATCH__DUPLICATES": "skip"}
    with run_daemon(
        tmp_path_factory.mktemp("openai"), PRESETS__QUICK__ACCURACY="fast", **strict
    ) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: ServingDaemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.address}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def long_recording(tmp_path: Path) -> Path:
    """Create a recording of three minutes by repetition of the memo."""
    with MediaFile(str(VOICE_MEMO)) as source:
        memo = np.concatenate([block[0] for block in Audio(source).blocks()])
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        for _ in range(180 * 16000 // memo.size):
            file.writeframesraw((memo * 32767).astype("<i2").tobytes())
    return tmp_path / "long.wav"


def transcribe_memo(client: openai.OpenAI, **more: Any) -> Any:
    return client.audio.transcriptions.create(file=VOICE_MEMO, **{"model": "whisper-1"} | more)


def test_models_are_the_presets(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["whisper-1", "quick"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-7")


def test_every_response_format_is_returned(client: openai.OpenAI) -> None:
    assert "dentist" in transcribe_memo(client).text
    assert "dentist" in transcribe_memo(client, response_format="text", model="quick")
    assert "-->" in transcribe_memo(client, response_format="srt")
    assert transcribe_memo(client, response_format="vtt").startswith("WEBVTT")


def test_words_have_times(tmp_path: Path) -> None:
    with (
        run_daemon(tmp_path) as daemon,
        openai.OpenAI(base_url=f"{daemon.address}/v1", api_key="unused", max_retries=0) as client,
    ):
        plain = transcribe_memo(client, response_format="verbose_json")
        transcription = transcribe_memo(
            client, response_format="verbose_json", timestamp_granularities=["word"]
        )
    assert not plain.words
    assert "dentist" in [word.word for word in transcription.words]
    assert transcription.language == "english"
    assert transcription.segments[0].start >= 0


def test_a_request_fails_while_work_is_paused(
    daemon: ServingDaemon, client: openai.OpenAI, long_recording: Path
) -> None:
    refused: list[openai.APIStatusError] = []

    def send_request() -> None:
        with pytest.raises(openai.APIStatusError) as error:
            client.audio.transcriptions.create(file=long_recording, model="whisper-1")
        refused.append(error.value)

    asking = threading.Thread(target=send_request)
    asking.start()
    poll_until(lambda: daemon.get("/status")["counts"]["processing"], "the start of the job")
    daemon.post("/pause", json={"reason": "quiet please"})
    asking.join(PATIENCE_S)
    with pytest.raises(openai.APIStatusError, match="quiet please"):
        transcribe_memo(client)
    daemon.post("/resume")
    assert refused[0].status_code == 503
    assert "resumes" in str(refused[0].body)
    assert (
        daemon.wait_for_job(daemon.get("/jobs", limit=1)["jobs"][0]["job_id"])["status"]
        == "completed"
    )


def test_a_stream_sends_text_during_transcription(
    client: openai.OpenAI, long_recording: Path
) -> None:
    events = list(
        client.audio.transcriptions.create(
            file=long_recording, model="whisper-1", prompt="Of its own.", stream=True
        )
    )
    assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
    assert len(events) > 2, "the chunks came one after the other"
    assert events[-1].type == "transcript.text.done"
    assert "".join(event.delta for event in events[:-1]) == events[-1].text
    assert events[-1].text.count("dentist") > 3


def test_a_stream_of_a_failed_job_sends_an_error(
    daemon: ServingDaemon, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.APIError, match="no audio or video"):
        list(
            client.audio.transcriptions.create(
                file=("a.mp3", b"no audio" * 100), model="whisper-1", stream=True
            )
        )


def test_only_plain_text_is_streamed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="response_format"):
        transcribe_memo(client, stream=True, response_format="srt")


@pytest.mark.parametrize("name", ["blob", "audio", "recording.blob", "über.data"])
def test_a_file_without_extension_is_identified_by_content(
    client: openai.OpenAI, name: str
) -> None:
    assert (
        "dentist"
        in client.audio.transcriptions.create(
            file=(name, VOICE_MEMO.read_bytes()), model="whisper-1"
        ).text
    )


def test_a_file_without_a_name_is_accepted(daemon: ServingDaemon) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        + VOICE_MEMO.read_bytes()
        + b"\r\n--x--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answered = daemon.client.post("/v1/audio/transcriptions", content=body, headers=headers)
    assert "dentist" in answered.json()["text"]


def test_a_file_without_audio_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown audio or video format"):
        client.audio.transcriptions.create(
            file=("blob", b"a letter to somebody"), model="whisper-1"
        )


@pytest.mark.parametrize("language", ["English", "en-US", "EN", "en", "eng"])
def test_language_names_and_codes_are_accepted(client: openai.OpenAI, language: str) -> None:
    assert "dentist" in transcribe_memo(client, language=language).text


def test_an_unknown_language_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown language"):
        transcribe_memo(client, language="Klingon")


def test_the_end_of_a_long_prompt_is_used(daemon: ServingDaemon, client: openai.OpenAI) -> None:
    assert (
        "dentist" in transcribe_memo(client, prompt="one two three " * 1000 + "The very end.").text
    )
    [row] = daemon.query_ledger(
        "SELECT options ->> 'initial_prompt' AS prompt FROM jobs ORDER BY id DESC LIMIT 1"
    )
    assert len(row["prompt"]) == 2000
    assert row["prompt"].endswith("The very end.")


def test_a_disconnected_client_cancels_its_request(
    daemon: ServingDaemon, long_recording: Path
) -> None:
    waits = "speakeasyd_websocket_clients 1.0"
    form = {
        "data": {"model": "whisper-1", "prompt": "A memo."},
        "files": {"file": ("left.wav", long_recording.read_bytes())},
    }
    request = httpx.Request("POST", f"{daemon.address}/v1/audio/transcriptions", **form)
    with closing(HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)) as client:
        client.request("POST", request.url.path, request.read(), dict(request.headers))
        poll_until(lambda: daemon.get("/jobs", q="left")["jobs"], "the job")
        poll_until(lambda: waits in daemon.client.get("/metrics").text, "the start of the wait")
    poll_until(lambda: waits not in daemon.client.get("/metrics").text, "the end of the wait")
    [job] = daemon.get("/jobs", q="left")["jobs"]
    assert job["finished_at"] is None, "nobody waits although it goes on"
    assert daemon.wait_for_job(job["job_id"])["status"] == "completed"


def test_unsupported_parameters_are_refused_with_a_message(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="not configured"):
        transcribe_memo(client, model="large-v9")
    with (
        pytest.deprecated_call(),
        pytest.raises(openai.UnprocessableEntityError, match="English only"),
    ):
        client.audio.translations.create(file=VOICE_MEMO, model="whisper-1")
