"""The transcript model: words, segments, chunks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from speakeasyd.domain.diarization import ChunkSpeakers, Speaker, SpeakerTurn


class WarningKind(StrEnum):
    """A problem of a transcript whose job is completed."""

    CUT = "cut"
    """The file is shorter than its container's header says: it may still be growing."""
    DAMAGED = "damaged"
    """Parts of the file could not be decoded."""
    SILENT = "silent"
    """The file, or one of its channels, is silent."""
    REPAIRED = "repaired"
    """NaN or infinite samples, or a wrong header, were replaced."""
    LEFT_OUT = "left_out"
    """Audible content is not in the transcript: another track, or a chunk that was given up."""
    TIMELINE = "timeline"
    """The file's timestamps are wrong, so times in the transcript may be wrong too."""
    OTHER = "other"
    """Any other problem that a reader should know."""


INCOMPLETE = frozenset({WarningKind.CUT, WarningKind.DAMAGED})
"""A part of the recording is missing in the transcript: the source is neither moved nor deleted."""
PARTIAL = INCOMPLETE | {WarningKind.LEFT_OUT}
"""The source has more content than the transcript: it is not deleted."""


@dataclass(frozen=True, slots=True)
class MediaWarning:
    """A warning about a transcript. Code decides by `kind`; `text` is a message for users."""

    kind: WarningKind
    text: str


def join_texts(warnings: Iterable[MediaWarning]) -> str | None:
    """Return all texts in one line; None if there is no warning."""
    return "; ".join(warning.text for warning in warnings) or None


def finite(statistic: float) -> float | None:
    """Return the statistic, or None if it is NaN or infinite, which the ledger cannot store."""
    return statistic if math.isfinite(statistic) else None


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its times."""

    start: float  # seconds in the file
    end: float  # seconds in the file
    text: str  # with its leading space, as the model gives it
    probability: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text. `text` keeps the model's leading space, so that segments can be joined."""

    start: float  # seconds in the file
    end: float  # seconds in the file
    text: str
    # Statistics that only some engines have, in the sense of Whisper
    avg_logprob: float | None = None  # mean log-probability of its tokens
    compression_ratio: float | None = None  # of its text under zlib; above 2.4 it is repetitive
    no_speech_prob: float | None = None  # 0 to 1
    channel: int | None = None  # 0 is left; None when the channels were mixed
    words: tuple[Word, ...] = ()
    language: str | None = None  # code of the spoken language
    track: int | None = None  # audio track, from 1; None unless several are transcribed apart
    speaker: int | None = None  # number of the speaker in the file; None: not known
    local_speaker: int | None = None  # the speaker within its chunk, of whom `speaker` follows
    confidence: float | None = (
        None  # 0 to 1, from every engine; None in transcripts of old versions
    )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of speech of at most 30 s with its text: the unit of compute and checkpoints."""

    # Order of discovery in the file; equal in every run with the same bytes and options
    index: int
    start: float  # seconds in the file
    end: float  # seconds in the file
    segments: tuple[Segment, ...] = ()
    channel: int | None = None
    redone: int = 0  # how often the text was decoded again because of doubts
    gap: bool = False  # given up: a marked gap in the transcript
    language: str | None = None  # code of the language at its end; None for a gap
    track: int | None = None  # audio track, from 1; None unless several are transcribed apart
    speakers: ChunkSpeakers | None = None  # None: not asked for

    @property
    def text_in_language(self) -> str:
        """The context for later chunks: its text in the language of its end."""
        return "".join(part.text for part in self.segments if part.language == self.language)

    compute_s: float = 0.0  # compute time in seconds


@dataclass(frozen=True, slots=True)
class TranscribedTrack:
    """An audio track that has a transcript of its own, beside those of other tracks."""

    number: int  # from 1, among the audio tracks of the file
    language: str = ""  # as the container writes it; empty if it names none
    title: str = ""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The ordered segments of a job, and the values for the head of a document."""

    job_id: int
    source: str  # the file's name, for display
    language: str | None
    model: str
    audio_seconds: float
    segments: tuple[Segment, ...] = ()
    gaps: tuple[tuple[float, float], ...] = ()  # seconds in the file
    warning: str | None = None
    warning_kinds: frozenset[WarningKind] = frozenset()
    created_at: str = ""  # UTC, ISO 8601
    metadata: dict[str, str] = field(default_factory=dict)
    tracks: tuple[TranscribedTrack, ...] = ()  # if several are transcribed apart
    track: TranscribedTrack | None = None  # the only one of several that is in this transcript
    speakers: tuple[Speaker, ...] = ()  # by number; empty unless speakers were told apart
    turns: tuple[SpeakerTurn, ...] = ()  # who speaks when, in order of time

    @property
    def text(self) -> str:
        """One track after the other, if there are several."""
        segments = sorted(self.segments, key=lambda segment: segment.track or 0)
        return "".join(segment.text for segment in segments).strip()


@dataclass(frozen=True, slots=True)
class Artifact:
    """One written file of a transcript."""

    format: str
    outbox: str  # the folder, absolute
    path: str  # relative to the outbox, '/' between parts
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file that a job, or an earlier version of its source, has written or tried to write."""

    outbox: str  # the folder, absolute
    path: str  # relative to the outbox, '/' between parts
    # SHA-256 in hex; the file has one of these unless a person changed it
    hashes: frozenset[str]
