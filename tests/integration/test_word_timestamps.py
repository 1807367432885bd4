"""Words aligned with the audio, and the limits of the decoder."""

import numpy as np
import pytest
from ctranslate2 import StorageView

from speakeasyd.domain.options import Options
from speakeasyd.engine.audio import SAMPLE_RATE
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.model import load_model
from speakeasyd.engine.whisper.decoding import Decoder
from speakeasyd.engine.whisper.network import CALL_RULES, CTranslate2Network
from speakeasyd.engine.whisper.recognizer import WhisperRecognizer
from speakeasyd.engine.whisper.token_segments import TokenSegment
from speakeasyd.engine.whisper.word_timestamps import align_words
from tests.integration.test_engine import build_spec

pytestmark = pytest.mark.real

WINDOW = 1000  # frames


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> WhisperRecognizer:
    loaded = load_model("bundled", build_spec(tmp_path_factory.mktemp("state"))).recognizer
    assert isinstance(loaded, WhisperRecognizer)
    return loaded


@pytest.fixture(scope="module")
def decoder(recognizer: WhisperRecognizer) -> Decoder:
    network = CTranslate2Network(recognizer.model)
    return Decoder(recognizer.model, network, CALL_RULES["cuda"])


def join_words(
    recognizer: WhisperRecognizer, decoder: Decoder, texts: list[list[int]], frames: list[int]
) -> list[str]:
    """Align texts, given as tokens, with silence. Checks the times of the words."""
    silence = np.zeros(SAMPLE_RATE, np.float32)
    stretches = [[TokenSegment(0.0, 1.0, tuple(tokens))] if tokens else [] for tokens in texts]
    [encoded] = decoder.encode_clips([silence], [WINDOW])
    together = StorageView.from_array(np.repeat(np.asarray(encoded), len(texts), axis=0))
    aligned = align_words(
        recognizer.model.ctranslate2,
        recognizer.model.create_tokenizer("en"),
        together,
        stretches,
        start=decoder.create_plan(Options(), "en").task,
        frames=frames,
    )
    joined = []
    for clip, heard in zip(aligned, frames, strict=True):
        words = [word for stretch in clip for word in stretch]
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert all(0.0 <= time <= heard / 100 for time in times)
        joined.append("".join(word.text for word in words))
    return joined


def test_no_text_is_lost_at_an_incomplete_character(
    recognizer: WhisperRecognizer, decoder: Decoder
) -> None:
    """A text that reaches the limit of tokens can end within a character."""
    tokenizer = recognizer.model.create_tokenizer("en")
    hello, character = tokenizer.encode(" hello there"), tokenizer.encode("\u8d70")
    assert len(character) > 1
    texts = [
        [*hello, *character[:-1]],
        [*hello, *character[:-1], *tokenizer.encode(" friend")],
        [*character[:-1], *character, *character[:-1]],
    ]
    joined = join_words(recognizer, decoder, texts, [100] * len(texts))
    for found, tokens in zip(joined, texts, strict=True):
        assert found.replace("\ufffd", "") == tokenizer.decode(tokens).replace("\ufffd", "")


@pytest.mark.parametrize("frames", [4, 100])
def test_empty_texts_can_be_aligned(
    recognizer: WhisperRecognizer, decoder: Decoder, frames: int
) -> None:
    hello = recognizer.model.create_tokenizer("en").encode(" hello there")
    texts: list[list[int]] = [hello, [], hello]
    assert join_words(recognizer, decoder, texts, [frames, frames, 100]) == [
        " hello there",
        "",
        " hello there",
    ]


def test_a_text_that_reaches_the_limit_of_tokens_is_cut_off(recognizer: WhisperRecognizer) -> None:
    network = CTranslate2Network(recognizer.model)
    decoder = Decoder(recognizer.model, network, CALL_RULES["cuda"])
    plan = decoder.create_plan(Options(accuracy="fast"), "en")
    clip = Clip(0, 0.0, None, np.zeros(SAMPLE_RATE, np.float32))
    [short] = decoder.decode_batch([clip], [plan.start], plan, plan.way)
    network.suppressed.append(recognizer.model.create_tokenizer("en").eot)  # it never ends
    [endless] = decoder.decode_batch([clip], [plan.start], plan, plan.way)
    assert not short.evidence.cut_off
    assert endless.evidence.cut_off


def test_special_tokens_in_a_prompt_are_left_out(
    recognizer: WhisperRecognizer, decoder: Decoder
) -> None:
    tokenizer = recognizer.model.create_tokenizer("en")
    words = "harbour <|startoftranscript|> and <|notimestamps|> boats"
    plan = decoder.create_plan(Options(initial_prompt=words, hotwords="<|0.00|>"), "en")
    prompt = decoder.build_prompt(plan, words * 20)
    assert tokenizer.decode(list(prompt)).count(" boats") > 1
    assert prompt[0] == tokenizer.sot_prev
    assert max(prompt[1 : -len(plan.start)]) < tokenizer.eot


def test_a_translation_is_split_into_english_words(decoder: Decoder) -> None:
    """In Japanese, each token would be a word, and a segment could end within an English word."""
    assert decoder.create_plan(Options(), "ja").text_language == "ja"
    assert decoder.create_plan(Options(task="translate"), "ja").text_language == "en"
