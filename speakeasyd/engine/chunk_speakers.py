"""Chooses how the speakers of a task's chunks are found, and keeps failures away from the transcript."""

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from speakeasyd.domain.diarization import MODEL, ChunkSpeakers, describe_channel
from speakeasyd.domain.options import Options
from speakeasyd.domain.readable_text import format_lane
from speakeasyd.engine.clips import Clip

if TYPE_CHECKING:
    from speakeasyd.engine.diarization import SpeakerDetector

log = logging.getLogger(__name__)

_SHOWN = 200  # characters of an error that a warning repeats


class ChunkSpeakerFinder:
    """Finds the speakers of clips. Loads the models when a clip needs them for the first time.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._detector: SpeakerDetector | None = None

    def choose_method(self, options: Options) -> Callable[[Clip], ChunkSpeakers] | None:
        """Return the function for the clips of a task; None if speakers are not asked for."""
        if options.speakers == "off":
            return None
        return _describe_lane if options.channels_are_speakers else self._find_speakers

    def _find_speakers(self, clip: Clip) -> ChunkSpeakers:
        """Return the speakers of a clip. A failure is a value: it becomes a warning."""
        try:
            return self._load_detector().find_speakers(clip.samples, clip.start)
        except Exception as error:
            log.exception("the speakers of chunk %s cannot be told apart", clip.index)
            return ChunkSpeakers(MODEL, error=f"{type(error).__name__}: {error}"[:_SHOWN])

    def _load_detector(self) -> "SpeakerDetector":
        # Imported when needed: who does not ask for speakers does not pay for them.
        from speakeasyd.engine.diarization import SpeakerDetector  # noqa: PLC0415

        with self._loading:
            self._detector = self._detector or SpeakerDetector()
            return self._detector


def _describe_lane(clip: Clip) -> ChunkSpeakers:
    return describe_channel(format_lane(clip.channel, clip.track), clip.start, clip.voiced)
