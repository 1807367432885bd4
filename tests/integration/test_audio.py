"""Decoding of media files of every kind, and the errors of files that cannot be decoded."""

import hashlib
import json
import os
import sys
import wave
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.job import Signature
from speakeasyd.domain.transcript import MediaWarning, WarningKind
from speakeasyd.engine.audio import BLOCK, SAMPLE_RATE, Audio, Samples
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.onnx_models import VOICE_DETECTION
from speakeasyd.engine.vad import VoiceActivity, VoiceDetector
from speakeasyd.errors import ErrorCode, FileFault

MEMO = Path(str(files("speakeasyd") / "data" / "samples" / "voice_memo.flac"))


def decode(
    path: Path, *, split: bool = False, max_seconds: float = 0.0
) -> tuple[Samples, MediaWarning | None]:
    with MediaFile(str(path)) as source:
        audio = Audio(source, split=split, max_seconds=max_seconds)
        blocks = list(audio.blocks())
        warning = next(iter(audio.warnings()), None)
        audio.close()
    assert all(block.shape == (audio.channels, BLOCK) for block in blocks[:-1])
    assert all(block.dtype == np.float32 for block in blocks)
    return np.concatenate(blocks, axis=1), warning


def decode_and_catch_fault(path: Path, **options: float) -> ErrorCode:
    with pytest.raises(FileFault) as caught:
        decode(path, **options)
    return caught.value.code


def write_wav(path: Path, channels: np.ndarray, rate: int = SAMPLE_RATE) -> Path:
    """Write samples of shape (channels, samples), from -1 to 1."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((channels.T * 32767).astype("<i2").tobytes())
    return path


def create_tone(seconds: float, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def compute_rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def test_16_khz_mono_passes_through_unchanged(tmp_path: Path) -> None:
    sound = create_tone(2.5)
    samples, warning = decode(write_wav(tmp_path / "a.wav", sound[np.newaxis]))
    assert samples.shape == (1, sound.size)
    assert np.abs(samples[0] - sound).max() < 1e-4
    assert warning is None


def test_a_tag_that_is_not_utf8_is_ignored(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", create_tone(1.0)[np.newaxis])
    title = (
        b"LIST"
        + (16).to_bytes(4, "little")
        + b"INFOINAM"
        + (4).to_bytes(4, "little")
        + b"\xff\xfe\xe9\xe4"
    )
    content = path.read_bytes()
    chunks = content[12:36] + title + content[36:]
    path.write_bytes(b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WAVE" + chunks)
    samples, warning = decode(path)
    assert (samples.shape[1], warning) == (SAMPLE_RATE, None)


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    samples, _ = decode(write_wav(tmp_path / "a.wav", create_tone(3.0, 44_100)[np.newaxis], 44_100))
    assert samples.shape[1] == pytest.approx(3 * SAMPLE_RATE, abs=64)
    assert compute_rms(samples) == pytest.approx(compute_rms(create_tone(3.0)), rel=0.02)


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 44_100])
def test_opposite_channels_do_not_cancel_out(tmp_path: Path, rate: int) -> None:
    sound = create_tone(3.0, rate)
    samples, _ = decode(write_wav(tmp_path / "a.wav", np.stack([sound, -sound]), rate))
    assert compute_rms(samples) > 0.9 * compute_rms(sound)


def test_channels_can_be_split(tmp_path: Path) -> None:
    path = write_wav(
        tmp_path / "call.wav", np.stack([create_tone(2.0, 8000), np.zeros(16_000)]), 8000
    )
    samples, _ = decode(path, split=True)
    assert samples.shape[0] == 2
    assert compute_rms(samples[0]) > 0.3
    assert compute_rms(samples[1]) < 0.01


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_cut_file_gives_a_warning(tmp_path: Path, share: float) -> None:
    whole = MEMO.read_bytes()
    flac = tmp_path / "cut.flac"
    flac.write_bytes(whole[: int(len(whole) * share)])
    wav = write_wav(tmp_path / "cut.wav", create_tone(3.0)[np.newaxis])
    wav.write_bytes(wav.read_bytes()[: int(wav.stat().st_size * share)])
    for path in (flac, wav):
        _, warning = decode(path)
        assert warning
        assert warning.kind is WarningKind.CUT


def test_a_streamed_wav_of_unknown_length_is_not_cut(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "streamed.wav", create_tone(2.0)[np.newaxis])
    raw = bytearray(path.read_bytes())
    raw[4:8] = raw[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)
    samples, warning = decode(path)
    assert samples.shape[1] == 2 * SAMPLE_RATE
    assert warning is None


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", ErrorCode.EMPTY_FILE),
        (b"This is a text that somebody renamed.\n" * 200, ErrorCode.NOT_MEDIA),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", ErrorCode.NOT_MEDIA),
        (b"ffconcat version 1.0\nfile other.flac\n", ErrorCode.NOT_MEDIA),
    ],
)
def test_files_without_media_are_refused(tmp_path: Path, content: bytes, code: ErrorCode) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(content)
    assert decode_and_catch_fault(path) == code


def test_a_playlist_cannot_name_other_files(tmp_path: Path) -> None:
    path = tmp_path / "list.mp3"
    path.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:20\n#EXTINF:14,\n{MEMO.as_uri()}\n#EXT-X-ENDLIST\n"
    )
    assert decode_and_catch_fault(path) in {
        ErrorCode.NOT_MEDIA,
        ErrorCode.NO_AUDIO,
        ErrorCode.NO_SAMPLES,
    }


def test_a_file_with_only_a_header_has_no_samples(tmp_path: Path) -> None:
    assert (
        decode_and_catch_fault(write_wav(tmp_path / "a.wav", np.zeros((1, 0))))
        == ErrorCode.NO_SAMPLES
    )


def test_a_file_longer_than_the_limit_is_refused() -> None:
    assert decode_and_catch_fault(MEMO, max_seconds=5.0) == ErrorCode.TOO_LONG


def test_a_forged_sample_rate_is_refused(tmp_path: Path) -> None:
    assert (
        decode_and_catch_fault(write_wav(tmp_path / "bomb.wav", create_tone(1.0)[np.newaxis], 7))
        == ErrorCode.DECODE_FAILED
    )


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    assert decode_and_catch_fault(tmp_path / "gone.wav") == ErrorCode.SOURCE_MISSING


@pytest.mark.skipif(sys.platform == "win32", reason="colons and pipes cannot be in names there")
@pytest.mark.parametrize("name", ["-i.flac", "http:example.flac", "concat:a|b.flac", "pipe:0"])
def test_names_are_never_commands(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(MEMO.read_bytes())
    samples, _ = decode(Path(name))
    assert samples.size > SAMPLE_RATE


@pytest.mark.skipif(sys.platform == "win32", reason="no FIFOs there, and links need a privilege")
def test_links_and_pipes_are_not_opened(tmp_path: Path) -> None:
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "fifo.wav")
    (tmp_path / "link.flac").symlink_to(MEMO)
    assert decode_and_catch_fault(tmp_path / "fifo.wav") == ErrorCode.SOURCE_UNREADABLE
    assert decode_and_catch_fault(tmp_path / "link.flac") == ErrorCode.SOURCE_LINKED


def test_changed_bytes_of_a_file_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(MEMO.read_bytes())
    with MediaFile(str(path)) as source:
        source.require_unchanged()
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(FileFault) as caught:
            source.require_unchanged()
    assert caught.value.code == ErrorCode.SOURCE_REPLACED


def test_only_the_hashed_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(MEMO.read_bytes())
    taken, sha256 = Signature.of(path.stat()), hashlib.sha256(MEMO.read_bytes()).hexdigest()
    os.utime(path, ns=(0, 0))
    with MediaFile(str(path), taken, sha256) as source:
        source.require_unchanged()  # a newer time with the same bytes
    path.write_bytes(MEMO.read_bytes() + b"more")
    with pytest.raises(FileFault) as caught:
        MediaFile(str(path), taken, sha256)
    assert caught.value.code == ErrorCode.SOURCE_REPLACED


def test_quiet_speech_is_found() -> None:
    samples, _ = decode(MEMO)
    detector = VoiceDetector()
    for gain in (1.0, 0.003):
        activity = VoiceActivity(detector)
        blocks = np.array_split(
            samples[0] * np.float32(gain), range(BLOCK, samples.shape[1], BLOCK)
        )
        probabilities = np.concatenate([activity.process_block(block) for block in blocks])
        assert (probabilities > 0.5).mean() > 0.5


def test_digital_silence_has_no_speech() -> None:
    activity = VoiceActivity(VoiceDetector())
    assert not activity.process_block(np.zeros(BLOCK, np.float32)).any()
    assert activity.process_block(np.zeros(700, np.float32)).size == 2


def test_every_recording_decodes_as_expected(speech: Path) -> None:
    for row in map(
        json.loads, (speech / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        name, expect = row["path"], row["expect"]
        if row["kind"] not in {"format", "broken"} or "five_hours" in name:
            continue
        if expect == "error":
            decode_and_catch_fault(speech / name)
        elif expect in {"transcript", "partial"} and "text_after_audio" not in name:
            samples, warning = decode(speech / name)
            assert bool(warning) == (expect == "partial"), (name, warning)
            assert compute_rms(samples) > 1e-4, name


def test_the_voice_detector_is_the_one_of_faster_whisper() -> None:
    """Its convolutions are matrix products here; the probabilities are the same."""
    from faster_whisper.vad import get_vad_model

    samples, _ = decode(MEMO)
    sound = samples[0][: samples.shape[1] // BLOCK * BLOCK]
    sound = sound * np.float32(0.5 / np.abs(sound).max())  # loud enough to have no gain
    activity = VoiceActivity(VoiceDetector())
    blocks = np.split(sound, range(BLOCK, sound.size, BLOCK))
    found = np.concatenate([activity.process_block(block) for block in blocks])
    expected = np.asarray(get_vad_model()(sound)).reshape(-1)
    assert expected.min() < 0.1
    assert expected.max() > 0.9
    # faster-whisper sets the end of the last window to 0
    np.testing.assert_allclose(found[:-1], expected[:-1], atol=1e-5)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_voice_detector_is_a_fault_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    file = tmp_path / "data" / VOICE_DETECTION
    if damage == "changed":
        file.parent.mkdir(parents=True)
        file.write_bytes(b"another model")
    monkeypatch.setattr("speakeasyd.engine.onnx_models.files", lambda _package: tmp_path)
    with pytest.raises(EngineFault, match="OnnxModelDamaged: the model voice_detection/") as caught:
        VoiceDetector()
    assert caught.value.phase is Phase.LOAD
