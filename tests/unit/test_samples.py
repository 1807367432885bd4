"""Cleaning of decoded samples: faults, offsets, many channels."""

import numpy as np
import pytest

from speakeasyd.engine.samples import ChannelMixer, SampleCleaner, Samples

RATE = 16_000
BLOCK = 16_384


def create_sound(channels: int = 1, *, level: float = 0.1, seed: int = 1) -> Samples:
    noise = np.random.default_rng(seed).normal(scale=level, size=(channels, BLOCK))
    return np.asarray(noise, np.float32)


def compute_rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def test_ordinary_sound_is_unchanged() -> None:
    block = create_sound(2)
    cleaner = SampleCleaner(2)
    assert np.array_equal(cleaner.clean_samples(block), block)
    assert cleaner.silenced == 0
    assert cleaner.silent_channels == [False, False]


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38, 1e6])
def test_an_invalid_sample_becomes_silence(fault: float) -> None:
    block = create_sound()
    block[0, 5000] = fault
    cleaner = SampleCleaner(1)
    cleaned = cleaner.clean_samples(block)
    assert cleaner.silenced == 1
    assert cleaned[0, 5000] == 0.0
    others = np.arange(BLOCK) != 5000
    assert np.allclose(cleaned[0, others], block[0, others])


def test_a_faulty_block_is_silent_and_affects_no_others() -> None:
    cleaner = SampleCleaner(1)
    assert not cleaner.clean_samples(np.full((1, BLOCK), np.nan, np.float32)).any()
    assert cleaner.silenced == BLOCK
    assert cleaner.silent_channels == [True]
    block = create_sound()
    assert np.allclose(cleaner.clean_samples(block), block)


@pytest.mark.parametrize("scale", [32_768.0, 8_388_608.0, 2_147_483_648.0])
def test_floats_in_integer_range_are_scaled(scale: float) -> None:
    cleaner = SampleCleaner(1)
    loud, quiet = create_sound(level=0.2 * scale), create_sound(level=0.001 * scale)
    for block in (quiet, loud, quiet, loud):
        cleaned = cleaner.clean_samples(block)
        assert np.abs(cleaned).max() < 8.0
    assert cleaner.silenced == 0


@pytest.mark.parametrize("offset", [0.1, -0.5, 0.004])
def test_a_large_offset_is_removed(offset: float) -> None:
    cleaner = SampleCleaner(2)
    block = create_sound(2, level=abs(offset) / 3)
    block[1] += np.float32(offset)
    for _ in range(3):
        cleaned = cleaner.clean_samples(block)
        assert abs(float(cleaned[1].mean())) < abs(offset) / 50
        assert np.array_equal(cleaned[0], block[0])


def test_a_constant_channel_is_silent() -> None:
    cleaner = SampleCleaner(1)
    assert not cleaner.clean_samples(np.full((1, BLOCK), 0.3, np.float32)).any()
    assert cleaner.silent_channels == [True]


@pytest.mark.parametrize("channels", [2, 3, 6, 7, 8, 9, 16, 32, 64])
def test_a_voice_among_silent_channels_keeps_its_level(channels: int) -> None:
    block = np.zeros((channels, BLOCK), np.float32)
    block[channels - 1] = create_sound()[0]
    mixed = ChannelMixer().mix_channels(block)
    assert mixed.shape == (1, BLOCK)
    assert compute_rms(mixed) == pytest.approx(compute_rms(create_sound()))


def test_equal_channels_keep_their_level() -> None:
    block = np.repeat(create_sound(), 5, axis=0)
    assert compute_rms(ChannelMixer().mix_channels(block)) == pytest.approx(
        compute_rms(create_sound()), rel=1e-4
    )


@pytest.mark.parametrize("signs", [(1, -1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1)])
def test_inverted_channels_do_not_cancel(signs: tuple[int, ...]) -> None:
    block = np.concatenate([sign * create_sound() for sign in signs])
    assert compute_rms(ChannelMixer().mix_channels(block)) > 0.6 * compute_rms(create_sound())


def test_alternating_speakers_keep_the_level_of_the_mix() -> None:
    """A recently active channel counts as active."""
    mixer = ChannelMixer()
    voice, pause = create_sound()[0], np.zeros(BLOCK, np.float32)
    mixer.mix_channels(np.stack([voice, voice]))
    levels = [
        compute_rms(mixer.mix_channels(np.stack(pair))) for pair in ([voice, pause], [pause, voice])
    ]
    assert levels[0] == pytest.approx(levels[1])
