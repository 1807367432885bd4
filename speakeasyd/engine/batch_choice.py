"""What a replica does next: detect the language of a file, or transcribe a batch of clips."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from speakeasyd.domain.batching import choose_batch
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.pipeline_job import PipelineJob
from speakeasyd.engine.recognizer import AnyRecognizer, Request

_LONGEST_CLIP_S = 30.0  # seconds: what batch_size counts in


@dataclass(frozen=True, slots=True)
class ChunkWork:
    """A clip of a job, and how it is to be recognised."""

    job: PipelineJob
    request: Request

    @property
    def clip(self) -> Clip:
        return self.request.clip


class BatchChooser:
    """Chooses the next work. Called under the pipeline's lock only."""

    def __init__(self, recognizer: AnyRecognizer, batch_size: int) -> None:
        """`batch_size`: clips of 30 s in one call."""
        self._recognizer = recognizer
        self._batch_seconds = batch_size * _LONGEST_CLIP_S

    def take_work(
        self, jobs: Iterable[PipelineJob], *, callers: int
    ) -> PipelineJob | list[ChunkWork] | None:
        """Take a job whose language is to be detected, or the clips of one call of the model.

        Returns None if there is no such work. `callers`: how many replicas wait for work.
        """
        ordered = sorted(jobs, key=lambda job: job.turn)
        if job := self._find_unknown(ordered):
            job.probing = True
            return job
        for number, job in enumerate(ordered):
            if ready := list(self._iterate_ready(job)):
                return self._take_batch(ready, ordered[number + 1 :], callers)
        return None

    def _find_unknown(self, ordered: Sequence[PipelineJob]) -> PipelineJob | None:
        """Return the first job whose language can be detected.

        None if clips that are ready before it fill a call or have a higher priority. Otherwise its
        own clips may share their call, once its language is known.
        """
        if not any(job.can_probe for job in ordered):
            return None
        room, priority = self._batch_seconds, None
        for job in ordered:
            if room <= 0 or priority not in (None, job.priority):
                break
            if job.can_probe:
                return job
            if ready := list(self._iterate_ready(job)):
                priority = job.priority
                room -= sum(work.request.batch_seconds for work in ready)
        return None

    def _take_batch(
        self, ready: Sequence[ChunkWork], later: Sequence[PipelineJob], callers: int
    ) -> list[ChunkWork]:
        """Take clips of the job whose turn it is, filled with those of later jobs."""
        batch = choose_batch(
            ready,
            chain.from_iterable(map(self._iterate_ready, later)),
            key=lambda work: work.request.batch_key,
            size=lambda work: work.request.batch_seconds,
            room=self._batch_seconds,
            callers=callers,
        )
        for work in batch:
            work.job.take_clip(work.clip)
        return batch

    def _iterate_ready(self, job: PipelineJob) -> Iterator[ChunkWork]:
        """Yield the clips of a job that can be decoded now."""
        if job.language:
            for clip in filter(job.can_decode, job.waiting):
                expected = job.languages.get(clip.index) or job.language_before(clip)
                yield ChunkWork(job, self._prepare_clip(job, clip, expected or job.language))

    def _prepare_clip(self, job: PipelineJob, clip: Clip, language: str) -> Request:
        """Return the request for a clip: the one of an earlier choice, if it is still valid."""
        context = job.context_before(clip, language)
        request = job.prepared.get(clip.index)
        if request is None or (request.language, request.context) != (language, context):
            request = self._recognizer.prepare(clip, job.task.options, language, context)
            job.prepared[clip.index] = request
        return request
