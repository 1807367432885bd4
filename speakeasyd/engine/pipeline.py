"""The pipeline: many files through one model.

Reader threads decode ahead, replica threads compute, and the reports of each job are in order.
Within a priority, the job with the shortest remaining work is next (`domain/queue_order.py`).
"""

import threading
from collections.abc import Callable, Mapping

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
from speakeasyd.domain.recognition import choose_language
from speakeasyd.domain.transcript import Chunk
from speakeasyd.engine.batch_choice import BatchChooser, ChunkWork
from speakeasyd.engine.batch_transcriber import BatchTranscriber
from speakeasyd.engine.chunk_speakers import ChunkSpeakerFinder
from speakeasyd.engine.clips import Clip, EndOfFile, YieldTurn, read_clips
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.language import PROBE_CLIPS, detect_language
from speakeasyd.engine.pipeline_job import PipelineJob
from speakeasyd.engine.read_choice import choose_job_to_read
from speakeasyd.engine.recognizer import AnyRecognizer
from speakeasyd.engine.vad import VoiceDetector
from speakeasyd.errors import FileFault

# Seconds of speech decoded ahead for each slot of a batch: more than a passage of long chunks
_AHEAD_S = 160.0

InFlight = tuple[tuple[JobId, int], ...]


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
        self._chooser = BatchChooser(recognizer, batch_size)
        self._ahead_limit = _AHEAD_S * replicas * batch_size
        self._send, self._on_fault, self._on_idle = send, on_fault, on_idle
        self._detector = VoiceDetector()
        self._speaker_finder = ChunkSpeakerFinder()
        self._jobs: dict[JobId, PipelineJob] = {}
        self._stopping = False
        self._waiting_replicas = 0
        self._changed = threading.Condition()
        self._transcriber = BatchTranscriber(recognizer, self._changed)
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
                texts=dict(task.texts),
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
            self._close_ended_job(job)

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
                if job := choose_job_to_read(self._jobs.values(), ahead_s=self._ahead_limit):
                    job.being_read = True
                    return job
                self._changed.wait()
            return None

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
        self._close_ended_job(job) if gone else self._finish_job(job)

    def _on_file_fault(self, job: PipelineJob, fault: FileFault) -> None:
        with self._changed:
            job.being_read = False
            ours = self._forget_job(job)
        if ours:
            self._send(TaskFailed(job.task.job_id, job.task.token, fault.code, str(fault)))
        self._close_ended_job(job)

    # --- computing ---

    def _run_replica(self) -> None:
        while work := self._wait_for_work():
            if isinstance(work, PipelineJob):
                self._find_language(work)
            else:
                self._transcribe_batch(work)

    def _wait_for_work(self) -> PipelineJob | list[ChunkWork] | None:
        """Wait for a job whose language is to be detected, or a batch of clips for one call.

        Returns None when the pipeline stops.
        """
        with self._changed:
            while not self._stopping:
                callers = 1 + self._waiting_replicas
                if work := self._chooser.take_work(self._jobs.values(), callers=callers):
                    self._changed.notify_all()
                    return work
                self._waiting_replicas += 1
                self._changed.wait()
                self._waiting_replicas -= 1
            return None

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

    def _transcribe_batch(self, batch: list[ChunkWork]) -> None:
        for work in batch:
            task, clip = work.job.task, work.clip
            self._send(ChunkStarted(task.job_id, task.token, clip.index, clip.start, clip.end))
        for job, chunk in self._transcriber.transcribe_batch(batch):
            self._deliver_chunk(job, chunk)

    def _deliver_chunk(self, job: PipelineJob, chunk: Chunk) -> None:
        self._send(ChunkDone(job.task.job_id, job.task.token, chunk))
        with self._changed:
            job.in_flight.discard(chunk.index)
            job.texts[chunk.index] = chunk.text_in_language
            self._changed.notify_all()  # clips of its passage may use it as context now
        self._finish_job(job)

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
            self._close_ended_job(job)

    def _forget_job(self, job: PipelineJob) -> bool:
        if self._jobs.get(job.task.job_id) is not job:
            return False
        del self._jobs[job.task.job_id]
        return True

    def _close_ended_job(self, job: PipelineJob) -> None:
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
