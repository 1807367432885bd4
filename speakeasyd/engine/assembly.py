"""Pieces of one or several tracks to blocks of equal length on a common timeline."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from speakeasyd.engine.samples import ChannelMixer, Samples

SAMPLE_RATE = 16_000  # Hz
BLOCK = 16_384  # samples: 1.024 s, 32 windows of the voice activity detector
_LONGEST_LEAD = 120 * SAMPLE_RATE  # samples that one track may be ahead of another


@dataclass(frozen=True, slots=True)
class Silence:
    """Samples that the file does not have: a hole in its timestamps."""

    samples: int


@dataclass(frozen=True, slots=True)
class Hole:
    """Whole blocks in which no track has a sample. However long, it costs nothing."""

    blocks: int


class Assembly:
    """Tracks side by side: their channels are stacked in the order of the tracks."""

    def __init__(self, channels: Sequence[int]) -> None:
        self._lanes = [_TrackQueue(count) for count in channels]
        self.may_be_ready = False  # cheap to ask for each frame

    def push(self, track: int, piece: Samples | Silence) -> None:
        lane = self._lanes[track]
        lane.push(piece)
        self.may_be_ready = self.may_be_ready or lane.length >= BLOCK

    def align(self) -> None:
        """All tracks end here: what follows begins at the same time in each."""
        longest = max(lane.length for lane in self._lanes)
        for lane in self._lanes:
            lane.fill_to(longest)
            lane.forget_filled()

    def take_ready(self) -> Iterator[Samples | Hole]:
        """Blocks that are complete in all tracks."""
        self.may_be_ready = False
        while True:
            longest = max(lane.length for lane in self._lanes)
            for lane in self._lanes:
                lane.fill_to(longest - _LONGEST_LEAD)
            silent = min(lane.leading_silence for lane in self._lanes) // BLOCK
            if silent:
                for lane in self._lanes:
                    lane.skip(silent * BLOCK)
                yield Hole(silent)
            elif min(lane.length for lane in self._lanes) >= BLOCK:
                yield self._take_samples(BLOCK)
            else:
                return

    def take_rest(self) -> Iterator[Samples | Hole]:
        """All blocks that are left; the last may be shorter."""
        self.align()
        yield from self.take_ready()
        remaining = self._lanes[0].length
        if remaining:
            yield self._take_samples(remaining)

    def _take_samples(self, count: int) -> Samples:
        taken = [lane.take(count) for lane in self._lanes]
        return taken[0] if len(taken) == 1 else np.concatenate(taken)


class _TrackQueue:
    """What waits of one track."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._pieces: deque[Samples | Silence] = deque()
        self._filled = 0  # samples of silence that were put in before the track had them
        self.length = 0  # samples

    @property
    def leading_silence(self) -> int:
        first = self._pieces[0] if self._pieces else None
        return first.samples if isinstance(first, Silence) else 0

    def push(self, piece: Samples | Silence) -> None:
        length = piece.samples if isinstance(piece, Silence) else piece.shape[1]
        late = 0
        if self._filled:
            late = min(self._filled, length)
            self._filled -= late
        if isinstance(piece, Silence):
            self._pieces.append(Silence(length - late))
        else:
            self._pieces.append(_with_channels(piece[:, late:] if late else piece, self._channels))
        self.length += length - late

    def fill_to(self, length: int) -> None:
        if length > self.length:
            self._filled += length - self.length
            self._pieces.append(Silence(length - self.length))
            self.length = length

    def forget_filled(self) -> None:
        self._filled = 0

    def take(self, count: int) -> Samples:
        taken: list[Samples] = []
        self.length -= count
        while count:
            piece = self._pieces.popleft()
            length = piece.samples if isinstance(piece, Silence) else piece.shape[1]
            used = min(count, length)
            count -= used
            if isinstance(piece, Silence):
                taken.append(np.zeros((self._channels, used), np.float32))
                rest: Samples | Silence = Silence(length - used)
            else:
                taken.append(piece[:, :used])
                rest = piece[:, used:]
            if used < length:
                self._pieces.appendleft(rest)
        return taken[0] if len(taken) == 1 else np.concatenate(taken, axis=1)

    def skip(self, count: int) -> None:
        """Leave out samples of the leading silence."""
        remaining = self.leading_silence - count
        self._pieces.popleft()
        if remaining:
            self._pieces.appendleft(Silence(remaining))
        self.length -= count


def _with_channels(piece: Samples, channels: int) -> Samples:
    """The layout of a track may change in the middle: all its sound goes into each channel then."""
    if piece.shape[0] == channels:
        return piece
    return np.repeat(ChannelMixer().mix_channels(piece), channels, axis=0)
