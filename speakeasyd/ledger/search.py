"""Full-text search over what was said."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, text

RANKED = 20_000  # matches that are put in order of how well they fit; of more, the newest come first
EXAMINED = 100_000  # matches that are held against the filters, at most, the newest of them

TIME = r"^\d{4}(-\d\d(-\d\d([T ][\d:.]*Z?)?)?)?$"
"""How a filter may say a time."""

_TERM = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))(\*?)')

_FOUND = """
    SELECT segments.job_id, jobs.path, segments.start_seconds, segments.end_seconds, segments.channel, jobs.created_at,
           snippet(segments_fts, 0, '[', ']', '…', 32)
    FROM segments_fts
    JOIN segments ON segments.id = segments_fts.rowid
    JOIN jobs ON jobs.id = segments.job_id
    WHERE segments_fts MATCH :words AND segments_fts.rowid BETWEEN :low AND :high
      AND jobs.id BETWEEN :first AND :last
      AND (:batch IS NULL OR jobs.batch = :batch)
      AND (:inbox IS NULL OR jobs.inbox = :inbox)
      AND (:preset IS NULL OR jobs.preset = :preset)
      AND (:channel IS NULL OR segments.channel = :channel)
    ORDER BY {} LIMIT :limit
"""
_BEST = text(_FOUND.format("segments_fts.rank"))
_NEWEST = text(_FOUND.format("segments_fts.rowid DESC"))
_NTH = text("""
    SELECT rowid FROM segments_fts WHERE segments_fts MATCH :words AND rowid BETWEEN :low AND :high
    ORDER BY rowid DESC LIMIT 1 OFFSET :n
""")
_SEGMENTS = text("SELECT min(id), max(id) FROM segments WHERE job_id BETWEEN :first AND :last")
_NEXT_JOB = text("SELECT created_at FROM jobs WHERE id >= :id ORDER BY id LIMIT 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a hit must be besides; None: whatever it is. Times are when the file was received, UTC.

    A time may be the beginning of one: with `2026-05` the whole month is meant.
    """

    since: str | None = None
    until: str | None = None
    batch: str | None = None
    inbox: str | None = None
    preset: str | None = None
    channel: int | None = None  # 0 is left


EVERYTHING = Filters()


@dataclass(frozen=True, slots=True)
class Hit:
    """A segment in which the words are said."""

    job_id: int
    path: str
    start: float  # seconds in the file
    end: float  # seconds in the file
    channel: int | None
    created_at: str  # when the file was received; UTC, ISO 8601
    snippet: str  # the words themselves in brackets


def search(connection: Connection, words: str, limit: int, filters: Filters = EVERYTHING) -> list[Hit]:
    """Segments with all of these words, in any order, the best first; of very common words, the newest first.

    `"in quotes"` words follow one another, `trans*` stands for all that begin so, `-not` must not be there. Measured
    over a million segments: up to 0.1 s, but for beginnings of one or two letters.
    """
    query = phrase(words)
    jobs = _received(connection, filters)
    low, high = connection.execute(_SEGMENTS, jobs).one() if filters.since or filters.until else (0, 2**63 - 1)
    if not query or low is None:
        return []
    asked = asdict(filters) | jobs | {"words": query, "low": low, "high": high, "limit": limit}
    common = connection.scalar(_NTH, asked | {"n": RANKED}) is not None
    if common and filters != EVERYTHING:
        asked["low"] = connection.scalar(_NTH, asked | {"n": EXAMINED}) or low
    return [Hit(*row) for row in connection.execute(_NEWEST if common else _BEST, asked)]


def _received(connection: Connection, filters: Filters) -> dict[str, int]:
    """The jobs of that time, first to last: their numbers grow with time, so that halving finds them."""
    newest = connection.scalar(text("SELECT max(id) FROM jobs")) or 0

    def created(number: int) -> str:
        return connection.scalar(_NEXT_JOB, {"id": number}) or "~"

    first = bisect_left(range(newest + 1), filters.since, key=created) if filters.since else 0
    last = bisect_left(range(newest + 1), filters.until + "~", key=created) - 1 if filters.until else newest
    return {"first": first, "last": last}


def phrase(words: str) -> str:
    """In the query language of FTS5, whatever a person types; empty where there is nothing to look for."""
    wanted: list[str] = []
    unwanted: list[str] = []
    for excluded, term in _terms(words):
        (unwanted if excluded else wanted).append(term)
    if not wanted:
        return ""
    return " AND ".join(wanted) + "".join(f" NOT {term}" for term in unwanted)


def _terms(words: str) -> Iterator[tuple[bool, str]]:
    """Whether it must not be there, and the term: quoted, so that nothing in it is taken for an operator."""
    for minus, quoted, bare, star in _TERM.findall(words.replace("\0", " ")):
        told = quoted or bare.rstrip("*")
        if any(character.isalnum() for character in told):
            yield bool(minus), f'"{told}"' + (" *" if star or bare.endswith("*") else "")
