"""Files with wrong headers, concatenated files, and files that end early."""

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from speakeasyd.domain.transcript import WarningKind
from speakeasyd.engine.audio import SAMPLE_RATE, Audio, Samples
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.errors import ErrorCode, FileFault

SECOND = 2 * SAMPLE_RATE  # bytes of 16-bit mono


def decode(path: Path, *, split: bool = False) -> tuple[Samples, set[WarningKind]]:
    with MediaFile(str(path)) as source:
        audio = Audio(source, split=split)
        samples = np.concatenate(list(audio.blocks()), axis=1)
        kinds = {warning.kind for warning in audio.warnings()}
        audio.close()
    return samples, kinds


def create_voice(seconds: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(scale=0.1, size=int(seconds * SAMPLE_RATE))
    return (noise * 32767).astype("<i2")


def measure_seconds(samples: Samples) -> float:
    return samples.shape[1] / SAMPLE_RATE


def build_wave(
    sound: np.ndarray, *, declared: int | None = None, tail: bytes = b"", channels: int = 1
) -> bytes:
    body = sound.astype("<i2").tobytes()
    size = len(body) if declared is None else declared
    form = struct.pack(
        "<HHIIHH", 1, channels, SAMPLE_RATE, 2 * channels * SAMPLE_RATE, 2 * channels, 16
    )
    content = (
        b"WAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", size)
        + body
        + tail
    )
    return b"RIFF" + struct.pack("<I", min(0xFFFF_FFFF, 36 + size + len(tail))) + content


def build_rf64(sound: np.ndarray, *, declared: int) -> bytes:
    plain = build_wave(sound, declared=0xFFFF_FFFF)
    sizes = struct.pack("<QQQI", declared + 72, declared, declared // 2, 0)
    return b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", 28) + sizes + plain[12:]


def build_wave64(sound: np.ndarray, *, declared: int) -> bytes:
    suffix = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    form = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    body = sound.astype("<i2").tobytes()
    chunks = b"wave" + suffix + b"fmt " + suffix + struct.pack("<Q", 24 + len(form)) + form
    chunks += b"data" + suffix + struct.pack("<Q", 24 + declared) + body
    return (
        b"riff"
        + bytes.fromhex("2e91cf11a5d628db04c10000")
        + struct.pack("<Q", 24 + len(chunks))
        + chunks
    )


def build_aiff(sound: np.ndarray, *, declared: int) -> bytes:
    body = sound.astype(">i2").tobytes()
    rate = struct.pack(">HQ", 16383 + 13, SAMPLE_RATE << (63 - 13))
    common = b"COMM" + struct.pack(">IhIh", 18, 1, declared // 2, 16) + rate
    return (
        b"FORM" + struct.pack(">I", 46 + declared) + b"AIFF" + common
        + b"SSND" + struct.pack(">III", declared + 8, 0, 0) + body
    )  # fmt: skip


Writer = Callable[..., bytes]
WRITERS = pytest.mark.parametrize("write", [build_wave, build_rf64, build_wave64, build_aiff])


@WRITERS
def test_samples_beyond_the_declared_size_are_read(tmp_path: Path, write: Writer) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(write(create_voice(11.0), declared=SECOND))
    samples, kinds = decode(path)
    assert measure_seconds(samples) == 11.0
    assert np.abs(samples[0] - create_voice(11.0) / 32768).max() < 1e-3
    assert kinds == {WarningKind.REPAIRED}


@WRITERS
def test_a_placeholder_size_is_ignored(tmp_path: Path, write: Writer) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(write(create_voice(3.0), declared=0))
    assert measure_seconds(decode(path)[0]) == 3.0


@WRITERS
def test_a_correct_header_is_used(tmp_path: Path, write: Writer) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(write(create_voice(3.0), declared=3 * SECOND))
    assert (measure_seconds(decode(path)[0]), decode(path)[1]) == (3.0, set())


@WRITERS
def test_missing_samples_give_the_cut_warning(tmp_path: Path, write: Writer) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(write(create_voice(3.0), declared=4 * SECOND))
    assert decode(path)[1] == {WarningKind.CUT}


@WRITERS
def test_a_few_missing_bytes_give_no_warning(tmp_path: Path, write: Writer) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(write(create_voice(3.0), declared=3 * SECOND + 44))
    assert decode(path)[1] == set()


def test_chunks_after_the_samples_are_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    note = b"a note " * 10_000
    path.write_bytes(
        build_wave(create_voice(2.0), tail=b"LIST" + struct.pack("<I", len(note)) + note)
    )
    assert (measure_seconds(decode(path)[0]), decode(path)[1]) == (2.0, set())


@pytest.mark.parametrize("copies", [2, 3])
def test_concatenated_wave_files_are_read(tmp_path: Path, copies: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(build_wave(create_voice(2.0)) * copies)
    samples, kinds = decode(path)
    assert (measure_seconds(samples), kinds) == (2.0 * copies, set())


def test_a_size_that_wrapped_at_4_gb_is_corrected(tmp_path: Path) -> None:
    """The file is sparse; its samples are at the end, after 4 GB."""
    path = tmp_path / "a.wav"
    size = (1 << 32) + 60 * 48_000 * 8
    form = struct.pack("<HHIIHH", 1, 4, 48_000, 48_000 * 8, 8, 16)
    head = (
        b"RIFF"
        + struct.pack("<I", (size + 36) % (1 << 32))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
    )
    with path.open("wb") as file:
        file.write(head + b"data" + struct.pack("<I", size % (1 << 32)))
        begin = file.tell()
        file.seek(begin + size - 4)
        file.write(b"\xff\x7f\xff\x7f")
    if path.stat().st_blocks * 512 > 1 << 28:
        pytest.skip("the file system has no sparse files")
    with MediaFile(str(path)) as source:
        audio = Audio(source)
        assert audio._layout.parts[0].end == begin + size
        assert not audio._layout.parts[0].stale
        assert audio._layout.parts[0].patches == ((begin - 4, b"\xff\xff\xff\xff"),)
        audio.close()


def encode_file(
    path: Path, codec: str, sound: np.ndarray, *, rate: int, layout: str = "mono", form: str = "ogg"
) -> Path:
    planar = "fltp" if codec != "flac" else "s16"
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        channels = 2 if layout == "stereo" else 1
        for start in range(0, sound.size, 960):
            piece = np.repeat(sound[np.newaxis, start : start + 960], channels, axis=0)
            data = (
                piece.astype(np.float32) / 32768
                if planar == "fltp"
                else piece.T.reshape(1, -1).astype(np.int16)
            )
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(data), format=planar, layout=layout
            )
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_all_links_of_a_chained_ogg_are_read(tmp_path: Path) -> None:
    """Each link has its own codec, rate and channels."""
    links = [
        encode_file(tmp_path / "1.ogg", "libopus", create_voice(3.0), rate=48_000),
        encode_file(tmp_path / "2.ogg", "flac", create_voice(3.0, 2), rate=44_100, layout="stereo"),
        encode_file(tmp_path / "3.ogg", "flac", create_voice(3.0, 3), rate=16_000),
        encode_file(tmp_path / "4.ogg", "libopus", create_voice(3.0, 4), rate=48_000),
    ]
    lengths = [decode(link)[0].shape[1] for link in links]
    path = tmp_path / "chained.ogg"
    path.write_bytes(b"".join(link.read_bytes() for link in links))
    samples, kinds = decode(path)
    assert samples.shape[1] == pytest.approx(sum(lengths), abs=100)
    assert kinds == set()
    last = samples[0, -lengths[3] :]
    assert float(np.sqrt(np.mean(last**2))) > 0.03


def test_an_ogg_is_cut_only_within_a_page(tmp_path: Path) -> None:
    whole = encode_file(tmp_path / "a.ogg", "libopus", create_voice(10.0), rate=48_000).read_bytes()
    last = whole.rfind(b"OggS")
    path = tmp_path / "b.ogg"
    path.write_bytes(whole[:last])
    assert decode(path)[1] == set()
    path.write_bytes(whole[: last - 3000])
    assert decode(path)[1] == {WarningKind.CUT}


@pytest.mark.parametrize(
    ("name", "codec", "form"), [("a.m4a", "aac", "mp4"), ("a.mka", "libopus", "matroska")]
)
def test_cut_containers_give_the_cut_warning(
    tmp_path: Path, name: str, codec: str, form: str
) -> None:
    options = {"movflags": "faststart"} if form == "mp4" else {}
    path = tmp_path / name
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        sound = create_voice(30.0)
        for start in range(0, sound.size, 1024):
            data = sound[np.newaxis, start : start + 1024].astype(np.float32) / 32768
            frame = av.AudioFrame.from_ndarray(data, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert decode(path)[1] == set()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert decode(path)[1] == {WarningKind.CUT}


@pytest.mark.parametrize("channels", [3, 6, 7, 8, 9, 16, 32, 64])
def test_a_voice_on_any_of_many_channels_is_kept(tmp_path: Path, channels: int) -> None:
    sound = np.zeros((SAMPLE_RATE * 2, channels), "<i2")
    sound[:, channels // 2] = create_voice(2.0)
    path = tmp_path / "a.wav"
    path.write_bytes(build_wave(sound, channels=channels))
    mixed, kinds = decode(path)
    assert np.abs(mixed[0] - create_voice(2.0) / 32768).max() < 1e-3
    assert kinds == set()
    apart, kinds = decode(path, split=True)
    assert apart.shape[0] == channels
    assert np.abs(apart[channels // 2] - create_voice(2.0) / 32768).max() < 1e-3
    assert kinds == {WarningKind.SILENT}


@pytest.mark.parametrize("channels", [9, 64])
def test_many_channels_are_resampled(tmp_path: Path, channels: int) -> None:
    sound = np.zeros((SAMPLE_RATE, channels), "<i2")
    sound[:, -1] = create_voice(1.0)
    raw = bytearray(build_wave(sound, channels=channels))
    raw[24:28] = struct.pack("<I", 48_000)
    path = tmp_path / "a.wav"
    path.write_bytes(raw)
    mixed, _ = decode(path)
    assert measure_seconds(mixed) == pytest.approx(1 / 3, abs=0.01)
    assert float(np.sqrt(np.mean(mixed**2))) > 0.03


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf, 1e30])
def test_a_sample_that_is_not_a_number_becomes_silence(tmp_path: Path, fault: float) -> None:
    sound = (create_voice(3.0) / 32768).astype("<f4")
    sound[20_000] = fault
    raw = bytearray(build_wave(np.zeros(0, "<i2"), declared=sound.nbytes))
    raw[20:36] = struct.pack("<HHIIHH", 3, 1, SAMPLE_RATE, 4 * SAMPLE_RATE, 4, 32)
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(raw) + sound.tobytes())
    samples, kinds = decode(path)
    assert np.isfinite(samples).all()
    assert np.abs(samples[0] - np.where(np.arange(48_000) == 20_000, 0, sound)).max() < 1e-6
    assert kinds == {WarningKind.REPAIRED}


@pytest.mark.parametrize("value", [np.nan, 0.0, 0.25])
def test_silence_gives_a_warning(tmp_path: Path, value: float) -> None:
    sound = np.full(48_000, value, "<f4")
    raw = bytearray(build_wave(np.zeros(0, "<i2"), declared=sound.nbytes))
    raw[20:36] = struct.pack("<HHIIHH", 3, 1, SAMPLE_RATE, 4 * SAMPLE_RATE, 4, 32)
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(raw) + sound.tobytes())
    samples, kinds = decode(path)
    assert not samples.any()
    assert WarningKind.SILENT in kinds


def test_missing_data_in_the_middle_gives_the_damaged_warning(speech: Path) -> None:
    assert decode(speech / "broken" / "corrupt_middle.mp3")[1] == {WarningKind.DAMAGED}
    assert decode(speech / "broken" / "truncated.mp3")[1] == {WarningKind.CUT}


def test_unusual_real_files_are_decoded(speech: Path) -> None:
    expected = {
        "01_one_nan_sample.wav": (5.0, {WarningKind.REPAIRED}),
        "01_one_inf_sample.wav": (5.0, {WarningKind.REPAIRED}),
        "03_3ch_speech_on_3.wav": (5.0, set()),
        "03_6ch_speech_on_4.wav": (5.0, set()),
        "03_8ch_speech_on_4.wav": (5.0, set()),
        "03_9ch_fails.wav": (3.0, set()),
        "03_32ch_fails.wav": (3.0, set()),
        "05_offset5.mkv": (16.0, set()),
        "05_offset5.mp4": (16.0, set()),
        "06_hole20.mp4": (31.0, set()),
        "06_hole20.webm": (31.0, set()),
        "07_chained.opus": (16.855, set()),
        "07_chained_vorbis.ogg": (16.855, set()),
        "08_stale_header_1s_of_11s.wav": (11.0, {WarningKind.REPAIRED}),
        "09_concat_mp3_false_cut.mp3": (16.956, set()),
        "09_riff_44_bytes_short.wav": (11.0, set()),
        "09_telegram_no_eos.ogg": (11.0, set()),
        "17_dc_0.1_speech_0.05.wav": (11.0, set()),
        "17_float_times_32768.wav": (5.0, set()),
    }
    odd = speech / "odd"
    if not odd.is_dir():
        pytest.skip("the odd recordings are not here")
    for name, (length, kinds) in expected.items():
        samples, found = decode(odd / name)
        assert measure_seconds(samples) == pytest.approx(length, abs=0.05), name
        assert found == kinds, name
        assert float(np.sqrt(np.mean(samples**2))) > 0.005, name


def test_an_invalid_seek_is_a_fault_of_the_file(tmp_path: Path) -> None:
    """A length points before the beginning of the file."""
    head = b"caff" + struct.pack(">HH", 1, 0)
    description = struct.pack(">dIIIIII", 16_000.0, int.from_bytes(b"lpcm", "big"), 2, 2, 1, 1, 16)
    chunks = b"desc" + struct.pack(">q", 32) + description + b"free" + struct.pack(">q", -4_000)
    path = tmp_path / "a.caf"
    path.write_bytes(head + chunks + bytes(4_000))
    with pytest.raises(FileFault) as caught:
        decode(path)
    assert caught.value.code is not ErrorCode.SOURCE_UNREADABLE


@pytest.mark.parametrize(
    ("name", "codec"), [("a.au", "pcm_s16be"), ("a.caf", "pcm_s16be"), ("a.w64", "pcm_s16le")]
)
def test_sizes_in_other_headers_are_used(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            create_voice(3.0)[np.newaxis].astype(np.int16), format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert (measure_seconds(decode(path)[0]), decode(path)[1]) == (3.0, set())
    path.write_bytes(path.read_bytes()[:-SECOND])
    assert decode(path)[1] == {WarningKind.CUT}


SIZED = [
    ("a.au", "pcm_s16be"),
    ("a.caf", "pcm_s16be"),
    ("a.wma", "wmav2"),
    ("a.flv", "libmp3lame"),
    ("a.mka", "flac"),
]


def write_container(path: Path, codec: str, sound: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44_100, layout="mono")
        if not codec.startswith("pcm"):
            stream.bit_rate = 64_000
        fifo = av.AudioResampler(
            stream.codec_context.format.name, "mono", 44_100, stream.codec_context.frame_size or 960
        )
        whole = av.AudioFrame.from_ndarray(
            sound[np.newaxis].astype(np.int16), format="s16", layout="mono"
        )
        whole.sample_rate, whole.pts = 44_100, 0
        for frame in [*fifo.resample(whole), *fifo.resample(None)]:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec"), SIZED)
def test_concatenated_containers_are_read(tmp_path: Path, name: str, codec: str) -> None:
    """FFmpeg stops at the second, or considers it damage."""
    one = write_container(tmp_path / f"1{name}", codec, create_voice(6.0))
    alone, kinds = decode(one)
    assert kinds == set()
    joined = tmp_path / name
    joined.write_bytes(3 * one.read_bytes())
    samples, kinds = decode(joined)
    assert measure_seconds(samples) == pytest.approx(3 * measure_seconds(alone), abs=0.02)
    assert kinds == set()


@pytest.mark.parametrize(("name", "codec"), SIZED)
def test_a_container_with_a_declared_length_can_be_cut(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = write_container(tmp_path / name, codec, create_voice(20.0))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert decode(path)[1] == {WarningKind.CUT}


@pytest.mark.parametrize("head", [b"\x03ds2", b"\x03enc"])
def test_a_ds2_dictation_fails_with_a_hint(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "letter.ds2"
    path.write_bytes(head + bytes(20_000))
    with pytest.raises(FileFault, match=r"DS2 dictation.*export it as WAV") as caught:
        decode(path)
    assert caught.value.code is ErrorCode.NOT_MEDIA
