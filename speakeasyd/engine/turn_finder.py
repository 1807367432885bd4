"""The languages of the clips of a batch, each with its context."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from speakeasyd.engine.batch_choice import ChunkWork
from speakeasyd.engine.language import Piece, find_turns, is_independent, rate_pieces
from speakeasyd.engine.recognizer import AnyRecognizer, EncodedBatch


@dataclass(frozen=True, slots=True)
class ContextTurn:
    """A part of a clip in one language."""

    start: float  # seconds in the clip
    end: float  # seconds in the clip
    language: str
    context: str  # the text before the clip, in this language


class TurnFinder:
    """Finds the turns of clips. `changed` is the pipeline's lock."""

    def __init__(self, recognizer: AnyRecognizer, changed: threading.Condition) -> None:
        self._recognizer = recognizer
        self._changed = changed

    def find_turns(
        self, batch: Sequence[ChunkWork], encoded: EncodedBatch
    ) -> list[list[ContextTurn] | None]:
        """Return the turns of each clip.

        None: they depend on the chunk before, whose language is not known yet. Raises EngineFault.
        """
        pieces = self._rate_pieces(batch, encoded)
        return [
            self._find_turns_of(work, of_clip) for work, of_clip in zip(batch, pieces, strict=True)
        ]

    def _rate_pieces(self, batch: Sequence[ChunkWork], encoded: EncodedBatch) -> list[list[Piece]]:
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

    def _find_turns_of(self, work: ChunkWork, pieces: list[Piece]) -> list[ContextTurn] | None:
        job, clip, request = work.job, work.clip, work.request
        if not job.detects:
            return [ContextTurn(0.0, clip.seconds, request.language or "", request.context)]
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
                ContextTurn(
                    turn.start, turn.end, turn.language, job.context_before(clip, turn.language)
                )
                for turn in found
            ]
