"""From a batch of clips to chunks with their final text."""

import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence

from speakeasyd.domain.recognition import RecognizedText
from speakeasyd.domain.speaker_labels import label_segments
from speakeasyd.domain.transcript import Chunk
from speakeasyd.engine.batch_choice import ChunkWork
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.pipeline_job import PipelineJob
from speakeasyd.engine.recognizer import AnyEncoding, AnyRecognizer, Request
from speakeasyd.engine.turn_finder import ContextTurn, TurnFinder


class BatchTranscriber:
    """Transcribes batches. Thread-safe. `changed` is the pipeline's lock."""

    def __init__(self, recognizer: AnyRecognizer, changed: threading.Condition) -> None:
        self._recognizer = recognizer
        self._changed = changed
        self._turn_finder = TurnFinder(recognizer, changed)

    def transcribe_batch(self, batch: Sequence[ChunkWork]) -> Iterator[tuple[PipelineJob, Chunk]]:
        """Yield each chunk once its text is final.

        Clips whose language depends on a chunk without a known one are put back instead. Raises
        EngineFault.
        """
        if not any(work.job.detects for work in batch):
            yield from self._recognize_clips(batch, None, 0.0)
            return
        began = time.perf_counter()
        whole: defaultdict[Hashable, list[tuple[ChunkWork, AnyEncoding]]] = defaultdict(list)
        divided: list[tuple[ChunkWork, list[ContextTurn]]] = []
        for work, encoded in zip(batch, self._encode_clips(batch), strict=True):
            match self._turn_finder.find_turns(work, encoded):
                case None:
                    self._put_back(work, encoded)
                case [turn]:
                    request = self._prepare(work, work.clip, turn.language, turn.context)
                    whole[request.batch_key].append((ChunkWork(work.job, request), encoded))
                case turns:
                    divided.append((work, turns))
        share = (time.perf_counter() - began) / len(batch)
        for group in whole.values():
            works, encodings = zip(*group, strict=True)
            yield from self._recognize_clips(works, encodings, share)
        for work, turns in divided:
            began = time.perf_counter()
            text = self._recognize_turns(work, turns)
            compute_s = share + time.perf_counter() - began
            yield work.job, _build_chunk(work, text, turns[-1].language, compute_s)

    def _encode_clips(self, batch: Sequence[ChunkWork]) -> list[AnyEncoding]:
        """Return the encoding of each clip: take those kept from detection, compute the others.

        Raises EngineFault.
        """
        with self._changed:
            kept = [work.job.encoded.pop(work.clip.index, None) for work in batch]
        missing = [work.request for work, known in zip(batch, kept, strict=True) if known is None]
        encoded = iter(self._recognizer.encode(missing) if missing else ())
        return [next(encoded) if known is None else known for known in kept]

    def _put_back(self, work: ChunkWork, encoded: AnyEncoding) -> None:
        with self._changed:
            work.job.put_back(work.clip, encoded)
            self._changed.notify_all()

    def _recognize_clips(
        self, batch: Sequence[ChunkWork], encoded: Sequence[AnyEncoding] | None, spent_s: float
    ) -> Iterator[tuple[PipelineJob, Chunk]]:
        """Recognise clips in one call. `spent_s`: seconds already spent on each clip."""
        began = time.perf_counter()
        requests = [work.request for work in batch]
        hypotheses = self._recognizer.recognize_batch(requests, encoded)
        share = spent_s + (time.perf_counter() - began) / len(batch)
        for work, hypothesis in zip(batch, hypotheses, strict=True):
            began = time.perf_counter()
            text = hypothesis.settle_doubts()
            compute_s = share + time.perf_counter() - began
            yield work.job, _build_chunk(work, text, work.request.language, compute_s)

    def _recognize_turns(self, work: ChunkWork, turns: Sequence[ContextTurn]) -> RecognizedText:
        """Recognise the parts of a clip, each in its language."""
        text = RecognizedText()
        for turn in turns:
            before = [part.text for part in text.segments if part.language == turn.language]
            part = work.clip.cut_part(turn.start, turn.end)
            context = turn.context + "".join(before)
            request = self._prepare(work, part, turn.language, context)
            [hypothesis] = self._recognizer.recognize_batch([request])
            text = text.followed_by(hypothesis.settle_doubts())
        return text

    def _prepare(self, work: ChunkWork, clip: Clip, language: str, context: str) -> Request:
        options = work.job.task.options
        request: Request = self._recognizer.prepare(clip, options, language, context)
        return request


def _build_chunk(
    work: ChunkWork, text: RecognizedText, language: str | None, compute_s: float
) -> Chunk:
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
        compute_s=round(compute_s, 4),
    )
