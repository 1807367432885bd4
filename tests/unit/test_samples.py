"""What is done to decoded samples: faults, offsets, many channels."""

import numpy as np
import pytest

from speakeasyd.engine.samples import ChannelMixer, SampleCleaner, Samples

RATE = 16_000
BLOCK = 16_384


def sound(channels: int = 1, *, level: float = 0.1, seed: int = 1) -> Samples:
    noise = np.random.default_rng(seed).normal(scale=level, size=(channels, BLOCK))
    return np.asarray(noise, np.float32)


def rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def test_ordinary_sound_is_left_alone() -> None:
    block = sound(2)
    cleaner = SampleCleaner(2)
    assert np.array_equal(cleaner.clean_samples(block), block)
    assert cleaner.silenced == 0
    assert cleaner.silent_channels == [False, False]


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38, 1e6])
def test_a_sample_that_is_no_sound_becomes_silence(fault: float) -> None:
    block = sound()
    block[0, 5000] = fault
    cleaner = SampleCleaner(1)
    cleaned = cleaner.clean_samples(block)
    assert cleaner.silenced == 1
    assert cleaned[0, 5000] == 0.0
    others = np.arange(BLOCK) != 5000
    assert np.allclose(cleaned[0, others], block[0, others])


def test_a_block_of_faults_is_silent_and_spoils_nothing_after_it() -> None:
    cleaner = SampleCleaner(1)
    assert not cleaner.clean_samples(np.full((1, BLOCK), np.nan, np.float32)).any()
    assert cleaner.silenced == BLOCK
    assert cleaner.silent_channels == [True]
    block = sound()
    assert np.allclose(cleaner.clean_samples(block), block)


@pytest.mark.parametrize("scale", [32_768.0, 8_388_608.0, 2_147_483_648.0])
def test_floats_scaled_to_integers_are_brought_down(scale: float) -> None:
    cleaner = SampleCleaner(1)
    loud, quiet = sound(level=0.2 * scale), sound(level=0.001 * scale)
    for block in (quiet, loud, quiet, loud):
        cleaned = cleaner.clean_samples(block)
        assert np.abs(cleaned).max() < 8.0
    assert cleaner.silenced == 0


@pytest.mark.parametrize("offset", [0.1, -0.5, 0.004])
def test_an_offset_that_outweighs_the_sound_is_removed(offset: float) -> None:
    cleaner = SampleCleaner(2)
    block = sound(2, level=abs(offset) / 3)
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
def test_one_voice_among_dead_channels_keeps_its_level(channels: int) -> None:
    block = np.zeros((channels, BLOCK), np.float32)
    block[channels - 1] = sound()[0]
    mixed = ChannelMixer().mix_channels(block)
    assert mixed.shape == (1, BLOCK)
    assert rms(mixed) == pytest.approx(rms(sound()))


def test_equal_channels_keep_their_level() -> None:
    block = np.repeat(sound(), 5, axis=0)
    assert rms(ChannelMixer().mix_channels(block)) == pytest.approx(rms(sound()), rel=1e-4)


@pytest.mark.parametrize("signs", [(1, -1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1)])
def test_opposite_channels_do_not_cancel_each_other(signs: tuple[int, ...]) -> None:
    block = np.concatenate([sign * sound() for sign in signs])
    assert rms(ChannelMixer().mix_channels(block)) > 0.6 * rms(sound())


def test_who_speaks_in_turns_keeps_the_level_of_the_mix() -> None:
    """No pumping: a channel that was active a moment ago counts as active."""
    mixer = ChannelMixer()
    voice, pause = sound()[0], np.zeros(BLOCK, np.float32)
    mixer.mix_channels(np.stack([voice, voice]))
    levels = [rms(mixer.mix_channels(np.stack(pair))) for pair in ([voice, pause], [pause, voice])]
    assert levels[0] == pytest.approx(levels[1])
