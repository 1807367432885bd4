"""What is done to decoded samples before anything listens to them. Pure arithmetic on blocks.

A block has the shape (channels, samples). The state carried from block to block depends on the
samples alone, so the same bytes always give the same blocks.
"""

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

_LIMIT = 4.0  # amplitude; lossy decoders overshoot full scale (1.0), but by less than this
_ABSURD = 2.0**33  # amplitude; above any integer range that float samples are scaled to by mistake
_HEADROOM = 2.0  # of the level over the 99th percentile of a block
_OUTLIER = 16.0  # times the level: a sample above is a fault, not sound
_RELEASE = 0.9  # per block: how fast a level that was high is forgotten
_AUDIBLE = 1e-4  # amplitude (-80 dB): a channel that never gets louder is silent
_INACTIVE = 0.003  # of the loudest channel's level (-50 dB): such a channel is left out of the mix
_OPPOSITE = -0.82  # correlation: two channels below it would cancel each other


class SampleCleaner:
    """Makes any decoded block safe to listen to, channel by channel.

    Samples that are no numbers or far outside the range become silence, floats that are scaled to
    an integer range are brought down, and a constant offset that outweighs the sound is removed.
    """

    def __init__(self, channels: int) -> None:
        self.silenced = 0  # samples, in any channel
        self._level = 1.0  # amplitude that samples are brought down from, slowly forgotten
        self._offsets = np.zeros(channels, np.float32)
        self._has_offset = np.zeros(channels, dtype=bool)
        self._peak = np.zeros(channels, np.float32)

    @property
    def silent_channels(self) -> list[bool]:
        """For each channel, whether nothing audible was in it so far."""
        return [bool(peak < _AUDIBLE) for peak in self._peak]

    def clean_samples(self, block: Samples) -> Samples:
        highest, lowest = block.max(axis=1), block.min(axis=1)
        within = bool((highest <= _LIMIT).all() and (lowest >= -_LIMIT).all())  # False if NaN
        if within and self._level == 1.0:
            limited = block
        else:
            limited = self._limit_level(block)
            highest, lowest = limited.max(axis=1), limited.min(axis=1)
        np.maximum(self._peak, (highest - lowest) / 2.0, out=self._peak)
        return self._remove_offset(limited, constant=highest == lowest)

    def _limit_level(self, block: Samples) -> Samples:
        magnitudes = np.abs(block)
        sane = magnitudes < _ABSURD  # neither NaN nor infinite
        typical = np.quantile(np.where(sane, magnitudes, 0.0), 0.99, axis=1, method="lower").max()
        self._level = max(1.0, self._level * _RELEASE, _HEADROOM * float(typical))
        faulty = ~(sane & (magnitudes <= max(_LIMIT, _OUTLIER * self._level)))
        self.silenced += int(faulty.any(axis=0).sum())
        cleaned: Samples = np.where(faulty, np.float32(0.0), block)
        if self._level > _LIMIT:
            cleaned /= np.float32(self._level)
        return cleaned

    def _remove_offset(self, block: Samples, constant: NDArray[np.bool_]) -> Samples:
        length = block.shape[1]
        means = block.sum(axis=1, dtype=np.float32) / length
        powers = _measure_energies(block) / np.float32(length)
        outweighs = 2.0 * np.square(means) > powers  # the square of the deviation is the difference
        begins = ~self._has_offset & ~constant & outweighs
        before = np.where(begins, means, self._offsets)
        self._has_offset |= begins
        self._offsets = np.where(self._has_offset | constant, means, np.float32(0.0))
        if not (self._has_offset.any() or (constant & (means != 0.0)).any()):
            return block
        share = np.arange(1, length + 1, dtype=np.float32) / length
        offsets = before[:, np.newaxis] + (self._offsets - before)[:, np.newaxis] * share
        offsets[~self._has_offset] = 0.0
        centered: Samples = block - offsets
        centered[constant] = 0.0
        return centered


class ChannelMixer:
    """Any number of channels to one.

    Channels that are active are averaged; one that is dead does not weaken the others. A channel
    that is the opposite of the others would cancel them, and is turned around.
    """

    def __init__(self) -> None:
        self._levels: NDArray[np.float32] | None = None

    def mix_channels(self, block: Samples) -> Samples:
        """Shape (1, samples)."""
        if block.shape[0] == 1:
            return block
        levels = np.sqrt(_measure_energies(block))
        if self._levels is not None and self._levels.size == levels.size:
            levels = np.maximum(levels, self._levels * _RELEASE)
        self._levels = levels
        active = np.flatnonzero(levels >= _INACTIVE * levels.max())
        total = block[active[0]]
        for channel in active[1:]:
            both = float(np.vdot(total, total)) * float(np.vdot(block[channel], block[channel]))
            opposite = np.vdot(total, block[channel]) < _OPPOSITE * both**0.5
            total = total - block[channel] if opposite else total + block[channel]
        mixed: Samples = total[np.newaxis] / np.float32(active.size)
        return mixed


def _measure_energies(block: Samples) -> Samples:
    return np.array([np.vdot(channel, channel) for channel in block], np.float32)
