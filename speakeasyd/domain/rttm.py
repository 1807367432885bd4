"""RTTM (Rich Transcription Time Marked): who speaks when, for tools that measure diarization."""

from speakeasyd.domain.readable_text import join_lines
from speakeasyd.domain.transcript import Transcript

_NOTHING = "<NA>"


def render_rttm(transcript: Transcript) -> str:
    """One line for each turn. Overlapping turns are lines of their own."""
    file = _join_words(transcript.source)
    labels = {speaker.number: _join_words(speaker.label) for speaker in transcript.speakers}
    channel = transcript.track.number if transcript.track else 1
    return "".join(
        f"SPEAKER {file} {channel} {turn.start:.3f} {turn.end - turn.start:.3f} "
        f"{_NOTHING} {_NOTHING} {labels[turn.speaker]} {_NOTHING} {_NOTHING}\n"
        for turn in transcript.turns
        if turn.speaker in labels
    )


def _join_words(text: str) -> str:
    """The fields of a line are separated by spaces, so they have none."""
    return join_lines(text).replace(" ", "_") or _NOTHING
