"""The state of one task in the pipeline: what is read, waits, is in flight and is done."""

from collections.abc import Generator
from dataclasses import dataclass, field, replace

from speakeasyd.domain.job import JobId
from speakeasyd.domain.protocol import Opened, Progress, Task
from speakeasyd.domain.queue_order import compute_queue_key
from speakeasyd.engine.clips import Clip, EndOfFile, YieldTurn
from speakeasyd.engine.language import PROBE_CLIPS, PROBE_SECONDS, Piece
from speakeasyd.engine.recognizer import AnyEncoding, Request


@dataclass(eq=False, slots=True)
class PipelineJob:
    """The state of a task. Changed under the pipeline's lock only.

    `clips` is used by one reader thread at a time, the one that set `being_read`.
    """

    task: Task
    clips: Generator[Opened | Progress | Clip | EndOfFile | YieldTurn]
    language: str | None  # at the start of the file; None: not known yet
    texts: dict[int, str]  # text of the chunks that are done; "" for those given up
    languages: dict[int, str] = field(
        default_factory=dict
    )  # at the end of the chunks, as far as known
    detects: bool = False  # whether the language of each chunk is detected
    known_languages: frozenset[str] = frozenset()  # to the model
    unclear: dict[int, list[Piece]] = field(default_factory=dict)
    """Chunks that wait because their language depends on the chunk before."""
    encoded: dict[int, AnyEncoding] = field(default_factory=dict)
    """What was encoded of chunks to find their language, by index."""
    waiting: list[Clip] = field(default_factory=list)
    prepared: dict[int, Request] = field(default_factory=dict)
    """Requests of waiting clips, from earlier choices of a batch."""
    in_flight: set[int] = field(default_factory=set)
    being_read: bool = False
    probing: bool = False
    finished: EndOfFile | None = None
    container_seconds: float | None = None  # None: not known, or the file is not open yet
    served: float = 0.0  # seconds of speech computed or being computed

    @property
    def seconds_ahead(self) -> float:
        return sum(clip.seconds for clip in self.waiting)

    @property
    def priority(self) -> int:
        return self.task.options.priority

    @property
    def turn(self) -> tuple[int, float, JobId]:
        """The place in the order of jobs; the lowest is next."""
        task = self.task
        expected = self.container_seconds or task.expected_seconds
        remaining = max(0.0, expected - self.served)
        return -self.priority, compute_queue_key(task.added_at, remaining), task.job_id

    @property
    def next_clip(self) -> Clip | None:
        """The first clip whose predecessors in its passage have their text."""
        return next(filter(self.can_decode, self.waiting), None)

    def can_decode(self, clip: Clip) -> bool:
        if not all(index in self.texts for index in clip.leans_on):
            return False
        return clip.index not in self.unclear or self.language_before(clip) is not None

    def language_before(self, clip: Clip) -> str | None:
        """Return the language of the chunk before, or of the start of the file; None if unknown.

        Chunks that were given up or are not wanted are skipped.
        """
        if self.language is None:
            return None
        beginning = self.language_at_beginning(clip, self.language)
        if clip.follows is None:
            return beginning
        step = clip.index - clip.follows
        undecided = self.in_flight.union(waiting.index for waiting in self.waiting)
        for index in range(clip.follows, -1, -step):
            if index in self.languages:
                return self.languages[index]
            if index in undecided:
                return None
        return beginning

    def language_at_beginning(self, clip: Clip, found: str) -> str:
        """What its track is tagged with, if it is one of several; else what was found in the file."""
        tagged, allowed = clip.tagged_language, self.task.options.languages
        is_possible = tagged in self.known_languages and (not allowed or tagged in allowed)
        return tagged if tagged and is_possible else found

    def context_before(self, clip: Clip, language: str) -> str:
        """Return the text before the clip in its passage, limited to this language."""
        return "".join(
            self.texts[index]
            for index in clip.leans_on
            if self.languages.get(index, language) == language
        )

    @property
    def can_probe(self) -> bool:
        """Whether there are enough clips to detect the language."""
        enough = (
            self.finished or len(self.waiting) >= PROBE_CLIPS or self.seconds_ahead >= PROBE_SECONDS
        )
        return bool(not self.language and self.waiting and enough and not self.probing)

    @property
    def starved(self) -> bool:
        """Whether the job cannot continue until more of its file is read."""
        return (
            not self.in_flight
            and not self.probing
            and not self.can_probe
            and not (self.language and self.next_clip)
        )

    @property
    def done(self) -> bool:
        return bool(self.finished and not self.waiting and not self.in_flight and not self.probing)

    @property
    def remaining_task(self) -> Task:
        """The task for the rest of the job: without the chunks done, with the languages found."""
        return replace(
            self.task,
            language=self.language or self.task.language,
            skip=self.task.skip.union(self.texts),
            texts=dict(self.texts),
            languages={
                index: code for index, code in self.languages.items() if index in self.texts
            },
        )

    def take_clip(self, clip: Clip) -> None:
        """Move a waiting clip to those in flight."""
        self.waiting.remove(clip)
        self.prepared.pop(clip.index, None)
        self.in_flight.add(clip.index)
        self.served += clip.seconds

    def put_back(self, clip: Clip, encoded: AnyEncoding) -> None:
        """Return a clip in flight to the waiting ones, with what was encoded of it."""
        self.in_flight.discard(clip.index)
        self.served -= clip.seconds
        self.encoded[clip.index] = encoded
        self.waiting = sorted([*self.waiting, clip], key=lambda waiting: waiting.index)

    def leave_out_unwanted(self) -> None:
        """Remove unwanted clips. Committed chunks keep their text; others get an empty one."""
        for clip in self.waiting:
            if not clip.wanted:
                self.texts.setdefault(clip.index, "")
                self.encoded.pop(clip.index, None)
        self.waiting = [clip for clip in self.waiting if clip.wanted]
