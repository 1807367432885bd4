"""One task's file to clips of speech, lazily: nothing is decoded before somebody asks for the next clip."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import numpy as np

from speakeasyd.domain.chunking import Chunker, ChunkingRules, ChunkSpan
from speakeasyd.domain.diarization import ChunkSpeakers
from speakeasyd.domain.fault import Phase
from speakeasyd.domain.protocol import Opened, Progress, Task
from speakeasyd.domain.transcript import MediaWarning, TranscribedTrack
from speakeasyd.engine.audio import BLOCK, SAMPLE_RATE, Audio, Hole, Lane, Samples
from speakeasyd.engine.faults import label_phase
from speakeasyd.engine.media_file import open_source
from speakeasyd.engine.track_choice import select_tracks
from speakeasyd.engine.vad import WINDOW, VoiceActivity, VoiceDetector
from speakeasyd.errors import ErrorCode, FileFault

_PAUSE_BLOCKS = 16  # blocks without a clip after which others may have a turn
_PASSAGE = 4  # chunks: each leans on the text before it in its passage; passages are independent of each other
_BRIDGED_BLOCKS = 7  # of a hole, about 7 s: after these no chunk is open
_PROGRESS_S = 1.0  # seconds between signs of life


@dataclass(frozen=True, slots=True)
class Clip:
    """The audio of one chunk."""

    index: int
    start: float  # seconds in the file
    channel: int | None
    samples: Samples = field(repr=False)
    voiced: tuple[tuple[float, float], ...] = ()  # runs of speech, in seconds of the clip
    leans_on: tuple[int, ...] = ()  # earlier chunks whose text helps to understand this one
    follows: int | None = None  # the chunk before in the same lane
    track: int | None = None
    tagged_language: str | None = None  # code of the track's language, by the container
    wanted: bool = True  # else it only helps to detect the language
    speakers: ChunkSpeakers | None = None  # None: not asked for

    @property
    def seconds(self) -> float:
        return self.samples.size / SAMPLE_RATE

    @property
    def speech_s(self) -> float:
        return sum(end - start for start, end in self.voiced)

    @property
    def longest_pause(self) -> tuple[float, float] | None:
        """The longest stretch between two runs of speech, in seconds of the clip."""
        pauses = ((before[1], after[0]) for before, after in pairwise(self.voiced))
        return max(pauses, key=lambda pause: pause[1] - pause[0], default=None)

    def cut_part(self, start: float, end: float | None = None) -> "Clip":
        """From one second of the clip to another, or to its end."""
        end = self.seconds if end is None else end
        inside = ((max(a, start) - start, min(b, end) - start) for a, b in self.voiced)
        return replace(
            self,
            start=self.start + start,
            samples=self.samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)],
            voiced=tuple((a, b) for a, b in inside if b > a),
        )

    @property
    def has_several_speakers(self) -> bool:
        return self.speakers is not None and len(self.speakers.speakers) > 1

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass(frozen=True, slots=True)
class EndOfFile:
    """The file was read to its end."""

    audio_seconds: float
    warnings: tuple[MediaWarning, ...] = ()
    tracks: tuple[TranscribedTrack, ...] = ()  # if several are transcribed apart


class YieldTurn:
    """Nothing yet: let others have a turn."""


def read_clips(
    task: Task,
    detector: VoiceDetector,
    *,
    folders: Mapping[str, str],
    find_speakers: Callable[[Clip], ChunkSpeakers] | None = None,
) -> Generator[Opened | Progress | Clip | EndOfFile | YieldTurn]:
    """Read a file: `Opened`, then its clips in order, `EndOfFile` at the end.

    `folders`: see `WorkerSpec.folders`. `find_speakers`: tells the speakers of the wanted clips
    apart. Raises FileFault if the file is at fault.
    """
    split = task.options.channels == "split"
    with (
        open_source(task.source, folders) as source,
        closing(
            Audio(
                source,
                split=split,
                max_seconds=task.max_seconds,
                choose_tracks=partial(select_tracks, options=task.options, detector=detector),
            )
        ) as audio,
    ):
        yield Opened(task.job_id, task.token, audio.container_seconds)
        readers = [
            _LaneReader(
                task,
                detector,
                lane,
                number=number,
                lanes=len(audio.lanes),
                find_speakers=find_speakers,
            )
            for number, lane in enumerate(audio.lanes)
        ]
        reported_at = time.monotonic()
        for number, block in enumerate(_read_blocks(audio)):
            if isinstance(block, Hole):
                for reader in readers:
                    yield from reader.skip(block)
            else:
                for reader, samples in zip(readers, block, strict=True):
                    yield from reader.add_block(samples)
            if time.monotonic() - reported_at > _PROGRESS_S:
                reported_at = time.monotonic()
                yield Progress(task.job_id, task.token, audio.decoded_seconds)
            if number % _PAUSE_BLOCKS == 0:
                yield YieldTurn()
        for reader in readers:
            yield from reader.take_rest()
        source.require_unchanged()
        yield EndOfFile(audio.decoded_seconds, audio.warnings(), _list_tracks(audio.lanes))


def _list_tracks(lanes: Sequence[Lane]) -> tuple[TranscribedTrack, ...]:
    """Those that are transcribed apart, each once."""
    apart = dict.fromkeys(lane.track for lane in lanes if lane.track)
    return tuple(TranscribedTrack(one.number, one.language, one.title) for one in apart)


def _read_blocks(audio: Audio) -> Iterator[Samples | Hole]:
    """The blocks; a decoder that trips over a file is that file's fault, unless memory ran out."""
    try:
        yield from audio.read()
    except (FileFault, MemoryError):
        raise
    except Exception as error:
        raise FileFault(ErrorCode.DECODE_FAILED, f"the decoder gave up: {error}") from error


class _LaneReader:
    """One lane: its voice activity, its chunks, and the samples that chunks may still need."""

    def __init__(
        self,
        task: Task,
        detector: VoiceDetector,
        lane: Lane,
        *,
        number: int,
        lanes: int,
        find_speakers: Callable[[Clip], ChunkSpeakers] | None,
    ) -> None:
        self._task = task
        self._find_speakers = find_speakers
        self._activity = VoiceActivity(detector)
        self._chunker = Chunker(ChunkingRules(everything=not task.options.vad))
        self._lane, self._number, self._lanes = lane, number, lanes
        self._blocks: list[Samples] = []
        self._first_block = 0
        self._found = 0

    def add_block(self, block: Samples) -> Iterator[Clip]:
        self._blocks.append(block)
        with label_phase(Phase.VAD):
            probabilities = self._activity.process_block(block)
        yield from map(self._build_clip, self._chunker.add_probabilities(probabilities.tolist()))
        self._forget_blocks()

    def skip(self, hole: Hole) -> Iterator[Clip]:
        """A hole ends the chunk before it once it is longer than what chunks bridge."""
        silence = np.zeros(BLOCK, np.float32)
        fed = min(hole.blocks, _BRIDGED_BLOCKS)
        for _ in range(fed):
            self._blocks.append(silence)
            yield from map(self._build_clip, self._chunker.feed_silence(BLOCK // WINDOW))
            self._forget_blocks()
        rest = hole.blocks - fed
        if rest:
            self._chunker.feed_silence(rest * (BLOCK // WINDOW))
            self._first_block += len(self._blocks) + rest - 1
            self._blocks = [silence]
        self._activity.skip(hole.blocks)

    def take_rest(self) -> Iterator[Clip]:
        yield from map(self._build_clip, self._chunker.finish())

    def _forget_blocks(self) -> None:
        useless = max(0, self._chunker.needed_from * WINDOW // BLOCK - self._first_block)
        del self._blocks[:useless]
        self._first_block += useless

    def _build_clip(self, span: ChunkSpan) -> Clip:
        index = self._found * self._lanes + self._number
        passage = self._found - self._found % _PASSAGE
        self._found += 1
        clip = Clip(
            index=index,
            start=span.start * WINDOW / SAMPLE_RATE,
            channel=self._lane.channel,
            track=self._lane.track.number if self._lane.track else None,
            tagged_language=self._lane.track.code if self._lane.track else None,
            samples=self._cut_samples(span.start * WINDOW, span.end * WINDOW),
            voiced=tuple(
                (
                    (start - span.start) * WINDOW / SAMPLE_RATE,
                    (end - span.start) * WINDOW / SAMPLE_RATE,
                )
                for start, end in span.voiced
            ),
            leans_on=tuple(range(passage * self._lanes + self._number, index, self._lanes)),
            follows=index - self._lanes if index >= self._lanes else None,
            wanted=index not in self._task.skip
            and (self._task.only is None or index in self._task.only),
        )
        if not (self._find_speakers and clip.wanted):
            return clip
        return replace(clip, speakers=self._find_speakers(clip))

    def _cut_samples(self, start: int, end: int) -> Samples:
        base = self._first_block * BLOCK
        low, high = (start - base) // BLOCK, -(-(end - base) // BLOCK)
        joined = np.concatenate(self._blocks[low:high])
        return joined[start - base - low * BLOCK : end - base - low * BLOCK]
