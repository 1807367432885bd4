"""From a batch of clips to chunks with their final text."""

import threading
import time
from collections.abc import Iterator, Sequence

from speakeasyd.domain.recognition import RecognizedText
from speakeasyd.domain.speaker_labels import label_segments
from speakeasyd.domain.transcript import Chunk
from speakeasyd.engine.batch_choice import ChunkWork
from speakeasyd.engine.pipeline_job import PipelineJob
from speakeasyd.engine.recognizer import AnyRecognizer, EncodedBatch
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
        began = time.perf_counter()
        encoded = _take_encoded(batch)
        turns: Sequence[list[ContextTurn] | None] = ()  # empty: the languages are fixed
        if any(work.job.detects for work in batch):
            encoded = encoded or self._recognizer.encode([work.request for work in batch])
            turns = self._turn_finder.find_turns(batch, encoded)
        if not turns or all(map(_is_as_expected, batch, turns)):
            requests = [work.request for work in batch]
            hypotheses = self._recognizer.recognize_batch(requests, encoded)
            share = (time.perf_counter() - began) / len(batch)
            for work, hypothesis in zip(batch, hypotheses, strict=True):
                began = time.perf_counter()
                text = hypothesis.settle_doubts()
                compute_s = share + time.perf_counter() - began
                yield work.job, _build_chunk(work, text, work.request.language, compute_s)
            return
        share = (time.perf_counter() - began) / len(batch)
        alone = encoded if len(batch) == 1 else None
        for work, found in zip(batch, turns, strict=True):
            if found is None:
                self._put_back(work, alone)
                continue
            began = time.perf_counter()
            text = self._recognize_turns(work, found, alone)
            compute_s = share + time.perf_counter() - began
            yield work.job, _build_chunk(work, text, found[-1].language, compute_s)

    def _put_back(self, work: ChunkWork, encoded: EncodedBatch | None) -> None:
        with self._changed:
            work.job.put_back(work.clip, encoded)
            self._changed.notify_all()

    def _recognize_turns(
        self, work: ChunkWork, turns: Sequence[ContextTurn], encoded: EncodedBatch | None
    ) -> RecognizedText:
        """Recognise a clip, each turn in its language. `encoded`: of the whole clip."""
        text = RecognizedText()
        is_whole = len(turns) == 1
        for turn in turns:
            before = [part.text for part in text.segments if part.language == turn.language]
            request = self._recognizer.prepare(
                work.clip if is_whole else work.clip.cut_part(turn.start, turn.end),
                work.job.task.options,
                turn.language,
                turn.context + "".join(before),
            )
            [hypothesis] = self._recognizer.recognize_batch(
                [request], encoded if is_whole else None
            )
            text = text.followed_by(hypothesis.settle_doubts())
        return text


def _take_encoded(batch: Sequence[ChunkWork]) -> EncodedBatch | None:
    """Return the encoded clip from finding the language. It serves a batch of one clip only."""
    [work, *more] = batch
    return None if more else work.job.encoded.pop(work.clip.index, None)


def _is_as_expected(work: ChunkWork, turns: Sequence[ContextTurn] | None) -> bool:
    """Whether the clip has the language that its request was prepared for."""
    return turns is not None and [turn.language for turn in turns] == [work.request.language]


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
