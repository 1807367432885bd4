"""What stands in an artifact: a transcript in one of the formats."""

from importlib import import_module

from speakeasyd.domain.formats import render
from speakeasyd.domain.transcript import Transcript


def contents(transcript: Transcript, ending: str) -> bytes:
    """The whole file."""
    if ending == "docx":  # its library is large, and few ask for it
        document: bytes = import_module("speakeasyd.outbox.documents").docx_bytes(transcript)
        return document
    return render(transcript, ending).encode("utf-8", "replace")
