"""The contract of every registered output format."""

import asyncio
import re
from dataclasses import replace

import pytest
from pydantic import ValidationError

from speakeasyd.domain.diarization import Speaker, SpeakerTurn
from speakeasyd.domain.formats import FORMATS, FormatSpec, render_markdown_table
from speakeasyd.domain.notifications import check_command
from speakeasyd.domain.options import Options
from speakeasyd.domain.tracks import split_transcript
from speakeasyd.domain.transcript import (
    Segment,
    TranscribedTrack,
    Transcript,
    WarningKind,
    Word,
)
from speakeasyd.server.status import list_formats
from speakeasyd.services.publisher import _render_formats
from tests.conftest import REPOSITORY

EMPTY = Transcript(1, "silence.ogg", None, "tiny.en", 5.0)


def build_transcript(
    *texts: str, source: str = "talk.mp3", channels: tuple[int | None, ...] = ()
) -> Transcript:
    """Return a transcript with these segments of two seconds each."""
    segments = (
        Segment(2.0 * number, 2.0 * number + 2, text, -0.2, 1.1, 0.01, channel)
        for number, (text, channel) in enumerate(
            zip(texts, channels or [None] * len(texts), strict=True)
        )
    )
    return Transcript(7, source, "en", "small", 60.0, tuple(segments), created_at="2026-01-31")


WITH_WORDS = replace(
    build_transcript(),
    segments=(
        Segment(
            *(0.5, 2.5, " Good morning.", -0.2, 1.1, 0.01),
            words=(Word(0.5, 1.0, " Good", 0.9), Word(1.0, 2.5, " morning.", 0.4)),
        ),
    ),
)
UNICODE = build_transcript(
    " Grüße, 日本語。", " 👩🏽‍🚀 مرحبا بكم", " e\u0301 안녕하세요", source="Übung №1.mp3"
)
LANGUAGES = replace(
    WITH_WORDS,
    language=None,
    segments=(
        Segment(0.0, 2.0, " Good morning.", -0.2, 1.1, 0.01, language="en"),
        Segment(2.0, 4.0, " Guten Morgen.", None, None, None, language="de"),
    ),
)
TRACKS = replace(
    LANGUAGES,
    segments=tuple(
        replace(segment, track=number) for number, segment in enumerate(LANGUAGES.segments, 1)
    ),
    tracks=(TranscribedTrack(1, "eng", "Stage"), TranscribedTrack(2, "deu")),
)
SPEAKERS = replace(
    LANGUAGES,
    segments=tuple(
        replace(segment, speaker=number) for number, segment in enumerate(LANGUAGES.segments, 1)
    ),
    speakers=(Speaker(1, 2.0, 2, name="Anna B."), Speaker(2, 2.5, 2, name="\x1b[2J\r\n --> 1")),
    turns=(SpeakerTurn(0.0, 2.0, 1), SpeakerTurn(1.5, 4.0, 2, overlap=True)),
)
[FIRST_TRACK, _] = split_transcript(TRACKS).values()
WARNED = replace(
    build_transcript(" Before."),
    warning="the file is cut",
    warning_kinds=frozenset({WarningKind.CUT}),
    gaps=((10.0, 35.0),),
    metadata={"Room": "4"},
)
HOSTILE_TEXTS = (
    "\0\x07\x1b[2J\r\n\t\x0b\x85\u2028\u2029\ufeff\ud800",
    " a\n\n2\n0:01 --> 0:02\nforged\n",
    " [00:01.00]x <b>&amp;</b> | \\ ``` # *",
)
HOSTILE = replace(
    build_transcript(*HOSTILE_TEXTS, source=HOSTILE_TEXTS[0]),
    warning=HOSTILE_TEXTS[1],
    metadata={HOSTILE_TEXTS[0]: HOSTILE_TEXTS[1]},
)
EXAMPLES = {
    "empty": EMPTY,
    "words": WITH_WORDS,
    "unicode": UNICODE,
    "languages": LANGUAGES,
    "tracks": TRACKS,
    "one track": FIRST_TRACK,
    "speakers": SPEAKERS,
    "channels": build_transcript(" Hello?", " Who is there?", channels=(0, 1)),
    "warnings and gaps": WARNED,
    "control characters": HOSTILE,
    "not finite": replace(
        build_transcript(), segments=(Segment(0, 1, " Hm.", float("-inf"), float("nan"), 0),)
    ),
}

every_format = pytest.mark.parametrize("spec", FORMATS.values(), ids=lambda spec: spec.name)
every_example = pytest.mark.parametrize("transcript", EXAMPLES.values(), ids=EXAMPLES)


@every_format
def test_the_registry_entry_is_complete(spec: FormatSpec) -> None:
    assert FORMATS[spec.name] is spec
    assert re.fullmatch("[a-z0-9]+", spec.name), "it is the ending of a file and a field of hooks"
    assert re.fullmatch(r"[a-z]+/[\w.+-]+", spec.media_type)
    assert spec.description.endswith(".")
    assert "\n" not in spec.description


@every_format
@every_example
def test_equal_transcripts_give_equal_files(spec: FormatSpec, transcript: Transcript) -> None:
    content = spec.render(transcript)
    assert isinstance(content, str | bytes)
    assert isinstance(content, type(spec.render(EMPTY))), "a format is either text or binary"
    assert spec.render(replace(transcript)) == content
    assert spec.render_file(transcript) == (
        content.encode("utf-8", "replace") if isinstance(content, str) else content
    )


@every_format
@every_example
def test_text_has_complete_lines_and_no_control_characters(
    spec: FormatSpec, transcript: Transcript
) -> None:
    text = spec.render(transcript)
    if isinstance(text, bytes):
        assert text, "a binary file is never empty"
        return
    assert text == "" or (text.endswith("\n") and not text.endswith("\n\n"))
    assert text.encode().decode() == text, "it has no lone surrogates"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)


@every_format
@pytest.mark.parametrize("hostile", HOSTILE_TEXTS)
def test_a_text_cannot_add_lines_or_columns(spec: FormatSpec, hostile: str) -> None:
    harmless = spec.render(build_transcript(" Yes.", " No."))
    attacked = spec.render(build_transcript(" Yes.", " No" + hostile))
    if isinstance(harmless, str) and isinstance(attacked, str):
        assert attacked.count("\n") == harmless.count("\n")
        assert attacked.count("\t") == harmless.count("\t")


@every_format
def test_every_text_is_in_the_file(spec: FormatSpec) -> None:
    content = spec.render(TRACKS)
    if isinstance(content, str) and spec.has_text:
        assert content.index("Good morning.") < content.index("Guten Morgen.")


def test_the_documentation_has_the_table_of_the_registry() -> None:
    page = (REPOSITORY / "docs" / "formats.md").read_text(encoding="utf-8")
    assert render_markdown_table() in page


def test_a_format_that_is_not_registered_is_refused() -> None:
    with pytest.raises(ValidationError, match="'txt', 'srt'"):
        Options(formats=("toy",))


def test_a_registered_format_needs_no_other_change(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = FormatSpec(
        name="toy",
        media_type="text/x-toy",
        description="One line for each segment.",
        render=lambda transcript: "".join(f"{one.text}\n" for one in transcript.segments),
    )
    monkeypatch.setitem(FORMATS, "toy", toy)
    options = Options.model_validate({"formats": ["toy", "json"]})
    assert "toy" in Options.model_json_schema()["properties"]["formats"]["items"]["enum"]
    files = _render_formats(TRACKS, options.formats)
    assert list(files) == ["eng.toy", "deu.toy", "eng.json", "deu.json"]
    assert files["deu.toy"] == b" Guten Morgen.\n"
    assert check_command(["print", "{toy}"])
    assert "| `toy` | One line for each segment. |" in render_markdown_table()
    listed = asyncio.run(list_formats()).formats
    assert (listed[-1].name, listed[-1].media_type) == ("toy", "text/x-toy")
