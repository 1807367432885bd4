"""The contract between the pipeline and a speech model.

Whatever keeps it can be loaded by a worker. `tests/integration/test_recognizer_conformance.py` runs
over every implementation.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import Downloading, Loaded, Loading
from speakeasyd.domain.recognition import Capabilities, LanguageProbabilities, RecognizedText
from speakeasyd.engine.clips import Clip

Span = tuple[float, float]
"""Start and end of a stretch of speech, in seconds of its clip."""


class Request(Protocol):
    """A clip, and how it is to be recognised."""

    @property
    def clip(self) -> Clip: ...

    @property
    def language(self) -> str | None:
        """Code; None while it is not known, which is enough for `encode`."""

    @property
    def context(self) -> str:
        """The text before the clip, in the same language: its context."""

    @property
    def batch_key(self) -> Hashable:
        """Requests with equal keys can share one call."""

    @property
    def batch_seconds(self) -> float:
        """What the clip takes of a batch, in seconds."""


class Hypothesis(Protocol):
    """The first text of a clip."""

    def settle_doubts(self) -> RecognizedText:
        """Return the final text; doubtful parts are recognised again. Raises EngineFault."""


R = TypeVar("R", bound=Request)
E = TypeVar("E")
"""What a model has computed of the audio of one clip, before any language or text."""


class Recognizer(Protocol[R, E]):
    """A loaded speech model.

    Thread-safe: every replica calls it. The text of a clip depends on its request alone, not on the
    batch, the time or what was recognised before, so that a restart gives the same text.

    Errors: EngineFault with the phase in which the model failed. No audio is an error, but text of
    what is not speech may be invented: clips are cut where there is speech. Segments are in order
    of time, lie inside their clip, keep the leading space of their text, and have a confidence from
    0 to 1.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def prepare(self, clip: Clip, options: Options, language: str | None, context: str = "") -> R:
        """Return the request for a clip. Cheap and without the device: a lock may be held.

        `clip.samples` are mono at 16 kHz, shape (n,), float32 from -1 to 1.
        """

    def encode(self, requests: Sequence[R]) -> list[E]:
        """Process the audio of requests with one batch key.

        The results are in host memory and independent: each can be kept for any other call.
        """

    def rate_languages(
        self, encoded: E, stretches: Sequence[Span] | None = None
    ) -> list[LanguageProbabilities]:
        """Return the languages of each stretch of a clip, or of the whole clip.

        An empty mapping: the stretch is too short. Only called if `detects_languages`.
        """

    def recognize_batch(
        self, requests: Sequence[R], encoded: Sequence[E] | None = None
    ) -> Sequence[Hypothesis]:
        """Return a hypothesis for each request, all of one batch key, in one call of the model.

        `encoded`: of the same clips, if it exists already.
        """

    def free(self) -> None:
        """Release the memory of the model. No other call follows."""


AnyEncoding = Any
"""For those who keep what a recognizer has encoded."""
AnyRecognizer = Recognizer[Any, AnyEncoding]
"""For those who pass on what a recognizer returns, without looking inside."""


class ModelUnavailable(Exception):
    """The model is neither on this machine nor on the hub, or its files are damaged."""


OnProgress = Callable[[Downloading | Loading], object]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model's folder and display name; `warning` is set if it is a fallback for another model."""

    folder: Path
    name: str
    bundled: bool = False
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model, with the settings to use it with."""

    recognizer: AnyRecognizer
    replicas: int
    batch_size: int  # clips of 30 s in one call
    loaded: Loaded
