"""A transcript as a Word document: the same transcript gives the same bytes."""

import io
import zipfile
from datetime import datetime

import docx
from docx.document import Document
from docx.shared import RGBColor

from speakeasyd.domain.formats import NO_SPEECH, build_head
from speakeasyd.domain.readable_text import Paragraph, build_paragraphs, format_clock, join_lines
from speakeasyd.domain.transcript import Transcript

_FAINT = RGBColor(0x80, 0x80, 0x80)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a zip archive can hold


def render_docx(transcript: Transcript) -> bytes:
    """The whole file."""
    document = docx.Document()
    _set_properties(document, transcript)
    document.add_heading(join_lines(transcript.source), level=1)
    _add_head(document, build_head(transcript))
    paragraphs = list(build_paragraphs(transcript))
    for paragraph in paragraphs:
        _add_paragraph(document, paragraph)
    if not paragraphs:
        document.add_paragraph().add_run(NO_SPEECH).italic = True
    packed = io.BytesIO()
    document.save(packed)
    return _normalize_dates(packed)


def _set_properties(document: Document, transcript: Transcript) -> None:
    """Properties that depend on nothing but the transcript."""
    properties = document.core_properties
    properties.author = properties.last_modified_by = "speakeasyd"
    properties.title = join_lines(transcript.source)[:255]
    properties.comments = ""
    properties.language = transcript.language or ""
    if transcript.created_at:
        properties.created = properties.modified = datetime.fromisoformat(
            transcript.created_at
        ).replace(tzinfo=None)


def _add_head(document: Document, rows: dict[str, str]) -> None:
    table = document.add_table(rows=0, cols=2)
    for label, value in rows.items():
        cells = table.add_row().cells
        cells[0].text, cells[1].text = label, value
    document.add_paragraph()


def _add_paragraph(document: Document, paragraph: Paragraph) -> None:
    line = document.add_paragraph()
    line.add_run(f"{format_clock(paragraph.start)}  ").font.color.rgb = _FAINT
    line.add_run(paragraph.spoken).italic = paragraph.gap


def _normalize_dates(packed: io.BytesIO) -> bytes:
    """The same archive with every member dated alike."""
    out = io.BytesIO()
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name, _EPOCH), old.read(name), zipfile.ZIP_DEFLATED)
    return out.getvalue()
