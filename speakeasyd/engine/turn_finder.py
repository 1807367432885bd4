"""The languages of a clip, each with its context."""

import threading
from dataclasses import dataclass

from speakeasyd.engine.batch_choice import ChunkWork
from speakeasyd.engine.language import find_turns, is_independent, rate_pieces
from speakeasyd.engine.recognizer import AnyEncoding, AnyRecognizer


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

    def find_turns(self, work: ChunkWork, encoded: AnyEncoding) -> list[ContextTurn] | None:
        """Return the turns of a clip.

        None: they depend on the chunk before, whose language is not known yet. Raises EngineFault.
        """
        job, clip, request = work.job, work.clip, work.request
        options = job.task.options
        if not job.detects:
            return [ContextTurn(0.0, clip.seconds, request.language or "", request.context)]
        with self._changed:
            known = job.unclear.get(clip.index)
        pieces = known or rate_pieces(self._recognizer, encoded, clip, options.languages)
        with self._changed:
            previous = job.language_before(clip)
            if previous is None and not is_independent(pieces):
                job.unclear[clip.index] = pieces
                return None
        found = find_turns(self._recognizer, clip, pieces, previous=previous, options=options)
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
