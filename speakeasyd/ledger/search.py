"""Full-text search over what was said."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Connection, StaticPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from speakeasyd.errors import LedgerError, QueryError
from speakeasyd.ledger.access import open_for_reading

RANKED = 5_000  # matches that are put in order of how well they fit; of more, the newest come first
PASSED = 1_000  # segments of no interest that are read past as quickly as another look into the index is taken
STRETCH = 20_000  # segments to look through at first; twice as many each further time

TERMS = 32  # words and phrases of one search
PREFIXES = 8  # of them, those with a `*`
# Before the `*`, of an alphabet that has few: one letter stands for a good part of all words
PREFIX_LETTERS = 2

TIME = r"^\d{4}(-\d\d(-\d\d([T ][\d:.]*Z?)?)?)?$"
"""How a filter may say a time."""

_TERM = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))(\*?)')

_FILTERED = """
    jobs.id BETWEEN :first AND :last
    AND (:batch IS NULL OR jobs.batch = :batch)
    AND (:inbox IS NULL OR jobs.inbox = :inbox)
    AND (:preset IS NULL OR jobs.preset = :preset)
    AND jobs.superseded_by IS NULL
"""
_FOUND = f"""
    SELECT segments.job_id, jobs.path, segments.start_seconds, segments.end_seconds, segments.channel, jobs.created_at,
           snippet(segments_fts, 0, '[', ']', '…', 32)
    FROM segments_fts
    JOIN segments ON segments.id = segments_fts.rowid
    JOIN jobs ON jobs.id = segments.job_id
    WHERE segments_fts MATCH :words AND segments_fts.rowid BETWEEN :low AND :high
      AND (:channel IS NULL OR segments.channel = :channel) AND {_FILTERED}
"""  # noqa: S608 - constants
_BEST = text(f"{_FOUND} ORDER BY segments_fts.rank LIMIT :limit")
_NEWEST = text(f"{_FOUND} ORDER BY segments_fts.rowid DESC LIMIT :limit")
_COMMON = text("SELECT 1 FROM segments_fts WHERE segments_fts MATCH :words LIMIT 1 OFFSET :ranked")
_PLACES = text(f"""
    SELECT id,
           (SELECT min(id) FROM segments WHERE job_id = jobs.id),
           (SELECT max(id) FROM segments WHERE job_id = jobs.id)
    FROM jobs
    WHERE {_FILTERED} AND (:channel IS NULL OR json_extract(options, '$.channels') = 'split')
      AND EXISTS (SELECT 1 FROM segments WHERE job_id = jobs.id)
    ORDER BY id DESC
""")  # noqa: S608 - constants
_NEXT_JOB = text("SELECT created_at FROM jobs WHERE id >= :id ORDER BY id LIMIT 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFilters:
    """What a hit must be besides; None: whatever it is. Times are when the file was received, UTC.

    A time may be the beginning of one: with `2026-05` the whole month is meant.
    """

    since: str | None = None
    until: str | None = None
    batch: str | None = None
    inbox: str | None = None
    preset: str | None = None
    channel: int | None = None  # 0 is left


EVERYTHING = SearchFilters()


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A segment in which the words are said."""

    job_id: int
    path: str
    start: float  # seconds in the file
    end: float  # seconds in the file
    channel: int | None
    created_at: str  # when the file was received; UTC, ISO 8601
    snippet: str  # the words themselves in brackets


@dataclass(frozen=True, slots=True)
class _SegmentRange:
    """Jobs and segments, from this number to that."""

    first: int
    last: int
    low: int
    high: int


def search_file(
    path: Path, words: str, limit: int, filters: SearchFilters = EVERYTHING
) -> list[SearchHit]:
    """As `search_text`, beside a running daemon or without one; needs no right to write. Raises LedgerError."""
    with open_for_reading(path) as file:
        engine = create_engine("sqlite://", creator=lambda: file, poolclass=StaticPool)
        try:
            with engine.connect() as connection:
                return search_text(connection, words, limit, filters)
        except DBAPIError as error:
            raise LedgerError(f"the ledger {path} cannot be searched: {error.orig}") from error


def search_text(
    connection: Connection, words: str, limit: int, filters: SearchFilters = EVERYTHING
) -> list[SearchHit]:
    """Segments with all of these words, in any order, the best first; of common words, the newest first.

    `"in quotes"` words follow one another, `trans*` stands for all that begin so, `-not` must not be there. Nothing is
    missed, whatever the filters leave out.
    """
    query = build_match_expression(words)
    if not query:
        return []
    asked = (
        asdict(filters)
        | _find_received_range(connection, filters)
        | {"words": query, "low": 0, "high": 2**63 - 1}
    )
    if connection.scalar(_COMMON, asked | {"ranked": RANKED}) is None:
        return [SearchHit(*row) for row in connection.execute(_BEST, asked | {"limit": limit})]
    if filters == EVERYTHING:
        return [SearchHit(*row) for row in connection.execute(_NEWEST, asked | {"limit": limit})]
    hits: list[SearchHit] = []
    for stretch in _find_segment_ranges(connection, asked):
        found = connection.execute(_NEWEST, asked | asdict(stretch) | {"limit": limit - len(hits)})
        hits += [SearchHit(*row) for row in found]
        if len(hits) == limit:
            break
    return hits


def _find_segment_ranges(
    connection: Connection, asked: Mapping[str, object]
) -> Iterator[_SegmentRange]:
    """Where the segments of the jobs that pass the filters lie, the newest jobs first.

    Each job's lie close together, mostly, and those of the next job follow: neighbours are one stretch.
    """
    most = STRETCH
    one: _SegmentRange | None = None
    for job, low, high in connection.execute(_PLACES, asked):
        if (
            one
            and low - one.high <= PASSED
            and one.low - high <= PASSED
            and one.high - one.low < most
        ):
            one = _SegmentRange(job, one.last, min(low, one.low), max(high, one.high))
            continue
        if one:
            yield one
            most *= 2
        one = _SegmentRange(job, job, low, high)
    if one:
        yield one


def _find_received_range(connection: Connection, filters: SearchFilters) -> dict[str, int]:
    """The jobs of that time, first to last: their numbers grow with time, so that halving finds them."""
    newest = connection.scalar(text("SELECT max(id) FROM jobs")) or 0

    def created(number: int) -> str:
        return connection.scalar(_NEXT_JOB, {"id": number}) or "~"

    def place(time: str) -> int:
        return bisect_left(range(newest + 1), time.replace(" ", "T"), key=created)

    first = place(filters.since) if filters.since else 0
    last = place(filters.until + "~") - 1 if filters.until else newest
    return {"first": first, "last": last}


def build_match_expression(words: str) -> str:
    """In the query language of FTS5, whatever a person types; empty where there is nothing to look for.

    Raises QueryError for a search that would take very long.
    """
    terms = list(_parse_terms(words))
    _require_cheap(terms)
    wanted: list[str] = []
    unwanted: list[str] = []
    for excluded, term in terms:
        (unwanted if excluded else wanted).append(term)
    if not wanted:
        return ""
    return " AND ".join(wanted) + "".join(f" NOT {term}" for term in unwanted)


def _require_cheap(terms: Sequence[tuple[bool, str]]) -> None:
    prefixes = [term for _, term in terms if term.endswith("*")]
    if len(terms) > TERMS:
        raise QueryError(f"a search has {TERMS} words at most; these are {len(terms)}")
    if len(prefixes) > PREFIXES:
        raise QueryError(
            f"a search has {PREFIXES} words with a * at most; these are {len(prefixes)}"
        )
    short = next(
        (one for one in prefixes if one.isascii() and len(one.split('"')[1]) < PREFIX_LETTERS), None
    )
    if short:
        raise QueryError(
            f"{short.replace(' ', '')} stands for too many words",
            hint="Two letters before the * do.",
        )


def _parse_terms(words: str) -> Iterator[tuple[bool, str]]:
    """Whether it must not be there, and the term: quoted, so that nothing in it is taken for an operator."""
    for minus, quoted, bare, star in _TERM.findall(words.replace("\0", " ")):
        told = quoted or bare.rstrip("*")
        if any(character.isalnum() for character in told):
            yield bool(minus), f'"{told}"' + (" *" if star or bare.endswith("*") else "")
