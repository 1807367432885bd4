"""speakeasyd turns audio dropped into a folder into transcripts in another folder.

`__all__` is the Python API; docs/python.md describes it. A name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speakeasyd.api.ledger import JobRecord, Ledger
    from speakeasyd.api.rendering import render
    from speakeasyd.api.transcribing import TranscribeOptions, transcribe
    from speakeasyd.domain.diarization import Speaker
    from speakeasyd.domain.transcript import Segment, Transcript, Word
    from speakeasyd.errors import FileFault, SpeakeasyError
    from speakeasyd.ledger.search import SearchHit

__version__ = "0.2.0"

__all__ = [
    "FileFault",
    "JobRecord",
    "Ledger",
    "SearchHit",
    "Segment",
    "SpeakeasyError",
    "Speaker",
    "TranscribeOptions",
    "Transcript",
    "Word",
    "__version__",
    "render",
    "transcribe",
]

_MODULES = {
    "FileFault": "speakeasyd.errors",
    "JobRecord": "speakeasyd.api.ledger",
    "Ledger": "speakeasyd.api.ledger",
    "SearchHit": "speakeasyd.ledger.search",
    "Segment": "speakeasyd.domain.transcript",
    "Speaker": "speakeasyd.domain.diarization",
    "SpeakeasyError": "speakeasyd.errors",
    "TranscribeOptions": "speakeasyd.api.transcribing",
    "Transcript": "speakeasyd.domain.transcript",
    "Word": "speakeasyd.domain.transcript",
    "render": "speakeasyd.api.rendering",
    "transcribe": "speakeasyd.api.transcribing",
}
"""The module of each public name."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(import_module(_MODULES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
