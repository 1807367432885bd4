"""Transcripts in output formats."""

from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.transcript import Transcript
from speakeasyd.errors import SpeakeasyError


def render(transcript: Transcript, name: str) -> bytes:
    r"""Return the bytes of a file in this format, such as `txt`, `srt`, `vtt`, `json` or `docx`.

    Raises SpeakeasyError for an unknown format.

    >>> from speakeasyd import Segment, Transcript, render
    >>> segment = Segment(0.5, 2.0, " Good morning.")
    >>> talk = Transcript(0, "talk.mp3", "en", "small", 2.0, segments=(segment,))
    >>> print(render(talk, "srt").decode())
    1
    00:00:00,500 --> 00:00:02,000
    Good morning.
    <BLANKLINE>
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise SpeakeasyError(f"there is no format {name!r}", hint=f"The formats are {known}.")
    return FORMATS[name].render_file(transcript)
