"""The registry of output formats: how a transcript is rendered in each.

Whatever lists or offers formats asks `FORMATS`: options, publication, API, page, command line and
the table of `docs/formats.md`.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from speakeasyd.domain import subtitles
from speakeasyd.domain.diarization import Speaker
from speakeasyd.domain.readable_text import (
    build_paragraphs,
    format_clock,
    format_gap,
    format_speaker,
    join_lines,
    strip_controls,
)
from speakeasyd.domain.rttm import render_rttm
from speakeasyd.domain.transcript import Segment, TranscribedTrack, Transcript

JSON_SCHEMA = "speakeasyd.transcript/1"
NO_SPEECH = "No speech was found."

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&])")


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatSpec:
    """An output format.

    `render` is a pure function: equal transcripts give equal results. Text has line feeds only, and
    is empty or ends with one.
    """

    name: str  # lower-case letters and digits; also the ending of the files
    media_type: str  # of downloads
    description: str  # one line of Markdown, for the documentation and the API
    render: Callable[[Transcript], str | bytes]
    # Written after the others, so that a script which waits for it finds them all
    written_last: bool = False
    has_text: bool = True  # whether it contains what was said

    def render_file(self, transcript: Transcript) -> bytes:
        """Return the bytes of the file. Text is encoded in UTF-8; lone surrogates become `?`."""
        content = self.render(transcript)
        return content.encode("utf-8", "replace") if isinstance(content, str) else content


def render_markdown_table() -> str:
    """Return the table of `docs/formats.md`."""
    rows = [f"| `{spec.name}` | {spec.description} |" for spec in FORMATS.values()]
    return "\n".join(["| format | content |", "|---|---|", *rows])


def build_head(transcript: Transcript) -> dict[str, str]:
    """Return the lines at the head of a document, label to value, without empty ones."""
    values = {
        "Language": transcript.language or "",
        "Model": transcript.model,
        "Length": format_clock(transcript.audio_seconds),
        "Received": transcript.created_at,
        "Warning": transcript.warning or "",
        **transcript.metadata,
    }
    return {join_lines(label): join_lines(value) for label, value in values.items() if value}


def _render_txt(transcript: Transcript) -> str:
    return "\n".join(f"{paragraph.spoken}\n" for paragraph in build_paragraphs(transcript))


def _render_md(transcript: Transcript) -> str:
    rows = [
        f"| {_escape_markdown(label)} | {_escape_markdown(value)} |"
        for label, value in build_head(transcript).items()
    ]
    title = f"# {_escape_markdown(join_lines(transcript.source))}"
    paragraphs = [
        f"**[{format_clock(p.start)}]** {_escape_markdown(p.spoken)}"
        for p in build_paragraphs(transcript)
    ] or [f"*{NO_SPEECH}*"]
    return "\n\n".join([title, "\n".join(["| | |", "|---|---|", *rows]), *paragraphs]) + "\n"


def _escape_markdown(text: str) -> str:
    """Escape the characters that have a meaning in Markdown."""
    return _MARKDOWN.sub(r"\\\1", text)


def _render_json(transcript: Transcript) -> str:
    document = {
        "schema": JSON_SCHEMA,
        "job_id": transcript.job_id,
        "source": strip_controls(transcript.source),
        "language": transcript.language,
        "track": _build_json_track(transcript.track) if transcript.track else None,
        "model": transcript.model,
        "audio_seconds": _round_number(transcript.audio_seconds),
        "created_at": transcript.created_at,
        "warning": transcript.warning,
        "metadata": transcript.metadata,
        "text": transcript.text,
        "segments": [
            _build_json_segment(number, segment, transcript.track)
            for number, segment in enumerate(transcript.segments)
        ],
        "speakers": [_build_json_speaker(speaker, transcript) for speaker in transcript.speakers],
        "turns": [
            {
                "start": _round_number(turn.start),
                "end": _round_number(turn.end),
                "speaker": turn.speaker,
                "overlap": turn.overlap,
            }
            for turn in transcript.turns
        ],
        "gaps": [
            {"start": _round_number(start), "end": _round_number(end)}
            for start, end in transcript.gaps
        ],
    }
    text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)
    return text.encode("utf-8", "replace").decode() + "\n"


def _build_json_segment(
    number: int, segment: Segment, track: TranscribedTrack | None
) -> dict[str, object]:
    values = _round_numbers(asdict(segment))
    del values["local_speaker"]
    return {
        "id": number,
        **values,
        "track": track.number if track else segment.track,
        "words": [
            {**_round_numbers(asdict(word)), "speaker": segment.speaker} for word in segment.words
        ],
    }


def _build_json_speaker(speaker: Speaker, transcript: Transcript) -> dict[str, object]:
    total = sum(one.seconds for one in transcript.speakers)
    return {
        "number": speaker.number,
        "name": strip_controls(speaker.name) or None,
        "seconds": _round_number(speaker.seconds),
        "share": _round_number(speaker.seconds / total) if total else 0.0,
        "words": speaker.words,
        "similarity": speaker.similarity,
        "suggestion": strip_controls(speaker.suggestion) or None,
    }


def _build_json_track(track: TranscribedTrack) -> dict[str, object]:
    return {
        "number": track.number,
        "language": track.language or None,
        "title": strip_controls(track.title) or None,
    }


def _round_numbers(values: Mapping[str, object]) -> dict[str, object]:
    return {
        name: _round_number(value) if isinstance(value, float) else value
        for name, value in values.items()
    }


def _round_number(value: float) -> float | None:
    """Round to thousandths; None for infinity and NaN, which JSON does not have."""
    return round(value, 3) if math.isfinite(value) else None


def _render_tsv(transcript: Transcript) -> str:
    """Times in milliseconds; a fourth column names the speaker, channel or track."""
    labels = [format_speaker(segment, transcript) for segment in transcript.segments]
    apart = any(labels)
    rows = ["start\tend\ttext" + "\tspeaker" * apart]
    for segment, label in zip(transcript.segments, labels, strict=True):
        row = f"{round(segment.start * 1000)}\t{round(segment.end * 1000)}\t{join_lines(segment.text)}"
        rows.append(row + f"\t{label}" * apart)
    return "\n".join(rows) + "\n"


def _render_lrc(transcript: Transcript) -> str:
    title = join_lines(transcript.source).replace("[", "(").replace("]", ")")
    lines = [
        (segment.start, _format_lrc_text(segment, transcript)) for segment in transcript.segments
    ]
    lines += [(start, " " + format_gap(start, end)) for start, end in transcript.gaps]
    body = [
        f"{_format_lrc_time(start)}{text}\n"
        for start, text in sorted(lines, key=lambda line: line[0])
        if text
    ]
    return "".join(
        [
            f"[ti:{title}]\n",
            "[re:speakeasyd]\n",
            f"[length:{format_clock(transcript.audio_seconds)}]\n",
            *body,
        ]
    )


def _format_lrc_text(segment: Segment, transcript: Transcript) -> str:
    text = join_lines(segment.text)
    if text and (speaker := format_speaker(segment, transcript)):
        text = f"{speaker}: {text}"
    return f" {text}" if text.startswith("[") else text  # players would read "[" as a tag


def _format_lrc_time(seconds: float) -> str:
    minutes, hundredths = divmod(round(max(0.0, seconds) * 100), 6000)
    return f"[{minutes:02}:{hundredths // 100:02}.{hundredths % 100:02}]"


def _render_docx(transcript: Transcript) -> bytes:
    # Imported when needed: the library is large and few users want the format
    from speakeasyd.domain.documents import render_docx  # noqa: PLC0415

    return render_docx(transcript)


_SUBTITLES = (
    "Subtitles: at most two lines of 42 columns (21 full-width characters), shown for one to "
    "seven seconds, at most 17 columns a second if there is time."
)
_DOCUMENT = (
    "A document with a header (language, model, length, warning) and paragraphs with their times."
)

FORMATS: dict[str, FormatSpec] = {
    spec.name: spec
    for spec in (
        FormatSpec(
            name="txt",
            media_type="text/plain",
            description="The text, a blank line between paragraphs. "
            "A new paragraph begins after two seconds of silence.",
            render=_render_txt,
        ),
        FormatSpec(
            name="srt",
            media_type="application/x-subrip",
            description=_SUBTITLES,
            render=subtitles.render_srt,
        ),
        FormatSpec(
            name="vtt",
            media_type="text/vtt",
            description=f"{_SUBTITLES} Speakers are marked as voices.",
            render=subtitles.render_vtt,
        ),
        FormatSpec(
            name="docx",
            media_type="application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            description=f"{_DOCUMENT} For word processors.",
            render=_render_docx,
        ),
        FormatSpec(
            name="md",
            media_type="text/markdown",
            description=_DOCUMENT,
            render=_render_md,
        ),
        FormatSpec(
            name="json",
            media_type="application/json",
            description="All data: see [json](#json).",
            render=_render_json,
            written_last=True,
        ),
        FormatSpec(
            name="tsv",
            media_type="text/tab-separated-values",
            description="`start`, `end` in milliseconds, `text`; with speakers, "
            '`channels = "split"` or several tracks also `speaker`.',
            render=_render_tsv,
        ),
        FormatSpec(
            name="rttm",
            media_type="text/plain",
            description="Who speaks when, one line for each turn, for tools that measure "
            "diarization. Empty unless [speakers](speakers.md) are told apart.",
            render=render_rttm,
            has_text=False,
        ),
        FormatSpec(
            name="lrc",
            media_type="text/plain",
            description="Lines with times, for music players.",
            render=_render_lrc,
        ),
    )
}
"""All formats by name, in the order in which they are offered."""
