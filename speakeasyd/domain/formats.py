"""A transcript as text in each format. `docs/formats.md` describes them to users; docx is `outbox.documents`."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict

from speakeasyd.domain import subtitles
from speakeasyd.domain.prose import clock, missing, one_line, paragraphs, printable, speaker
from speakeasyd.domain.transcript import Segment, Transcript

JSON_SCHEMA = "speakeasyd.transcript/1"
NO_SPEECH = "No speech was found."

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def render(transcript: Transcript, format: str) -> str:  # noqa: A002 - the word that users know it by
    """The whole file, lines ended by a line feed. Raises KeyError for a format that is not text."""
    return TEXT_FORMATS[format](transcript)


def head(transcript: Transcript) -> dict[str, str]:
    """What a document says of itself before the text, by label."""
    said = {
        "Language": transcript.language or "",
        "Model": transcript.model,
        "Length": clock(transcript.audio_seconds),
        "Received": transcript.created_at,
        "Warning": transcript.warning or "",
        **transcript.metadata,
    }
    return {one_line(label): one_line(value) for label, value in said.items() if value}


def _txt(transcript: Transcript) -> str:
    return "\n".join(f"{paragraph.spoken}\n" for paragraph in paragraphs(transcript))


def _md(transcript: Transcript) -> str:
    rows = [f"| {_literal(label)} | {_literal(value)} |" for label, value in head(transcript).items()]
    title = f"# {_literal(one_line(transcript.source))}"
    said = [f"**[{clock(p.start)}]** {_literal(p.spoken)}" for p in paragraphs(transcript)] or [f"*{NO_SPEECH}*"]
    return "\n\n".join([title, "\n".join(["| | |", "|---|---|", *rows]), *said]) + "\n"


def _literal(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return _MARKDOWN.sub(r"\\\1", text)


def _json(transcript: Transcript) -> str:
    document = {
        "schema": JSON_SCHEMA,
        "job_id": transcript.job_id,
        "source": printable(transcript.source),
        "language": transcript.language,
        "model": transcript.model,
        "audio_seconds": _number(transcript.audio_seconds),
        "created_at": transcript.created_at,
        "warning": transcript.warning,
        "metadata": transcript.metadata,
        "text": transcript.text,
        "segments": [_json_segment(number, segment) for number, segment in enumerate(transcript.segments)],
        "gaps": [{"start": _number(start), "end": _number(end)} for start, end in transcript.gaps],
    }
    text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)
    return text.encode("utf-8", "replace").decode() + "\n"


def _json_segment(number: int, segment: Segment) -> dict[str, object]:
    return {"id": number, **_numbers(asdict(segment)), "words": [_numbers(asdict(word)) for word in segment.words]}


def _numbers(values: Mapping[str, object]) -> dict[str, object]:
    return {name: _number(value) if isinstance(value, float) else value for name, value in values.items()}


def _number(value: float) -> float | None:
    """To the thousandth; JSON knows no infinity."""
    return round(value, 3) if math.isfinite(value) else None


def _tsv(transcript: Transcript) -> str:
    """Times in milliseconds; a fourth column names the speaker where channels are apart."""
    apart = any(segment.channel is not None for segment in transcript.segments)
    rows = ["start\tend\ttext" + "\tspeaker" * apart]
    for segment in transcript.segments:
        row = f"{round(segment.start * 1000)}\t{round(segment.end * 1000)}\t{one_line(segment.text)}"
        rows.append(row + f"\t{_speaker(segment)}" * apart)
    return "\n".join(rows) + "\n"


def _lrc(transcript: Transcript) -> str:
    title = one_line(transcript.source).replace("[", "(").replace("]", ")")
    lines = [(segment.start, _sung(segment)) for segment in transcript.segments]
    lines += [(start, " " + missing(start, end)) for start, end in transcript.gaps]
    body = [f"{_lrc_time(start)}{text}\n" for start, text in sorted(lines, key=lambda line: line[0]) if text]
    return "".join([f"[ti:{title}]\n", "[re:speakeasyd]\n", f"[length:{clock(transcript.audio_seconds)}]\n", *body])


def _sung(segment: Segment) -> str:
    text = one_line(segment.text)
    if text and segment.channel is not None:
        text = f"{_speaker(segment)}: {text}"
    return f" {text}" if text.startswith("[") else text  # else players would take it for a tag


def _speaker(segment: Segment) -> str:
    return "" if segment.channel is None else speaker(segment.channel)


def _lrc_time(seconds: float) -> str:
    minutes, hundredths = divmod(round(max(0.0, seconds) * 100), 6000)
    return f"[{minutes:02}:{hundredths // 100:02}.{hundredths % 100:02}]"


TEXT_FORMATS: Mapping[str, Callable[[Transcript], str]] = {
    "txt": _txt,
    "srt": subtitles.srt,
    "vtt": subtitles.vtt,
    "json": _json,
    "tsv": _tsv,
    "lrc": _lrc,
    "md": _md,
}
