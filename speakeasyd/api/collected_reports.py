"""Collects what the pipeline reports of one file, and makes a transcript of it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from speakeasyd.clock import format_utc
from speakeasyd.domain.diarization import LocalKey, SpeakerTurn, join_turns
from speakeasyd.domain.file_speakers import FileSpeakers, number_by_key
from speakeasyd.domain.languages import choose_main_language
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    LanguageFound,
    Loaded,
    Report,
    TaskDone,
    TaskFailed,
)
from speakeasyd.domain.transcript import (
    Chunk,
    MediaWarning,
    Segment,
    Transcript,
    WarningKind,
    join_texts,
)
from speakeasyd.ledger.speakers import JobSpeakers
from speakeasyd.services.speakers import describe_problems, find_file_speakers


@dataclass
class CollectedReports:
    """The reports of one task. Only the thread that sends them may add them."""

    chunks: list[Chunk] = field(default_factory=list)
    language: str | None = None
    done: TaskDone | None = None
    failed: TaskFailed | None = None

    def add(self, report: Report) -> None:
        match report:
            case ChunkDone(chunk=chunk):
                self.chunks.append(chunk)
            case LanguageFound(language=language):
                self.language = language
            case TaskDone():
                self.done = report
            case TaskFailed():
                self.failed = report

    def build_transcript(self, source: str, options: Options, loaded: Loaded) -> Transcript:
        """Return the transcript of a task that is done, as the daemon would publish it."""
        if self.done is None:
            raise ValueError("the task is not done")
        chunks = sorted(self.chunks, key=lambda chunk: chunk.index)
        warnings = list(loaded.add_warning(self.done.warnings))
        speakers, problems = _find_speakers(chunks, options)
        if text := describe_problems(problems):
            warnings.append(MediaWarning(WarningKind.OTHER, text))
        numbers = number_by_key(speakers)
        segments = [
            _number_segment(segment, chunk.index, numbers)
            for chunk in chunks
            for segment in chunk.segments
        ]
        segments.sort(key=lambda segment: segment.start)
        durations = ((segment.language, segment.end - segment.start) for segment in segments)
        return Transcript(
            job_id=0,
            source=source,
            language=choose_main_language(durations, self.language),
            model=loaded.model,
            audio_seconds=self.done.audio_seconds,
            segments=tuple(segments),
            warning=join_texts(warnings),
            warning_kinds=frozenset(warning.kind for warning in warnings),
            created_at=format_utc(datetime.now(UTC)),
            tracks=self.done.tracks,
            speakers=speakers.speakers,
            turns=tuple(join_turns(list(_number_turns(chunks, numbers)))),
        )


def _find_speakers(chunks: Sequence[Chunk], options: Options) -> tuple[FileSpeakers, list[str]]:
    """Return the speakers of the file, and why they are not known in some chunks."""
    found = tuple((chunk.index, chunk.speakers) for chunk in chunks if chunk.speakers)
    if options.speakers == "off" or not found:
        return FileSpeakers(), []
    words: Counter[LocalKey] = Counter()
    for chunk in chunks:
        for segment in chunk.segments:
            if segment.local_speaker is not None:
                key = LocalKey(chunk.index, segment.local_speaker)
                words[key] += len(segment.text.split())
    known = JobSpeakers(options, None, {}, found, words)
    return find_file_speakers(known, []), known.errors


def _number_segment(segment: Segment, chunk: int, numbers: Mapping[LocalKey, int]) -> Segment:
    if segment.local_speaker is None:
        return segment
    return replace(segment, speaker=numbers.get(LocalKey(chunk, segment.local_speaker)))


def _number_turns(
    chunks: Sequence[Chunk], numbers: Mapping[LocalKey, int]
) -> Iterator[SpeakerTurn]:
    """Yield the turns of the file, with the numbers of its speakers."""
    for chunk in chunks:
        for turn in chunk.speakers.turns if chunk.speakers else ():
            if number := numbers.get(LocalKey(chunk.index, turn.speaker)):
                yield replace(turn, speaker=number, track=chunk.track)
