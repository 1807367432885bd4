"""Tells the speakers of a chunk apart (diarization).

A segmentation model says when somebody speaks and when the speaker changes; embeddings of short
pieces say who it is. The result depends on the samples of the chunk alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from speakeasyd.domain.diarization import (
    MODEL,
    ChunkSpeakers,
    LocalSpeaker,
    SpeakerTurn,
    order_turns,
)
from speakeasyd.domain.speaker_clustering import (
    SAME_IN_CHUNK,
    average_clusters,
    cluster_embeddings,
    encode_embedding,
)
from speakeasyd.engine.audio import SAMPLE_RATE, Samples
from speakeasyd.engine.filterbank import compute_filterbank
from speakeasyd.engine.onnx_models import EMBEDDING, SEGMENTATION, OnnxModel

_WINDOW = 160_000  # samples that the segmentation model hears at once: 10 s
_HOP = 80_000  # samples from one window to the next
_STEP = 270  # samples from one frame of the segmentation to the next
_RECEPTIVE = 991  # samples that a frame depends on
_FRAMES = 589  # of a window
_FRAME_S = _STEP / SAMPLE_RATE
_OFFSET = (_RECEPTIVE - _STEP) // 2  # samples before the middle part of the first frame
_PIECE = round(1.5 / _FRAME_S)  # frames that an embedding hears, where the speaker talks that long
_SHORTEST_S = 0.4  # seconds that an embedding hears at least
_TRUSTED_S = 0.8  # seconds; a shorter piece is never a speaker of its own
_LEAST_SAMPLES = 2000  # samples; no embedding is computed of less
_OVERLAP_REACH_S = 3.0  # seconds within which a second speaker must speak alone

_SETS = np.array([0b000, 0b001, 0b010, 0b100, 0b011, 0b101, 0b110])
"""The speakers of a window, as bits, for each class of the segmentation model."""
_SIZES = np.array([0, 1, 1, 2, 1, 2, 2, 3])  # how many bits are set

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Activity:
    """Who speaks in each frame, shape (frames,)."""

    counts: Ints  # how many speak at once, 0 to 2
    sets: Ints  # which ones of the window speak, as bits
    keys: Ints  # changes where the set or the window changes


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of one speaker, with the embedding that decides who it is."""

    start: int  # frame
    end: int  # frame
    is_trusted: bool  # long enough, and without overlap
    embedding: Samples  # of unit length, shape (192,)


class SpeakerDetector:
    """The models; thread-safe."""

    def __init__(self) -> None:
        """Load the models. Raises OnnxModelDamaged."""
        self._segmentation = OnnxModel(SEGMENTATION)
        self._embedding = OnnxModel(EMBEDDING)

    def find_speakers(self, samples: Samples, start: float) -> ChunkSpeakers:
        """Return the speakers of a chunk that begins `start` seconds into the file."""
        activity = self._measure_activity(samples)
        pieces = list(self._embed_pieces(samples, activity))
        if not pieces:
            return ChunkSpeakers(MODEL)
        embeddings = np.stack([piece.embedding for piece in pieces])
        seconds = np.array([(piece.end - piece.start) * _FRAME_S for piece in pieces], np.float32)
        trusted = np.array([piece.is_trusted for piece in pieces])
        if not trusted.any():
            trusted[:] = True
        labels = np.zeros(len(pieces), np.int64)
        labels[trusted] = cluster_embeddings(embeddings[trusted], seconds[trusted], SAME_IN_CHUNK)
        means = average_clusters(embeddings[trusted], seconds[trusted], labels[trusted])
        labels[~trusted] = (embeddings[~trusted] @ means.T).argmax(1)
        speech_s = np.bincount(labels, seconds, len(means))
        return ChunkSpeakers(
            MODEL,
            tuple(
                LocalSpeaker(round(float(share), 3), encode_embedding(mean))
                for share, mean in zip(speech_s, means, strict=True)
            ),
            tuple(sorted(_build_turns(activity.counts, pieces, labels, start), key=order_turns)),
        )

    def embed(self, samples: Samples) -> Samples:
        """Return the embedding of speech of one speaker, of unit length, shape (192,).

        `samples`: at least 400, that is 25 ms.
        """
        embedding = self._embedding.run(x=compute_filterbank(samples)[np.newaxis])[0][0]
        unit: Samples = embedding / np.linalg.norm(embedding)
        return unit

    def _measure_activity(self, samples: Samples) -> _Activity:
        """Run the segmentation over windows that overlap by half.

        How many speak is the mean of the windows; who speaks is said by the window in whose middle
        part the frame lies.
        """
        size = samples.size
        frames = max(1, (size - _RECEPTIVE) // _STEP + 1)
        starts = [0] if size <= _WINDOW else [*range(0, size - _WINDOW, _HOP), size - _WINDOW]
        total, seen = np.zeros(frames), np.zeros(frames)
        offsets = np.array([round(begin / _STEP) for begin in starts])
        by_window = np.zeros((len(starts), frames), np.int64)
        for number, (begin, offset) in enumerate(zip(starts, offsets, strict=True)):
            sets = self._segment_window(samples[begin : begin + _WINDOW])[: frames - offset]
            part = slice(offset, offset + len(sets))
            by_window[number, part] = sets
            total[part] += _SIZES[sets]
            seen[part] += 1
        counts = np.minimum(2, np.floor(total / np.maximum(seen, 1) + 0.5)).astype(np.int64)
        middles = offsets + _FRAMES / 2
        nearest = np.abs(np.arange(frames)[:, np.newaxis] - middles).argmin(1)
        sets = by_window[nearest, np.arange(frames)]
        return _Activity(counts, sets, np.where(sets > 0, nearest * len(_SIZES) + sets, 0))

    def _segment_window(self, samples: Samples) -> Ints:
        """Return which speakers of the window speak in each frame, as bits, shape (589,)."""
        padded = np.zeros((1, 1, _WINDOW), np.float32)
        padded[0, 0, : samples.size] = samples
        sets: Ints = _SETS[self._segmentation.run(x=padded)[0][0].argmax(1)]
        sets[max(0, (samples.size - _RECEPTIVE) // _STEP + 1) :] = 0
        return sets

    def _embed_pieces(self, samples: Samples, activity: _Activity) -> Iterator[_Piece]:
        for start, end in _find_runs(activity.keys):
            is_alone = _SIZES[activity.sets[start]] == 1
            is_short = (end - start) * _FRAME_S < _SHORTEST_S
            if not activity.counts[start:end].any() or (is_short and not is_alone):
                continue
            for first, last, first_frame in _cut_into_pieces(start, end):
                speech = _cut_samples(samples, first_frame, min(first_frame + _PIECE, end))
                if speech.size >= _LEAST_SAMPLES:
                    piece_s = (min(first_frame + _PIECE, end) - first_frame) * _FRAME_S
                    is_trusted = bool(is_alone and piece_s >= _TRUSTED_S)
                    yield _Piece(first, last, is_trusted, self.embed(speech))


def _find_runs(values: Ints) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    yield from pairwise(edges)


def _cut_into_pieces(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield start and end of each piece of a run, and the frame from which its embedding hears.

    Each embedding hears `_PIECE` frames, or the whole run if it is shorter.
    """
    length = end - start
    if length <= _PIECE:
        yield start, end, start
        return
    count = int(np.ceil((length - _PIECE) / _PIECE)) + 1
    first_frame = np.linspace(start, end - _PIECE, count).round().astype(int).tolist()
    middles = [(one + other + _PIECE) // 2 for one, other in pairwise(first_frame)]
    yield from zip([start, *middles], [*middles, end], first_frame, strict=True)


def _cut_samples(samples: Samples, start: int, end: int) -> Samples:
    """Return the samples of frames, widened to `_SHORTEST_S`."""
    low, high = start * _STEP + _OFFSET, end * _STEP + _OFFSET
    least = int(_SHORTEST_S * SAMPLE_RATE)
    if high - low < least:
        low, high = max(0, (low + high - least) // 2), (low + high + least) // 2
    return samples[low:high]


def _build_turns(
    counts: Ints, pieces: list[_Piece], labels: Ints, start: float
) -> Iterator[SpeakerTurn]:
    """Yield who speaks when: first who has the floor, then who speaks at the same time."""
    first = np.full(len(counts), -1)
    middles = np.array([(piece.start + piece.end) / 2 for piece in pieces])
    for piece, label in zip(pieces, labels, strict=True):
        first[piece.start : piece.end] = label
    bare = np.flatnonzero((counts > 0) & (first < 0))
    first[bare] = labels[np.abs(bare[:, np.newaxis] - middles).argmin(1)]
    first[counts == 0] = -1
    second = _find_second_speakers(np.flatnonzero(counts > 1), first, pieces, labels)
    begin_s = start + _RECEPTIVE / 2 / SAMPLE_RATE - _FRAME_S / 2
    for track, overlap in ((first, False), (second, True)):
        for low, high in _find_runs(track):
            if track[low] >= 0:
                yield SpeakerTurn(
                    round(begin_s + low * _FRAME_S, 3),
                    round(begin_s + high * _FRAME_S, 3),
                    int(track[low]),
                    overlap=overlap,
                )


def _find_second_speakers(frames: Ints, first: Ints, pieces: list[_Piece], labels: Ints) -> Ints:
    """Return who speaks over another one in these frames: the other speaker who is nearest in time.

    -1 in all other frames. Shape as `first`.
    """
    second = np.full(len(first), -1)
    starts = np.array([piece.start for piece in pieces])
    ends = np.array([piece.end for piece in pieces])
    for frame in frames:
        distances = np.maximum(np.maximum(starts - frame, frame - ends), 0)
        others = np.flatnonzero(labels != first[frame])
        if len(others):
            nearest = others[np.lexsort((labels[others], distances[others]))[0]]
            if distances[nearest] * _FRAME_S < _OVERLAP_REACH_S:
                second[frame] = labels[nearest]
    return second
