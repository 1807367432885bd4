"""Full-text search over what was said."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

_SEARCH = text("""
    SELECT segments.job_id, jobs.path, segments.start_seconds, segments.end_seconds,
           snippet(segments_fts, 0, '[', ']', '…', 32) AS snippet
    FROM segments_fts
    JOIN segments ON segments.id = segments_fts.rowid
    JOIN jobs ON jobs.id = segments.job_id
    WHERE segments_fts MATCH :words ORDER BY segments_fts.rank LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class Hit:
    """A segment in which the words are said."""

    job_id: int
    path: str
    start: float  # seconds in the file
    end: float  # seconds in the file
    snippet: str  # the words themselves in brackets


def search(connection: Connection, words: str, limit: int) -> list[Hit]:
    """Segments with all of these words, in any order; a word that ends in `*` stands for all that begin so."""
    rows = connection.execute(_SEARCH, {"words": _phrase(words), "limit": limit})
    return [Hit(*row) for row in rows]


def _phrase(words: str) -> str:
    """Every word quoted, so that none is taken for an operator of the query language."""
    return " ".join(_quoted(word) for word in words.split()) or '""'


def _quoted(word: str) -> str:
    stem = word.rstrip("*")
    quoted = '"' + stem.replace('"', '""') + '"'
    return quoted + "*" if stem != word and stem else quoted
