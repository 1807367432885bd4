"""The pipeline: many files through one model.

Reader threads decode ahead, replica threads compute, and the reports of each job are in order.
Within a priority, the job with the shortest remaining work is next (`domain/queue_order.py`).
"""

import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace

from ctranslate2 import StorageView

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.job import JobId
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    ChunkStarted,
    LanguageFound,
    Opened,
    Progress,
    Report,
    Task,
    TaskDone,
    TaskFailed,
)
from speakeasyd.domain.queue_order import compute_queue_key
from speakeasyd.domain.transcript import Chunk
from speakeasyd.engine.audio import Samples
from speakeasyd.engine.chunk_speakers import ChunkSpeakerFinder
from speakeasyd.engine.clips import Clip, EndOfFile, YieldTurn, read_clips
from speakeasyd.engine.decoding import (
    FULL_WINDOW,
    ChunkDecoding,
    Decoder,
    DecodingMethod,
    DecodingPlan,
    Hypothesis,
    choose_first_method,
    states_of,
)
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.language import (
    PROBE_CLIPS,
    PROBE_SECONDS,
    Piece,
    detect_language,
    find_turns,
    hear_pieces,
    is_independent,
)
from speakeasyd.engine.vad import VoiceDetector
from speakeasyd.errors import ErrorCode, FileFault

# Seconds of speech decoded ahead for each slot of a batch: two passages of long chunks
_AHEAD_S = 240.0

InFlight = tuple[tuple[JobId, int], ...]


@dataclass(eq=False, slots=True)
class _PipelineJob:
    """The state of a task. Changed under the pipeline's lock only.

    `clips` is used by one reader thread at a time, the one that set `being_read`.
    """

    task: Task
    clips: Generator[Opened | Progress | Clip | EndOfFile | YieldTurn]
    plan: DecodingPlan | None  # None: the language is not known yet
    said: dict[int, str]  # text of the chunks that are done; "" for those given up
    languages: dict[int, str] = field(
        default_factory=dict
    )  # at the end of the chunks, as far as known
    detects: bool = False  # whether the language of each chunk is detected
    known_languages: frozenset[str] = frozenset()  # to the model
    unclear: dict[int, list[Piece]] = field(default_factory=dict)
    """Chunks that wait because their language depends on the chunk before."""
    encoded: dict[int, StorageView] = field(
        default_factory=dict
    )  # by chunk, from finding the language
    waiting: list[Clip] = field(default_factory=list)
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
    def turn(self) -> tuple[int, float, JobId]:
        """The place in the order of jobs; the lowest is next."""
        task = self.task
        expected = self.container_seconds or task.expected_seconds
        remaining = max(0.0, expected - self.served)
        return -task.options.priority, compute_queue_key(task.added_at, remaining), task.job_id

    @property
    def next_clip(self) -> Clip | None:
        """The first clip whose predecessors in its passage have their text."""
        return next(filter(self.can_decode, self.waiting), None)

    def can_decode(self, clip: Clip) -> bool:
        if not all(index in self.said for index in clip.leans_on):
            return False
        return clip.index not in self.unclear or self.language_before(clip) is not None

    def language_before(self, clip: Clip) -> str | None:
        """Return the language of the chunk before, or of the start of the file; None if unknown.

        Chunks that were given up or are not wanted are skipped.
        """
        if self.plan is None:
            return None
        beginning = self.language_at_beginning(clip, self.plan.language)
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

    def said_before(self, clip: Clip, language: str) -> str:
        """Return the text before the clip in its passage, limited to this language."""
        return "".join(
            self.said[index]
            for index in clip.leans_on
            if self.languages.get(index, language) == language
        )

    @property
    def can_probe(self) -> bool:
        """Whether there are enough clips to detect the language."""
        enough = (
            self.finished or len(self.waiting) >= PROBE_CLIPS or self.seconds_ahead >= PROBE_SECONDS
        )
        return bool(not self.plan and self.waiting and enough and not self.probing)

    @property
    def starved(self) -> bool:
        """Whether the job cannot continue until more of its file is read."""
        return (
            not self.in_flight
            and not self.probing
            and not self.can_probe
            and not (self.plan and self.next_clip)
        )

    @property
    def done(self) -> bool:
        return bool(self.finished and not self.waiting and not self.in_flight and not self.probing)

    @property
    def remaining_task(self) -> Task:
        """The task for the rest of the job: without the chunks done, with the languages found."""
        language = self.plan.language if self.plan else self.task.language
        return replace(
            self.task,
            language=language,
            skip=self.task.skip.union(self.said),
            said=dict(self.said),
            languages={index: code for index, code in self.languages.items() if index in self.said},
        )


@dataclass(frozen=True, slots=True)
class _ChunkWork:
    job: _PipelineJob
    plan: DecodingPlan
    clip: Clip
    said: str  # the text before it in its passage
    prompt: tuple[int, ...]


class Pipeline:
    """Takes tasks and sends reports.

    A failure that is not a file's is passed to `on_fault`, and no more work is started.
    """

    def __init__(
        self,
        *,
        decoder: Decoder,
        replicas: int,
        batch_size: int,
        readers: int,
        folders: Mapping[str, str],
        send: Callable[[Report], None],
        on_fault: Callable[[EngineFault, InFlight], None],
        on_idle: Callable[[], None],
    ) -> None:
        """`folders`: see `WorkerSpec.folders`."""
        self._decoder = decoder
        self._folders = folders
        self._frames = batch_size * FULL_WINDOW
        self._ahead_limit = _AHEAD_S * replicas * batch_size
        self._send, self._on_fault, self._on_idle = send, on_fault, on_idle
        self._detector = VoiceDetector()
        self._speaker_finder = ChunkSpeakerFinder()
        self._jobs: dict[JobId, _PipelineJob] = {}
        self._stopping = False
        self._changed = threading.Condition()
        self._threads = [
            *(
                threading.Thread(
                    target=self._run_guarded, args=(self._run_reader,), name=f"reader-{n}"
                )
                for n in range(readers)
            ),
            *(
                threading.Thread(
                    target=self._run_guarded, args=(self._run_replica,), name=f"replica-{n}"
                )
                for n in range(replicas)
            ),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    # --- interface of the worker host ---

    @property
    def idle(self) -> bool:
        return not self._jobs

    def submit(self, task: Task) -> None:
        """Start a task. Reports `TaskFailed` if the model cannot do it."""
        try:
            plan = self._plan_fixed_language(task)
        except FileFault as fault:
            self._send(TaskFailed(task.job_id, task.token, fault.code, str(fault)))
            return
        if plan and not task.language:
            self._send(LanguageFound(task.job_id, task.token, plan.language, 1.0))
        with self._changed:
            clips = read_clips(
                task,
                self._detector,
                folders=self._folders,
                find_speakers=self._speaker_finder.choose_method(task.options),
            )
            self._jobs[task.job_id] = _PipelineJob(
                task,
                clips,
                plan,
                said=dict(task.said),
                languages=dict(task.languages),
                detects=self._decoder.multilingual and _fixed_language(task.options) is None,
                known_languages=self._decoder.languages_known,
            )
            self._changed.notify_all()

    def drop(self, job_id: JobId) -> None:
        """Stop work on a job; chunks in flight may still be reported."""
        with self._changed:
            job = self._jobs.pop(job_id, None)
        if job:
            self._remaining_of(job)

    def stop(self) -> None:
        """Finish and report the chunks in flight, and start no more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def stop_and_return_tasks(self) -> list[Task]:
        """Stop, close all files, and return what is left of each task."""
        self.stop()
        for job in self._jobs.values():
            job.clips.close()
        return [job.remaining_task for job in self._jobs.values()]

    def in_flight(self) -> InFlight:
        """Return the chunks that are being computed."""
        with self._changed:
            return tuple(
                (job_id, index)
                for job_id, job in self._jobs.items()
                for index in sorted(job.in_flight)
            )

    def _plan_fixed_language(self, task: Task) -> DecodingPlan | None:
        """Return the plan; None if the language has to be detected.

        Raises FileFault (`model_unavailable`) if the model cannot do what the task needs.
        """
        options = task.options
        wanted = _fixed_language(options) or task.language
        choices = options.languages if options.language == "auto" else ()
        if not self._decoder.multilingual:
            knows_none = choices and "en" not in choices
            if knows_none or options.language not in ("auto", "en") or options.task == "translate":
                raise FileFault(
                    ErrorCode.MODEL_UNAVAILABLE,
                    "the model knows English only and does not translate",
                    hint="choose a multilingual model, such as small or large-v3-turbo",
                )
            wanted = "en"
        unknown = [
            code
            for code in (*choices, wanted)
            if code and self._decoder.multilingual and code not in self._decoder.languages_known
        ]
        if unknown:
            raise FileFault(
                ErrorCode.MODEL_UNAVAILABLE, f"the model does not know the language {unknown[0]!r}"
            )
        return self._decoder.create_plan(task.options, wanted) if wanted else None

    # --- reading ---

    def _run_reader(self) -> None:
        while job := self._wait_for_readable_job():
            try:
                item = next(job.clips)
            except FileFault as fault:
                self._on_file_fault(job, fault)
            else:
                self._on_read(job, item)

    def _wait_for_readable_job(self) -> _PipelineJob | None:
        with self._changed:
            while not self._stopping:
                if job := self._find_readable_job():
                    job.being_read = True
                    return job
                self._changed.wait()
            return None

    def _find_readable_job(self) -> _PipelineJob | None:
        jobs = [job for job in self._jobs.values() if not job.finished and not job.being_read]
        if not jobs or sum(job.seconds_ahead for job in self._jobs.values()) >= self._ahead_limit:
            jobs = [job for job in jobs if job.starved]
        return min(jobs, key=lambda job: job.turn, default=None)

    def _on_read(
        self, job: _PipelineJob, item: Opened | Progress | Clip | EndOfFile | YieldTurn
    ) -> None:
        if isinstance(item, Opened | Progress):
            self._send(item)
        with self._changed:
            job.being_read = False
            match item:
                case Opened():
                    job.container_seconds = item.container_seconds
                case EndOfFile():
                    job.finished = item
                case Clip():
                    job.waiting.append(item)
                    if job.plan:
                        _leave_out_unwanted(job)
            self._changed.notify_all()
            gone = job is not self._jobs.get(job.task.job_id)
        self._remaining_of(job) if gone else self._finish_job(job)

    def _on_file_fault(self, job: _PipelineJob, fault: FileFault) -> None:
        with self._changed:
            job.being_read = False
            ours = self._forget_job(job)
        if ours:
            self._send(TaskFailed(job.task.job_id, job.task.token, fault.code, str(fault)))
        self._remaining_of(job)

    # --- computing ---

    def _run_replica(self) -> None:
        while work := self._wait_for_work():
            if isinstance(work, _PipelineJob):
                self._find_language(work)
            else:
                self._transcribe_batch(work)

    def _wait_for_work(self) -> _PipelineJob | list[_ChunkWork] | None:
        """Wait for a job whose language is to be detected, or a batch of clips for one call.

        Returns None when the pipeline stops.
        """
        with self._changed:
            while not self._stopping:
                if work := self._take_work():
                    self._changed.notify_all()
                    return work
                self._changed.wait()
            return None

    def _take_work(self) -> _PipelineJob | list[_ChunkWork] | None:
        batch: list[_ChunkWork] = []
        for job in sorted(self._jobs.values(), key=lambda job: job.turn):
            if job.can_probe and not batch:
                job.probing = True
                return job
            while (work := self._take_next_clip(job)) and self._fits_batch(work, batch):
                job.waiting.remove(work.clip)
                job.in_flight.add(work.clip.index)
                job.served += work.clip.seconds
                batch.append(work)
        return batch or None

    def _take_next_clip(self, job: _PipelineJob) -> _ChunkWork | None:
        if not job.plan or not (clip := job.next_clip):
            return None
        expected = job.languages.get(clip.index) or job.language_before(clip) or job.plan.language
        return self._work(job, clip, expected)

    def _work(self, job: _PipelineJob, clip: Clip, language: str) -> _ChunkWork:
        plan = self._plan(job, language)
        said = job.said_before(clip, language)
        return _ChunkWork(job, plan, clip, said, self._decoder.build_prompt(plan, said))

    def _plan(self, job: _PipelineJob, language: str) -> DecodingPlan:
        if job.plan and job.plan.language == language:
            return job.plan
        return self._decoder.create_plan(job.task.options, language)

    def _fits_batch(self, work: _ChunkWork, batch: list[_ChunkWork]) -> bool:
        """Return whether one call can decode the clip with the batch.

        The decoding method, the prompt's length and the window must be equal, and the batch must
        have room.
        """
        kind = self._batch_key(work)
        return not batch or (
            kind == self._batch_key(batch[0]) and kind[2] * (len(batch) + 1) <= self._frames
        )

    def _batch_key(self, work: _ChunkWork) -> tuple[DecodingMethod, int, int]:
        way = work.plan.way
        return way, len(work.prompt), self._decoder.fit_window(work.clip.samples.size, way)

    def _find_language(self, job: _PipelineJob) -> None:
        options = job.task.options
        probed = job.waiting[:PROBE_CLIPS]
        detected = detect_language(
            self._decoder, probed, choose_first_method(options), options.languages
        )
        self._send(
            LanguageFound(job.task.job_id, job.task.token, detected.language, detected.probability)
        )
        with self._changed:
            job.plan = self._decoder.create_plan(job.task.options, detected.language)
            job.encoded = detected.encoded
            _leave_out_unwanted(job)
            job.probing = False
            self._changed.notify_all()
        self._finish_job(job)

    def _transcribe_batch(self, batch: list[_ChunkWork]) -> None:
        for work in batch:
            task, clip = work.job.task, work.clip
            self._send(ChunkStarted(task.job_id, task.token, clip.index, clip.start, clip.end))
        began = time.perf_counter()
        if any(work.job.detects for work in batch):
            self._transcribe_detecting(batch, began)
            return
        stored = batch[0].job.encoded.pop(batch[0].clip.index, None) if len(batch) == 1 else None
        first = self._attempt(batch, stored)
        share = (time.perf_counter() - began) / len(batch)
        for work, hypothesis in zip(batch, first, strict=True):
            self._finish(work, hypothesis, share)

    def _attempt(self, batch: list[_ChunkWork], encoded: StorageView | None) -> list[Hypothesis]:
        clips = [work.clip for work in batch]
        prompts = [work.prompt for work in batch]
        return self._decoder.decode_batch(clips, prompts, batch[0].plan.way, encoded)

    def _finish(self, work: _ChunkWork, hypothesis: Hypothesis, share: float) -> None:
        began = time.perf_counter()
        chunk = self._decoder.finish_clip(work.clip, work.plan, work.said, hypothesis)
        self._deliver(work.job, chunk, share + time.perf_counter() - began)

    def _deliver(self, job: _PipelineJob, chunk: Chunk, took: float) -> None:
        self._send(
            ChunkDone(job.task.job_id, job.task.token, replace(chunk, compute_s=round(took, 4)))
        )
        with self._changed:
            job.in_flight.discard(chunk.index)
            job.said[chunk.index] = chunk.text_in_language
            self._changed.notify_all()  # clips of its passage may use it as context now
        self._finish_job(job)

    # --- chunks whose language is detected ---

    def _transcribe_detecting(self, batch: list[_ChunkWork], began: float) -> None:
        """Transcribe clips after detecting their languages; in one call if all are as expected."""
        encoded = self._encode(batch)
        states = states_of(encoded)
        turns = [
            self._find_turns(work, states[number : number + 1]) for number, work in enumerate(batch)
        ]
        as_expected = all(
            found is not None and [turn.plan.language for turn in found] == [work.plan.language]
            for work, found in zip(batch, turns, strict=True)
        )
        hypotheses = self._attempt(batch, encoded) if as_expected else None
        share = (time.perf_counter() - began) / len(batch)
        for number, (work, found) in enumerate(zip(batch, turns, strict=True)):
            if hypotheses:
                self._finish(work, hypotheses[number], share)
            elif found is None:
                self._put_back(work, encoded if len(batch) == 1 else None)
            else:
                self._decode_turns(work, found, encoded if len(batch) == 1 else None, share)

    def _encode(self, batch: list[_ChunkWork]) -> StorageView:
        if len(batch) == 1 and (stored := batch[0].job.encoded.pop(batch[0].clip.index, None)):
            return stored
        frames = self._batch_key(batch[0])[2]
        return self._decoder.encode_clips([work.clip.samples for work in batch], frames)

    def _find_turns(self, work: _ChunkWork, states: Samples) -> list[ChunkDecoding] | None:
        """Return the turns; None if they depend on the chunk before, whose language is unknown."""
        job, clip, options = work.job, work.clip, work.job.task.options
        if not job.detects:
            return [ChunkDecoding(0.0, clip.seconds, work.plan, work.said)]
        pieces = job.unclear.get(clip.index)
        pieces = pieces or hear_pieces(self._decoder, clip, states, options.languages)
        with self._changed:
            previous = job.language_before(clip)
            if previous is None and not is_independent(pieces):
                job.unclear[clip.index] = pieces
                return None
        found = find_turns(
            self._decoder,
            clip,
            pieces,
            previous=previous,
            way=work.plan.way,
            allowed=options.languages,
        )
        with self._changed:
            job.unclear.pop(clip.index, None)
            job.languages[clip.index] = found[-1].language
            self._changed.notify_all()  # the next chunk may depend on it
            works = [self._work(job, clip, turn.language) for turn in found]
        return [
            ChunkDecoding(turn.start, turn.end, turn_work.plan, turn_work.said)
            for turn, turn_work in zip(found, works, strict=True)
        ]

    def _put_back(self, work: _ChunkWork, encoded: StorageView | None) -> None:
        """Return a clip to the waiting ones until the language of the chunk before is known."""
        job, clip = work.job, work.clip
        with self._changed:
            job.in_flight.discard(clip.index)
            job.served -= clip.seconds
            if encoded is not None and encoded.device == "cpu":
                job.encoded[clip.index] = encoded
            job.waiting = sorted([*job.waiting, clip], key=lambda waiting: waiting.index)
            self._changed.notify_all()

    def _decode_turns(
        self,
        work: _ChunkWork,
        turns: list[ChunkDecoding],
        encoded: StorageView | None,
        share: float,
    ) -> None:
        began = time.perf_counter()
        if len(turns) > 1:
            chunk = self._decoder.decode_turns(work.clip, turns)
            self._deliver(work.job, chunk, share + time.perf_counter() - began)
            return
        work = self._work(work.job, work.clip, turns[0].plan.language)
        [hypothesis] = self._attempt([work], encoded)
        self._finish(work, hypothesis, share + time.perf_counter() - began)

    # --- end of a job ---

    def _finish_job(self, job: _PipelineJob) -> None:
        """Report the end of the job once, when all its work is done."""
        with self._changed:
            ended = job.done and self._forget_job(job)
        if ended and job.finished:
            self._send(
                TaskDone(
                    job.task.job_id,
                    job.task.token,
                    job.finished.audio_seconds,
                    job.finished.warnings,
                    job.finished.tracks,
                )
            )
            self._remaining_of(job)

    def _forget_job(self, job: _PipelineJob) -> bool:
        if self._jobs.get(job.task.job_id) is not job:
            return False
        del self._jobs[job.task.job_id]
        return True

    def _remaining_of(self, job: _PipelineJob) -> None:
        if not job.being_read:
            job.clips.close()  # closes the file, too
        if self.idle:
            self._on_idle()

    def _run_guarded(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop. An error that is not a file's stops the whole pipeline."""
        try:
            loop()
        except EngineFault as fault:
            self._halt_on_fault(fault)
        except Exception as error:  # noqa: BLE001 - a defect of ours
            self._halt_on_fault(EngineFault(Phase.HOST, error))

    def _halt_on_fault(self, fault: EngineFault) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._on_fault(fault, self.in_flight())


def _fixed_language(options: Options) -> str | None:
    """Return the language if the options allow exactly one; else None."""
    if options.language != "auto":
        return options.language
    return options.languages[0] if len(options.languages) == 1 else None


def _leave_out_unwanted(job: _PipelineJob) -> None:
    """Remove unwanted clips. Committed chunks keep their text; others get an empty one."""
    for clip in job.waiting:
        if not clip.wanted:
            job.said.setdefault(clip.index, "")
    job.waiting = [clip for clip in job.waiting if clip.wanted]
