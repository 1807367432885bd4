"""Many files at once through one model: readers decode ahead, replicas compute, reports leave in order for each job.

Turns are taken job by job: whoever has had the least so far goes next, so that a short file never waits for a long one.
"""

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

from ctranslate2 import StorageView

from speakeasyd.domain.job import JobId
from speakeasyd.domain.protocol import (
    ChunkDone,
    ChunkStarted,
    LanguageFound,
    Report,
    Task,
    TaskDone,
    TaskFailed,
)
from speakeasyd.engine.clips import Clip, Finished, Pause, read_clips
from speakeasyd.engine.decoding import FULL_WINDOW, Decoder, Plan, Way, first_way
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.language import PROBE_CLIPS, PROBE_SECONDS, detect_language
from speakeasyd.engine.vad import VoiceDetector
from speakeasyd.errors import ErrorCode, FileFault

_AHEAD_S = 240.0  # seconds of speech decoded ahead for each place in a batch: two passages of long chunks

InFlight = tuple[tuple[JobId, int], ...]


@dataclass(eq=False, slots=True)
class _Job:
    """A task on its way. Changed under the pipeline's lock only; `clips` belongs to the reader whose turn it is."""

    task: Task
    clips: Generator[Clip | Finished | Pause]
    plan: Plan | None  # None: the language is not known yet
    said: dict[int, str]  # text of the chunks that are done or given up
    encoded: dict[int, StorageView] = field(default_factory=dict)  # by chunk, from finding the language
    waiting: list[Clip] = field(default_factory=list)
    in_flight: set[int] = field(default_factory=set)
    being_read: bool = False
    probing: bool = False
    finished: Finished | None = None
    served: float = 0.0  # seconds of speech computed or being computed

    @property
    def ahead(self) -> float:
        return sum(clip.seconds for clip in self.waiting)

    @property
    def reading_turn(self) -> tuple[float, float, float]:
        return -self.task.options.priority, self.ahead, self.served

    @property
    def computing_turn(self) -> tuple[float, float]:
        return -self.task.options.priority, self.served

    @property
    def next_clip(self) -> Clip | None:
        """The first clip whose predecessors in its passage have their text."""
        return next((clip for clip in self.waiting if all(index in self.said for index in clip.leans_on)), None)

    @property
    def can_probe(self) -> bool:
        """Whether enough clips are there to tell the language."""
        enough = self.finished or len(self.waiting) >= PROBE_CLIPS or self.ahead >= PROBE_SECONDS
        return bool(not self.plan and self.waiting and enough and not self.probing)

    @property
    def starved(self) -> bool:
        """Whether reading must go on for anything to go on."""
        return not self.in_flight and not self.probing and not self.can_probe and not (self.plan and self.next_clip)

    @property
    def done(self) -> bool:
        return bool(self.finished and not self.waiting and not self.in_flight and not self.probing)

    @property
    def rest(self) -> Task:
        """The task as it would be given now: what is done is left out, what was found out is kept."""
        language = self.plan.language if self.plan else self.task.language
        return replace(self.task, language=language, skip=self.task.skip.union(self.said), said=dict(self.said))


@dataclass(frozen=True, slots=True)
class _Work:
    job: _Job
    plan: Plan
    clip: Clip
    said: str  # before it in its passage
    prompt: tuple[int, ...]


class Pipeline:
    """Takes tasks, sends reports. A failure that is no file's fault goes to `on_fault`, and no more is begun."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        replicas: int,
        batch_size: int,
        readers: int,
        send: Callable[[Report], None],
        on_fault: Callable[[EngineFault, InFlight], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._decoder = decoder
        self._frames = batch_size * FULL_WINDOW
        self._ahead_limit = _AHEAD_S * replicas * batch_size
        self._send, self._on_fault, self._on_idle = send, on_fault, on_idle
        self._detector = VoiceDetector()
        self._jobs: dict[JobId, _Job] = {}
        self._stopping = False
        self._changed = threading.Condition()
        self._threads = [
            *(threading.Thread(target=self._guard, args=(self._read,), name=f"reader-{n}") for n in range(readers)),
            *(
                threading.Thread(target=self._guard, args=(self._compute,), name=f"replica-{n}")
                for n in range(replicas)
            ),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    # --- for the host -------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not self._jobs

    def submit(self, task: Task) -> None:
        try:
            plan = self._first_plan(task)
        except FileFault as fault:
            self._send(TaskFailed(task.job_id, task.token, fault.code, str(fault)))
            return
        if plan and not task.language:
            self._send(LanguageFound(task.job_id, task.token, plan.language, 1.0))
        with self._changed:
            clips = read_clips(task, self._detector, self._send)
            self._jobs[task.job_id] = _Job(task, clips, plan, said=dict(task.said))
            self._changed.notify_all()

    def drop(self, job_id: JobId) -> None:
        with self._changed:
            job = self._jobs.pop(job_id, None)
        if job:
            self._left(job)

    def stop(self) -> None:
        """Finish the chunks in flight, report them, start no more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def leave_off(self) -> list[Task]:
        """As `stop`, and let go of all files. Returns what is left of each task."""
        self.stop()
        for job in self._jobs.values():
            job.clips.close()
        return [job.rest for job in self._jobs.values()]

    def in_flight(self) -> InFlight:
        with self._changed:
            return tuple((job_id, index) for job_id, job in self._jobs.items() for index in sorted(job.in_flight))

    def _first_plan(self, task: Task) -> Plan | None:
        """None if the language is to be detected. Raises `FileFault` if the model cannot do what the task asks."""
        wanted = task.options.language if task.options.language != "auto" else task.language
        if not self._decoder.multilingual:
            if (wanted or "en") != "en" or task.options.task == "translate":
                raise FileFault(
                    ErrorCode.MODEL_UNAVAILABLE,
                    "the model knows English only and does not translate",
                    hint="choose a multilingual model, such as small or large-v3-turbo",
                )
            wanted = "en"
        if wanted and wanted not in self._decoder.languages_known:
            raise FileFault(ErrorCode.MODEL_UNAVAILABLE, f"the model does not know the language {wanted!r}")
        return self._decoder.plan(task.options, wanted) if wanted else None

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while job := self._next_to_read():
            try:
                item = next(job.clips)
            except FileFault as fault:
                self._failed(job, fault)
            else:
                self._took(job, item)

    def _next_to_read(self) -> _Job | None:
        with self._changed:
            while not self._stopping:
                if job := self._unread():
                    job.being_read = True
                    return job
                self._changed.wait()
            return None

    def _unread(self) -> _Job | None:
        jobs = [job for job in self._jobs.values() if not job.finished and not job.being_read]
        if not jobs or sum(job.ahead for job in self._jobs.values()) >= self._ahead_limit:
            jobs = [job for job in jobs if job.starved]
        return min(jobs, key=lambda job: job.reading_turn, default=None)

    def _took(self, job: _Job, item: Clip | Finished | Pause) -> None:
        with self._changed:
            job.being_read = False
            match item:
                case Finished():
                    job.finished = item
                case Clip():
                    job.waiting.append(item)
                    if job.plan:
                        _leave_out_unwanted(job)
            self._changed.notify_all()
            gone = job is not self._jobs.get(job.task.job_id)
        self._left(job) if gone else self._settle(job)

    def _failed(self, job: _Job, fault: FileFault) -> None:
        with self._changed:
            job.being_read = False
            ours = self._forget(job)
        if ours:
            self._send(TaskFailed(job.task.job_id, job.task.token, fault.code, str(fault)))
        self._left(job)

    # --- computing ----------------------------------------------------------------------------------------------------

    def _compute(self) -> None:
        while work := self._next_work():
            if isinstance(work, _Job):
                self._find_language(work)
            else:
                self._transcribe(work)

    def _next_work(self) -> _Job | list[_Work] | None:
        """A job whose language is to be found, or a batch of clips that can be decoded in one call."""
        with self._changed:
            while not self._stopping:
                if work := self._take():
                    self._changed.notify_all()
                    return work
                self._changed.wait()
            return None

    def _take(self) -> _Job | list[_Work] | None:
        batch: list[_Work] = []
        for job in sorted(self._jobs.values(), key=lambda job: job.computing_turn):
            if job.can_probe and not batch:
                job.probing = True
                return job
            while (work := self._next_of(job)) and self._fits(work, batch):
                job.waiting.remove(work.clip)
                job.in_flight.add(work.clip.index)
                job.served += work.clip.seconds
                batch.append(work)
        return batch or None

    def _next_of(self, job: _Job) -> _Work | None:
        if not job.plan or not (clip := job.next_clip):
            return None
        said = "".join(job.said[index] for index in clip.leans_on)
        return _Work(job, job.plan, clip, said, self._decoder.prompt(job.plan, said))

    def _fits(self, work: _Work, batch: list[_Work]) -> bool:
        """Whether one call can decode it with the others: same way, same length of prompt, same window, and room."""
        kind = self._kind(work)
        return not batch or (kind == self._kind(batch[0]) and kind[2] * (len(batch) + 1) <= self._frames)

    def _kind(self, work: _Work) -> tuple[Way, int, int]:
        way = work.plan.way
        return way, len(work.prompt), self._decoder.window(work.clip.samples.size, way)

    def _find_language(self, job: _Job) -> None:
        heard = detect_language(self._decoder, job.waiting[:PROBE_CLIPS], first_way(job.task.options))
        self._send(LanguageFound(job.task.job_id, job.task.token, heard.language, heard.probability))
        with self._changed:
            job.plan = self._decoder.plan(job.task.options, heard.language)
            job.encoded = heard.encoded
            _leave_out_unwanted(job)
            job.probing = False
            self._changed.notify_all()
        self._settle(job)

    def _transcribe(self, batch: list[_Work]) -> None:
        for work in batch:
            task, clip = work.job.task, work.clip
            self._send(ChunkStarted(task.job_id, task.token, clip.index, clip.start, clip.end))
        began = time.perf_counter()
        first = self._decoder.attempt(
            [work.clip for work in batch],
            [work.prompt for work in batch],
            batch[0].plan.way,
            batch[0].job.encoded.pop(batch[0].clip.index, None) if len(batch) == 1 else None,
        )
        share = (time.perf_counter() - began) / len(batch)
        for work, hypothesis in zip(batch, first, strict=True):
            began = time.perf_counter()
            chunk = self._decoder.finish(work.clip, work.plan, work.said, hypothesis)
            took = share + time.perf_counter() - began
            self._send(ChunkDone(work.job.task.job_id, work.job.task.token, replace(chunk, compute_s=round(took, 4))))
            with self._changed:
                work.job.in_flight.discard(work.clip.index)
                work.job.said[work.clip.index] = "".join(segment.text for segment in chunk.segments)
                self._changed.notify_all()  # clips of its passage may lean on it now
            self._settle(work.job)

    # --- endings ------------------------------------------------------------------------------------------------------

    def _settle(self, job: _Job) -> None:
        """Report the job's end, once, when nothing of it is left to do."""
        with self._changed:
            over = job.done and self._forget(job)
        if over and job.finished:
            self._send(TaskDone(job.task.job_id, job.task.token, job.finished.audio_seconds, job.finished.warnings))
            self._left(job)

    def _forget(self, job: _Job) -> bool:
        if self._jobs.get(job.task.job_id) is not job:
            return False
        del self._jobs[job.task.job_id]
        return True

    def _left(self, job: _Job) -> None:
        if not job.being_read:
            job.clips.close()  # and with it the file
        if self.idle:
            self._on_idle()

    def _guard(self, loop: Callable[[], None]) -> None:
        """A thread's whole life: whatever is no file's fault concerns the worker, not only the thread."""
        try:
            loop()
        except EngineFault as fault:
            self._halt(fault)
        except Exception as error:  # noqa: BLE001 - a defect of ours
            self._halt(EngineFault("host", error))

    def _halt(self, fault: EngineFault) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._on_fault(fault, self.in_flight())


def _leave_out_unwanted(job: _Job) -> None:
    """Chunks that are committed keep their text; those given up or not asked for have none."""
    for clip in job.waiting:
        if not clip.wanted:
            job.said.setdefault(clip.index, "")
    job.waiting = [clip for clip in job.waiting if clip.wanted]
