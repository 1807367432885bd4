"""OpenAI's own client finds what it expects."""

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
from tests.conftest import PATIENCE_S
from tests.served import MEMO, Served, serving, until

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    strict = {"WATCH__DUPLICATES": "skip"}
    with serving(
        tmp_path_factory.mktemp("openai"), PRESETS__QUICK__ACCURACY="fast", **strict
    ) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.address}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """The memo over and over, for three minutes."""
    with MediaFile(str(MEMO)) as source:
        memo = np.concatenate([block[0] for block in Audio(source).blocks()])
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        for _ in range(180 * 16000 // memo.size):
            file.writeframesraw((memo * 32767).astype("<i2").tobytes())
    return tmp_path / "long.wav"


def transcribe(client: openai.OpenAI, **more: Any) -> Any:
    return client.audio.transcriptions.create(file=MEMO, **{"model": "whisper-1"} | more)


def test_models_are_the_presets(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["whisper-1", "quick"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-7")


def test_text_comes_as_it_is_asked_for(client: openai.OpenAI) -> None:
    assert "dentist" in transcribe(client).text
    assert "dentist" in transcribe(client, response_format="text", model="quick")
    assert "-->" in transcribe(client, response_format="srt")
    assert transcribe(client, response_format="vtt").startswith("WEBVTT")


def test_words_have_their_times(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as served,
        openai.OpenAI(base_url=f"{served.address}/v1", api_key="unused", max_retries=0) as client,
    ):
        plain = transcribe(client, response_format="verbose_json")
        told = transcribe(client, response_format="verbose_json", timestamp_granularities=["word"])
    assert not plain.words
    assert "dentist" in [word.word for word in told.words]
    assert told.language == "english"
    assert told.segments[0].start >= 0


def test_nobody_waits_for_a_text_while_nothing_is_done(
    served: Served, client: openai.OpenAI, long: Path
) -> None:
    refused: list[openai.APIStatusError] = []

    def ask() -> None:
        with pytest.raises(openai.APIStatusError) as error:
            client.audio.transcriptions.create(file=long, model="whisper-1")
        refused.append(error.value)

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: served.get("/status")["counts"]["processing"], "the job to be begun")
    served.post("/pause", json={"reason": "quiet please"})
    asking.join(PATIENCE_S)
    with pytest.raises(openai.APIStatusError, match="quiet please"):
        transcribe(client)
    served.post("/resume")
    assert refused[0].status_code == 503
    assert "resumes" in str(refused[0].body)
    assert served.ended(served.get("/jobs", limit=1)["jobs"][0]["job_id"])["status"] == "completed"


def test_a_stream_brings_the_text_as_it_is_transcribed(client: openai.OpenAI, long: Path) -> None:
    events = list(
        client.audio.transcriptions.create(
            file=long, model="whisper-1", prompt="Of its own.", stream=True
        )
    )
    assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
    assert len(events) > 2, "the chunks came one after the other"
    assert events[-1].type == "transcript.text.done"
    assert "".join(event.delta for event in events[:-1]) == events[-1].text
    assert events[-1].text.count("dentist") > 3


def test_a_stream_that_cannot_end_well_says_so(served: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="no audio or video"):
        list(
            client.audio.transcriptions.create(
                file=("a.mp3", b"no audio" * 100), model="whisper-1", stream=True
            )
        )


def test_only_plain_text_is_streamed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="response_format"):
        transcribe(client, stream=True, response_format="srt")


@pytest.mark.parametrize("name", ["blob", "audio", "recording.blob", "über.data"])
def test_a_name_that_does_not_say_what_it_is_is_judged_by_content(
    client: openai.OpenAI, name: str
) -> None:
    assert (
        "dentist"
        in client.audio.transcriptions.create(
            file=(name, MEMO.read_bytes()), model="whisper-1"
        ).text
    )


def test_a_file_without_a_name_is_taken(served: Served) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        + MEMO.read_bytes()
        + b"\r\n--x--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answered = served.client.post("/v1/audio/transcriptions", content=body, headers=headers)
    assert "dentist" in answered.json()["text"]


def test_what_is_no_audio_is_refused_at_once(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown audio or video format"):
        client.audio.transcriptions.create(
            file=("blob", b"a letter to somebody"), model="whisper-1"
        )


@pytest.mark.parametrize("language", ["English", "en-US", "EN", "en", "eng"])
def test_a_language_is_understood_as_clients_write_it(client: openai.OpenAI, language: str) -> None:
    assert "dentist" in transcribe(client, language=language).text


def test_what_is_no_language_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown language"):
        transcribe(client, language="Klingon")


def test_of_a_long_prompt_the_end_counts(served: Served, client: openai.OpenAI) -> None:
    assert "dentist" in transcribe(client, prompt="one two three " * 1000 + "The very end.").text
    [row] = served.rows(
        "SELECT options ->> 'initial_prompt' AS prompt FROM jobs ORDER BY id DESC LIMIT 1"
    )
    assert len(row["prompt"]) == 2000
    assert row["prompt"].endswith("The very end.")


def test_who_leaves_is_not_waited_for(served: Served, long: Path) -> None:
    waits = "speakeasyd_websocket_clients 1.0"
    form = {
        "data": {"model": "whisper-1", "prompt": "A memo."},
        "files": {"file": ("left.wav", long.read_bytes())},
    }
    request = httpx.Request("POST", f"{served.address}/v1/audio/transcriptions", **form)
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_S)) as client:
        client.request("POST", request.url.path, request.read(), dict(request.headers))
        until(lambda: served.get("/jobs", q="left")["jobs"], "the job")
        until(lambda: waits in served.client.get("/metrics").text, "the wait to begin")
    until(lambda: waits not in served.client.get("/metrics").text, "the wait to end")
    [job] = served.get("/jobs", q="left")["jobs"]
    assert job["finished_at"] is None, "nobody waits although it goes on"
    assert served.ended(job["job_id"])["status"] == "completed"


def test_what_cannot_be_done_is_refused_in_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="not configured"):
        transcribe(client, model="large-v9")
    with (
        pytest.deprecated_call(),
        pytest.raises(openai.UnprocessableEntityError, match="English only"),
    ):
        client.audio.translations.create(file=MEMO, model="whisper-1")
