"""Renders a transcript in one of the formats: the content of an artifact."""

from speakeasyd.domain.formats import render_text
from speakeasyd.domain.transcript import Transcript


def render_file(transcript: Transcript, ending: str) -> bytes:
    """Return the bytes of the file."""
    if ending == "docx":
        # Imported when needed: the library is large and few users want the format.
        from speakeasyd.outbox.documents import render_docx  # noqa: PLC0415

        return render_docx(transcript)
    return render_text(transcript, ending).encode("utf-8", "replace")
