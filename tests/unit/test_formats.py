"""The exact output of every format, and arbitrary text in each of them."""

import io
import json
import zipfile

import docx
from hypothesis import given, settings
from hypothesis import strategies as st

from speakeasyd.domain.documents import render_docx
from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.transcript import Segment, Transcript, Word


def build_segment(
    start: float, end: float, text: str, *, channel: int | None = None, words: tuple[Word, ...] = ()
) -> Segment:
    return Segment(start, end, text, -0.25, 1.1, 0.0123456, channel, words, confidence=0.75)


MEMO = Transcript(
    job_id=7,
    source="memo [1].mp3",
    language="en",
    model="tiny.en",
    audio_seconds=3725.04,
    segments=(
        build_segment(
            0.0,
            2.5,
            " Buy milk,",
            words=(Word(0.0, 1.0, " Buy", 0.5), Word(1.0, 2.5, " milk,", 0.75)),
        ),
        build_segment(2.5, 4.0, " and *bread*."),
        build_segment(9.0, 10.25, "\tCall\nBob & <Ann>."),
    ),
    gaps=((60.0, 85.0),),
    warning="the file is cut",
    created_at="2026-01-31T10:00:00.000Z",
)
CALL = Transcript(
    job_id=8,
    source="call.wav",
    language="de",
    model="small",
    audio_seconds=6.0,
    segments=(
        build_segment(0, 1, " Hallo.", channel=0),
        build_segment(1, 2, " Wer da?", channel=1),
        build_segment(2, 3, " Ich.", channel=0),
    ),
)
EMPTY = Transcript(9, "silence.ogg", None, "tiny.en", 5.0)


def render_text(transcript: Transcript, name: str) -> str:
    return FORMATS[name].render_file(transcript).decode()


def test_txt() -> None:
    assert render_text(MEMO, "txt") == (
        "Buy milk, and *bread*.\n\nCall Bob & <Ann>.\n\n[gap 01:00-01:25: could not be transcribed]\n"
    )
    assert render_text(CALL, "txt") == "Left: Hallo.\n\nRight: Wer da?\n\nLeft: Ich.\n"
    assert render_text(EMPTY, "txt") == ""


def test_speech_without_pauses_is_split_at_sentences() -> None:
    lecture = [
        build_segment(start, start + 1, f" Sentence number {start} ends here.")
        for start in range(100)
    ]
    parts = render_text(Transcript(1, "a", "en", "m", 100.0, tuple(lecture)), "txt").split("\n\n")
    assert len(parts) == 5
    assert all(part.strip().endswith("here.") for part in parts)


def test_tsv() -> None:
    assert render_text(MEMO, "tsv") == (
        "start\tend\ttext\n0\t2500\tBuy milk,\n2500\t4000\tand *bread*.\n9000\t10250\tCall Bob & <Ann>.\n"
    )
    assert render_text(CALL, "tsv").splitlines()[:2] == [
        "start\tend\ttext\tspeaker",
        "0\t1000\tHallo.\tLeft",
    ]
    assert render_text(EMPTY, "tsv") == "start\tend\ttext\n"


def test_lrc() -> None:
    assert render_text(MEMO, "lrc") == (
        "[ti:memo (1).mp3]\n[re:speakeasyd]\n[length:1:02:05]\n"
        "[00:00.00]Buy milk,\n[00:02.50]and *bread*.\n[00:09.00]Call Bob & <Ann>.\n"
        "[01:00.00] [gap 01:00-01:25: could not be transcribed]\n"
    )
    assert "[00:01.00]Right: Wer da?\n" in render_text(CALL, "lrc")


def test_md() -> None:
    assert render_text(MEMO, "md") == (
        "# memo \\[1\\].mp3\n\n"
        "| | |\n|---|---|\n| Language | en |\n| Model | tiny.en |\n| Length | 1:02:05 |\n"
        "| Received | 2026-01-31T10:00:00.000Z |\n| Warning | the file is cut |\n\n"
        "**[00:00]** Buy milk, and \\*bread\\*.\n\n"
        "**[00:09]** Call Bob \\& \\<Ann\\>.\n\n"
        "**[01:00]** \\[gap 01:00-01:25: could not be transcribed\\]\n"
    )
    assert render_text(EMPTY, "md").endswith("*No speech was found.*\n")


def test_json_has_all_fields() -> None:
    document = json.loads(render_text(MEMO, "json"))
    assert list(document) == [
        "schema",
        "job_id",
        "source",
        "language",
        "track",
        "model",
        "audio_seconds",
        "created_at",
        "warning",
        "metadata",
        "text",
        "segments",
        "speakers",
        "turns",
        "gaps",
    ]
    assert document["schema"] == "speakeasyd.transcript/1"
    assert document["warning"] == "the file is cut"
    assert document["gaps"] == [{"start": 60.0, "end": 85.0}]
    assert document["segments"][0] == {
        "id": 0,
        "start": 0.0,
        "end": 2.5,
        "text": " Buy milk,",
        "avg_logprob": -0.25,
        "compression_ratio": 1.1,
        "no_speech_prob": 0.012,
        "confidence": 0.75,
        "channel": None,
        "language": None,
        "track": None,
        "speaker": None,
        "words": [
            {"start": 0.0, "end": 1.0, "text": " Buy", "probability": 0.5, "speaker": None},
            {"start": 1.0, "end": 2.5, "text": " milk,", "probability": 0.75, "speaker": None},
        ],
    }
    assert json.loads(render_text(EMPTY, "json"))["segments"] == []


def test_json_has_no_infinity() -> None:
    odd = Segment(0.0, 1.0, " Hm.", float("-inf"), float("nan"), 0.0)
    [written] = json.loads(render_text(Transcript(1, "a", "en", "m", 1.0, (odd,)), "json"))[
        "segments"
    ]
    assert (written["avg_logprob"], written["compression_ratio"]) == (None, None)


def test_equal_transcripts_give_equal_docx_files() -> None:
    data = render_docx(MEMO)
    document = docx.Document(io.BytesIO(data))
    texts = [paragraph.text for paragraph in document.paragraphs if paragraph.text]
    assert texts == [
        "memo [1].mp3",
        "00:00  Buy milk, and *bread*.",
        "00:09  Call Bob & <Ann>.",
        "01:00  [gap 01:00-01:25: could not be transcribed]",
    ]
    assert [row.cells[1].text for row in document.tables[0].rows] == [
        "en",
        "tiny.en",
        "1:02:05",
        "2026-01-31T10:00:00.000Z",
        "the file is cut",
    ]
    assert render_docx(MEMO) == data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}


def test_a_docx_without_speech_has_a_note() -> None:
    assert "No speech" in docx.Document(io.BytesIO(render_docx(EMPTY))).paragraphs[-1].text


ANY_TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=()), st.sampled_from("\0\x1b\r\n\t\x85\u2028\ud800[]|-->")
    )
)


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(ANY_TEXT, max_size=4), source=ANY_TEXT, channel=st.sampled_from([None, 0, 5]))
def test_no_text_breaks_a_format(texts: list[str], source: str, channel: int | None) -> None:
    segments = tuple(
        build_segment(start, start + 1, text, channel=channel) for start, text in enumerate(texts)
    )
    transcript = Transcript(1, source, "en", "m", 10.0, segments, warning=source)
    rows = render_text(transcript, "tsv").removesuffix("\n").split("\n")
    assert {row.count("\t") for row in rows} == {2 if channel is None or not texts else 3}
    assert len(rows) == 1 + len(texts)
    assert len(json.loads(render_text(transcript, "json"))["segments"]) == len(texts)
    assert all(line.startswith("[") for line in render_text(transcript, "lrc").splitlines())
    docx.Document(io.BytesIO(render_docx(transcript)))
