"""The pipeline: many files through one model.

Reader threads decode ahead, replica threads compute, and the reports of each job are in order.
Within a priority, the job with the shortest remaining work is next (`domain/queue_order.py`).
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from speakeasyd.domain.batching import choose_batch
from speakeasyd.domain.fault import Phase
from speakeasyd.domain.job import JobId
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
from speakeasyd.domain.recognition import RecognizedText, choose_language
from speakeasyd.domain.speaker_labels import label_segments
from speakeasyd.domain.transcript import Chunk
from speakeasyd.engine.chunk_speakers import ChunkSpeakerFinder
from speakeasyd.engine.clips import Clip, EndOfFile, YieldTurn, read_clips
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.language import (
    PROBE_CLIPS,
    Piece,
    detect_language,
    find_turns,
    is_independent,
    rate_pieces,
)
from speakeasyd.engine.pipeline_job import PipelineJob
from speakeasyd.engine.recognizer import AnyRecognizer, EncodedBatch, Hypothesis, Request
from speakeasyd.engine.vad import VoiceDetector
from speakeasyd.errors import FileFault

# Seconds of speech decoded ahead for each slot of a batch: more than a passage of long chunks
_AHEAD_S = 160.0
_LONGEST_CLIP_S = 30.0  # seconds: what batch_size counts in

InFlight = tuple[tuple[JobId, int], ...]


@dataclass(frozen=True, slots=True)
class _ChunkWork:
    job: PipelineJob
    request: Request

    @property
    def clip(self) -> Clip:
        return self.request.clip


@dataclass(frozen=True, slots=True)
class _Turn:
    """A part of a clip in one language."""

    start: float  # seconds in the clip
    end: float  # seconds in the clip
    language: str
    said: str  # the text before the clip, in this language


class Pipeline:
    """Takes tasks and sends reports.

    A failure that is not a file's is passed to `on_fault`, and no more work is started.
    """

    def __init__(
        self,
        *,
        recognizer: AnyRecognizer,
        replicas: int,
        batch_size: int,
        readers: int,
        folders: Mapping[str, str],
        send: Callable[[Report], None],
        on_fault: Callable[[EngineFault, InFlight], None],
        on_idle: Callable[[], None],
    ) -> None:
        """`folders`: see `WorkerSpec.folders`."""
        self._recognizer = recognizer
        self._folders = folders
        self._batch_seconds = batch_size * _LONGEST_CLIP_S
        self._ahead_limit = _AHEAD_S * replicas * batch_size
        self._send, self._on_fault, self._on_idle = send, on_fault, on_idle
        self._detector = VoiceDetector()
        self._speaker_finder = ChunkSpeakerFinder()
        self._jobs: dict[JobId, PipelineJob] = {}
        self._stopping = False
        self._waiting_replicas = 0
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
        capabilities = self._recognizer.capabilities
        try:
            language = choose_language(task.options, capabilities, found=task.language)
        except FileFault as fault:
            self._send(TaskFailed(task.job_id, task.token, fault.code, str(fault)))
            return
        if language and not task.language:
            self._send(LanguageFound(task.job_id, task.token, language, 1.0))
        with self._changed:
            clips = read_clips(
                task,
                self._detector,
                folders=self._folders,
                find_speakers=self._speaker_finder.choose_method(task.options),
            )
            self._jobs[task.job_id] = PipelineJob(
                task,
                clips,
                language,
                said=dict(task.said),
                languages=dict(task.languages),
                detects=capabilities.detects_languages and not task.options.fixed_language,
                known_languages=capabilities.languages,
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

    # --- reading ---

    def _run_reader(self) -> None:
        while job := self._wait_for_readable_job():
            try:
                item = next(job.clips)
            except FileFault as fault:
                self._on_file_fault(job, fault)
            else:
                self._on_read(job, item)

    def _wait_for_readable_job(self) -> PipelineJob | None:
        with self._changed:
            while not self._stopping:
                if job := self._find_readable_job():
                    job.being_read = True
                    return job
                self._changed.wait()
            return None

    def _find_readable_job(self) -> PipelineJob | None:
        jobs = [job for job in self._jobs.values() if not job.finished and not job.being_read]
        if not jobs or sum(job.seconds_ahead for job in self._jobs.values()) >= self._ahead_limit:
            jobs = [job for job in jobs if job.starved]
        return min(jobs, key=lambda job: job.turn, default=None)

    def _on_read(
        self, job: PipelineJob, item: Opened | Progress | Clip | EndOfFile | YieldTurn
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
                    if job.language:
                        job.leave_out_unwanted()
            self._changed.notify_all()
            gone = job is not self._jobs.get(job.task.job_id)
        self._remaining_of(job) if gone else self._finish_job(job)

    def _on_file_fault(self, job: PipelineJob, fault: FileFault) -> None:
        with self._changed:
            job.being_read = False
            ours = self._forget_job(job)
        if ours:
            self._send(TaskFailed(job.task.job_id, job.task.token, fault.code, str(fault)))
        self._remaining_of(job)

    # --- computing ---

    def _run_replica(self) -> None:
        while work := self._wait_for_work():
            if isinstance(work, PipelineJob):
                self._find_language(work)
            else:
                self._transcribe_batch(work)

    def _wait_for_work(self) -> PipelineJob | list[_ChunkWork] | None:
        """Wait for a job whose language is to be detected, or a batch of clips for one call.

        Returns None when the pipeline stops.
        """
        with self._changed:
            while not self._stopping:
                if work := self._take_work():
                    self._changed.notify_all()
                    return work
                self._waiting_replicas += 1
                self._changed.wait()
                self._waiting_replicas -= 1
            return None

    def _take_work(self) -> PipelineJob | list[_ChunkWork] | None:
        jobs = sorted(self._jobs.values(), key=lambda job: job.turn)
        for number, job in enumerate(jobs):
            if job.can_probe:
                job.probing = True
                return job
            if ready := list(self._iterate_ready(job)):
                return self._take_batch(ready, jobs[number + 1 :])
        return None

    def _take_batch(
        self, ready: Sequence[_ChunkWork], later: Sequence[PipelineJob]
    ) -> list[_ChunkWork]:
        """Take the clips of the next call: those of one job, filled with those of later ones."""
        batch = choose_batch(
            ready,
            chain.from_iterable(map(self._iterate_ready, later)),
            key=lambda work: work.request.batch_key,
            room=lambda work: max(1, int(self._batch_seconds / work.request.batch_seconds)),
            callers=1 + self._waiting_replicas,
        )
        for work in batch:
            work.job.waiting.remove(work.clip)
            work.job.in_flight.add(work.clip.index)
            work.job.served += work.clip.seconds
        return batch

    def _iterate_ready(self, job: PipelineJob) -> Iterator[_ChunkWork]:
        """Yield the clips of a job that can be decoded now."""
        if job.language:
            for clip in filter(job.can_decode, job.waiting):
                expected = job.languages.get(clip.index) or job.language_before(clip)
                yield self._work(job, clip, expected or job.language)

    def _work(self, job: PipelineJob, clip: Clip, language: str) -> _ChunkWork:
        said = job.said_before(clip, language)
        return _ChunkWork(job, self._recognizer.prepare(clip, job.task.options, language, said))

    def _find_language(self, job: PipelineJob) -> None:
        detected = detect_language(self._recognizer, job.waiting[:PROBE_CLIPS], job.task.options)
        self._send(
            LanguageFound(job.task.job_id, job.task.token, detected.language, detected.probability)
        )
        with self._changed:
            job.language = detected.language
            job.encoded = detected.encoded
            job.leave_out_unwanted()
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
        hypotheses = self._recognize(batch, self._take_stored(batch))
        share = (time.perf_counter() - began) / len(batch)
        for work, hypothesis in zip(batch, hypotheses, strict=True):
            self._finish(work, hypothesis, share)

    def _take_stored(self, batch: list[_ChunkWork]) -> EncodedBatch | None:
        """Return the encoded clip from finding the language. It serves a batch of one clip only."""
        [work, *more] = batch
        return None if more else work.job.encoded.pop(work.clip.index, None)

    def _recognize(
        self, batch: list[_ChunkWork], encoded: EncodedBatch | None
    ) -> Sequence[Hypothesis]:
        requests = [work.request for work in batch]
        return self._recognizer.recognize_batch(requests, encoded)

    def _finish(self, work: _ChunkWork, hypothesis: Hypothesis, share: float) -> None:
        began = time.perf_counter()
        text = hypothesis.settle_doubts()
        chunk = _build_chunk(work, text, work.request.language)
        self._deliver(work.job, chunk, share + time.perf_counter() - began)

    def _deliver(self, job: PipelineJob, chunk: Chunk, took: float) -> None:
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
        encoded = self._take_stored(batch)
        encoded = encoded or self._recognizer.encode([work.request for work in batch])
        alone = encoded if len(batch) == 1 else None
        pieces = self._rate_pieces(batch, encoded)
        turns = [
            self._find_turns(work, of_clip) for work, of_clip in zip(batch, pieces, strict=True)
        ]
        as_expected = all(
            found is not None and [turn.language for turn in found] == [work.request.language]
            for work, found in zip(batch, turns, strict=True)
        )
        hypotheses = self._recognize(batch, encoded) if as_expected else None
        share = (time.perf_counter() - began) / len(batch)
        for number, (work, found) in enumerate(zip(batch, turns, strict=True)):
            if hypotheses:
                self._finish(work, hypotheses[number], share)
            elif found is None:
                self._put_back(work, alone)
            else:
                self._recognize_turns(work, found, alone, share)

    def _rate_pieces(self, batch: list[_ChunkWork], encoded: EncodedBatch) -> list[list[Piece]]:
        """Return the pieces of each clip; none where the language is fixed."""
        known = [work.job.unclear.get(work.clip.index, []) for work in batch]
        rated = rate_pieces(
            self._recognizer,
            encoded,
            [
                work.clip if work.job.detects and not pieces else None
                for work, pieces in zip(batch, known, strict=True)
            ],
            [work.job.task.options.languages for work in batch],
        )
        return [before or new for before, new in zip(known, rated, strict=True)]

    def _find_turns(self, work: _ChunkWork, pieces: list[Piece]) -> list[_Turn] | None:
        """Return the turns; None if they depend on the chunk before, whose language is unknown."""
        job, clip, request = work.job, work.clip, work.request
        if not job.detects:
            return [_Turn(0.0, clip.seconds, request.language or "", request.said)]
        with self._changed:
            previous = job.language_before(clip)
            if previous is None and not is_independent(pieces):
                job.unclear[clip.index] = pieces
                return None
        found = find_turns(
            self._recognizer, clip, pieces, previous=previous, options=job.task.options
        )
        with self._changed:
            job.unclear.pop(clip.index, None)
            job.languages[clip.index] = found[-1].language
            self._changed.notify_all()  # the next chunk may depend on it
            return [
                _Turn(turn.start, turn.end, turn.language, job.said_before(clip, turn.language))
                for turn in found
            ]

    def _put_back(self, work: _ChunkWork, encoded: EncodedBatch | None) -> None:
        """Return a clip to the waiting ones until the language of the chunk before is known."""
        job, clip = work.job, work.clip
        with self._changed:
            job.in_flight.discard(clip.index)
            job.served -= clip.seconds
            if encoded and encoded.in_host_memory:
                job.encoded[clip.index] = encoded
            job.waiting = sorted([*job.waiting, clip], key=lambda waiting: waiting.index)
            self._changed.notify_all()

    def _recognize_turns(
        self, work: _ChunkWork, turns: list[_Turn], encoded: EncodedBatch | None, share: float
    ) -> None:
        began = time.perf_counter()
        if len(turns) > 1:
            chunk = _build_chunk(work, self._join_turns(work, turns), turns[-1].language)
            self._deliver(work.job, chunk, share + time.perf_counter() - began)
            return
        work = self._work(work.job, work.clip, turns[0].language)
        [hypothesis] = self._recognize([work], encoded)
        self._finish(work, hypothesis, share + time.perf_counter() - began)

    def _join_turns(self, work: _ChunkWork, turns: list[_Turn]) -> RecognizedText:
        """Recognise a clip with several languages, each turn in its own."""
        text = RecognizedText()
        for turn in turns:
            before = [part.text for part in text.segments if part.language == turn.language]
            request = self._recognizer.prepare(
                work.clip.cut_part(turn.start, turn.end),
                work.job.task.options,
                turn.language,
                turn.said + "".join(before),
            )
            [hypothesis] = self._recognizer.recognize_batch([request])
            text = text.followed_by(hypothesis.settle_doubts())
        return text

    # --- end of a job ---

    def _finish_job(self, job: PipelineJob) -> None:
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

    def _forget_job(self, job: PipelineJob) -> bool:
        if self._jobs.get(job.task.job_id) is not job:
            return False
        del self._jobs[job.task.job_id]
        return True

    def _remaining_of(self, job: PipelineJob) -> None:
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


def _build_chunk(work: _ChunkWork, text: RecognizedText, language: str | None) -> Chunk:
    """Return the chunk of a clip. `language`: at its end."""
    clip, options = work.clip, work.job.task.options
    segments = text.segments
    if clip.speakers:
        segments = label_segments(segments, clip.speakers.turns, keep_words=options.word_timestamps)
    return Chunk(
        clip.index,
        clip.start,
        clip.end,
        segments,
        clip.channel,
        text.redone,
        language=language,
        track=clip.track,
        speakers=clip.speakers,
    )
