"""The transcript model: words, segments, chunks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class WarningKind(StrEnum):
    """What is wrong with a transcript whose job completed all the same."""

    CUT = "cut"
    """The file ends before its container says it should: more of it may still come."""
    DAMAGED = "damaged"
    """Parts of the file could not be decoded."""
    SILENT = "silent"
    """There is nothing to hear in it, or in one of its channels."""
    REPAIRED = "repaired"
    """Samples that are no numbers, or a wrong header, were replaced by what is right or harmless."""
    LEFT_OUT = "left_out"
    """Something that can be heard is not in the transcript: another track, a stretch that was given up."""
    TIMELINE = "timeline"
    """The file's timestamps are wrong, so that times in the transcript may be."""
    OTHER = "other"
    """Anything else that a reader should know."""


INCOMPLETE = frozenset({WarningKind.CUT, WarningKind.DAMAGED})
"""What was recorded is not all in the transcript: the source stays where it is."""
PARTIAL = INCOMPLETE | {WarningKind.LEFT_OUT}
"""The source has more than the transcript: it is not deleted."""


@dataclass(frozen=True, slots=True)
class MediaWarning:
    """One thing that a reader of the transcript must know. Code decides by `kind`; `text` is for people."""

    kind: WarningKind
    text: str


def join_texts(warnings: Iterable[MediaWarning]) -> str | None:
    """All texts in one line for people; None if there is no warning."""
    return "; ".join(warning.text for warning in warnings) or None


def finite(statistic: float) -> float | None:
    """A statistic of a decoding; None where the model computed no number: nothing else can be stored and shown."""
    return statistic if math.isfinite(statistic) else None


@dataclass(frozen=True, slots=True)
class Word:
    start: float  # seconds in the file
    end: float  # seconds in the file
    text: str  # with its leading space, as the model gives it
    probability: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text. `text` keeps the model's leading space: segments join to a transcript by concatenation."""

    start: float  # seconds in the file
    end: float  # seconds in the file
    text: str
    avg_logprob: float | None  # mean log-probability of its tokens; nearer to 0 is surer
    compression_ratio: float | None  # of its text under zlib; above 2.4 it repeats itself
    no_speech_prob: float | None  # 0 to 1
    channel: int | None = None  # 0 is left; None when the channels were mixed
    words: tuple[Word, ...] = ()
    language: str | None = None  # code of what is spoken


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of speech of at most 30 s with its text: the unit of compute and of durable progress."""

    index: (
        int  # order of discovery in the file; the same in every run over the same bytes and options
    )
    start: float  # seconds in the file
    end: float  # seconds in the file
    segments: tuple[Segment, ...] = ()
    channel: int | None = None
    redone: int = 0  # how often the text was doubted and decoded again
    gap: bool = False  # given up: a marked hole in the transcript
    language: str | None = None  # code of what is spoken at its end; None for a gap

    @property
    def text_in_language(self) -> str:
        """What later chunks lean on: its text without other languages that it begins with."""
        return "".join(part.text for part in self.segments if part.language == self.language)

    compute_s: float = 0.0  # seconds of work that it took


@dataclass(frozen=True, slots=True)
class Transcript:
    """The ordered segments of a job and what a document's head needs to say."""

    job_id: int
    source: str  # the file's name for people
    language: str | None
    model: str
    audio_seconds: float
    segments: tuple[Segment, ...] = ()
    gaps: tuple[tuple[float, float], ...] = ()  # seconds in the file
    warning: str | None = None
    warning_kinds: frozenset[WarningKind] = frozenset()
    created_at: str = ""  # UTC, ISO 8601
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()


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
    """A file that a job, or an earlier version of its source, has written or was about to write."""

    outbox: str  # the folder, absolute
    path: str  # relative to the outbox, '/' between parts
    hashes: frozenset[
        str
    ]  # SHA-256 in hex, any of which it may have unless a person has changed it
