"""Chunking: turns speech probabilities into chunks of at most 30 s, each as soon as it is certain.

All positions are in windows of the voice activity detector (32 ms). The same probabilities give the
same chunks, in whatever portions they are added. A restart depends on that: it finds committed
chunks by their index.
"""

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_S = 0.032  # seconds


@dataclass(frozen=True, slots=True)
class ChunkingRules:
    """Thresholds and lengths of chunking; lengths in windows."""

    onset: float = 0.5  # speech starts at this probability
    offset: float = 0.35  # speech ends below this probability (hysteresis)
    pad: int = 10  # 0.32 s kept before and after speech
    # 5 s: a shorter silence stays inside its chunk, because context helps the model
    bridge: int = 156
    shortest_cut: int = 500  # 16 s: long speech is not cut before this length
    longest: int = 930  # 29.76 s: the model takes at most 30 s at once
    smooth: int = 4  # windows on each side over which a possible cut is averaged
    everything: bool = False  # no speech detection: cut at quiet places and keep all audio


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """Windows [start, end) of the file; `voiced` holds the runs of speech in it."""

    start: int
    end: int
    voiced: tuple[tuple[int, int], ...]


class Chunker:
    """Turns probabilities into spans that are ordered, disjoint and at most `longest` long.

    Together the spans contain all detected speech.
    """

    def __init__(self, cutting: ChunkingRules) -> None:
        self._cut = cutting
        self._probabilities: list[float] = []  # from window `_base` on
        self._base = 0
        self._now = 0  # number of windows so far
        self._runs: list[tuple[int, int]] = []  # ended runs of speech in the open chunk
        self._run: int | None = None  # start of the current run of speech
        self._floor = 0  # end of the last span

    @property
    def needed_from(self) -> int:
        """The first window that a later span may contain; earlier windows can be dropped."""
        return (
            self._find_chunk_start()
            if self._find_first_speech() is not None
            else max(self._floor, self._now - self._cut.pad)
        )

    def add_probabilities(self, probabilities: Sequence[float]) -> list[ChunkSpan]:
        """Add one probability (0 to 1) a window and return the spans that became certain."""
        spans: list[ChunkSpan] = []
        for probability in probabilities:
            self._probabilities.append(probability)
            self._now += 1
            self._add_window(probability)
            spans.extend(self._take_certain_chunks())
        self._drop_old_windows()
        return spans

    def feed_silence(self, windows: int) -> list[ChunkSpan]:
        """Add windows without a recording: they are never speech, even if `everything` is kept.

        Takes constant time once no speech is open. Returns the spans that became certain.
        """
        self._close_run()
        spans: list[ChunkSpan] = []
        while windows and self._find_first_speech() is not None:
            windows -= 1
            self._probabilities.append(0.0)
            self._now += 1
            spans.extend(self._take_certain_chunks())
        if windows:
            self._now += windows
            kept = min(windows, self._cut.pad + self._cut.smooth)
            self._probabilities = [0.0] * kept
            self._base = self._now - kept
        self._drop_old_windows()
        return spans

    def finish(self) -> list[ChunkSpan]:
        """Return the remaining span, if any, after the last window."""
        self._close_run()
        if not self._runs:
            return []
        return [
            self._close_chunk(
                min(
                    self._runs[-1][1] + self._cut.pad,
                    self._now,
                    self._find_chunk_start() + self._cut.longest,
                )
            )
        ]

    def _add_window(self, probability: float) -> None:
        window = self._now - 1
        if self._cut.everything:
            self._run = window if self._run is None else self._run
        elif self._run is None and probability >= self._cut.onset:
            self._run = window
        elif self._run is not None and probability < self._cut.offset:
            self._close_run(window)

    def _close_run(self, end: int | None = None) -> None:
        if self._run is not None:
            self._runs.append((self._run, self._now if end is None else end))
            self._run = None

    def _find_first_speech(self) -> int | None:
        return self._runs[0][0] if self._runs else self._run

    def _find_chunk_start(self) -> int:
        first = self._find_first_speech()
        return max(self._floor, (self._now if first is None else first) - self._cut.pad)

    def _take_certain_chunks(self) -> list[ChunkSpan]:
        if self._find_first_speech() is None:
            return []
        if self._run is None and self._now - self._runs[-1][1] >= self._cut.bridge:
            return [
                self._close_chunk(
                    min(
                        self._runs[-1][1] + self._cut.pad,
                        self._find_chunk_start() + self._cut.longest,
                    )
                )
            ]
        if self._now - self._find_chunk_start() >= self._cut.longest:
            return [self._split_chunk(self._find_best_cut())]
        return []

    def _close_chunk(self, end: int) -> ChunkSpan:
        span = ChunkSpan(self._find_chunk_start(), end, tuple(self._runs))
        self._runs = []
        self._floor = end
        return span

    def _find_best_cut(self) -> int:
        """Return the allowed window with the lowest speech probability.

        Among equals the last one wins, which makes longer chunks.
        """
        start, smooth = self._find_chunk_start(), self._cut.smooth
        low = start + self._cut.shortest_cut
        high = start + self._cut.longest - smooth
        values = self._probabilities[low - smooth - self._base : high + smooth + 1 - self._base]
        sums = [sum(values[i : i + 2 * smooth + 1]) for i in range(high - low)]
        return low + min(
            range(len(sums)), key=lambda i: (round(sums[i], 3), values[i + smooth], -i)
        )

    def _split_chunk(self, cut: int) -> ChunkSpan:
        """Close the chunk at window `cut`; speech after it belongs to the next chunk."""
        before = [(start, min(end, cut)) for start, end in self._runs if start < cut]
        after = [(max(start, cut), end) for start, end in self._runs if end > cut]
        if self._run is not None and self._run < cut:
            before.append((self._run, cut))
            self._run = cut
        self._runs = before
        span = self._close_chunk(min(before[-1][1] + self._cut.pad, cut))
        self._runs = after
        return span

    def _drop_old_windows(self) -> None:
        keep = max(0, self.needed_from - self._cut.smooth - self._base)
        del self._probabilities[:keep]
        self._base += keep
