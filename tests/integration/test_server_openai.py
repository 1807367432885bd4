"""OpenAI's own client finds what it expects."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.served import MEMO, serving

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with (
        serving(tmp_path_factory.mktemp("openai"), PRESETS__QUICK__ACCURACY="fast") as served,
        openai.OpenAI(base_url=f"{served.address}/v1", api_key="unused", max_retries=0) as client,
    ):
        yield client


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
    told = transcribe(client, response_format="verbose_json", timestamp_granularities=["word"])
    assert "dentist" in [word.word for word in told.words]
    assert told.segments[0].start >= 0


def test_what_cannot_be_done_is_refused_in_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="not one of the configuration's"):
        transcribe(client, model="large-v9")
    with pytest.deprecated_call(), pytest.raises(openai.UnprocessableEntityError, match="English only"):
        client.audio.translations.create(file=MEMO, model="whisper-1")
