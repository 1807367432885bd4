"""What stands in an artifact: a transcript in one of the formats."""

from importlib import import_module

from speakeasyd.domain.formats import render_text
from speakeasyd.domain.transcript import Transcript


def render_file(transcript: Transcript, ending: str) -> bytes:
    """The whole file."""
    if ending == "docx":  # its library is large, and few ask for it
        document: bytes = import_module("speakeasyd.outbox.documents").docx_bytes(transcript)
        return document
    return render_text(transcript, ending).encode("utf-8", "replace")
