"""Full-text search over the transcripts."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Connection, StaticPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from speakeasyd.errors import LedgerError, QueryError
from speakeasyd.ledger.access import open_for_reading

RANKED = 5_000  # most matches that are ranked; of more matches, the newest come first
SKIPPED = (
    1_000  # segments outside the filters that are skipped at the cost of one more index lookup
)
FIRST_RANGE = 20_000  # segments searched at first; doubled each time

TERMS = 32  # most words and phrases of a search
PREFIXES = 8  # most of them that may have a `*`
# Least letters before the `*` in a Latin script: one letter matches a large part of all words
PREFIX_LETTERS = 2

TIME = r"^\d{4}(-\d\d(-\d\d([T ][\d:.]*Z?)?)?)?$"
"""The format of a time in a filter."""

_TERM = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))(\*?)')

_FILTERED = """
    jobs.id BETWEEN :first AND :last
    AND (:batch IS NULL OR jobs.batch = :batch)
    AND (:inbox IS NULL OR jobs.inbox = :inbox)
    AND (:preset IS NULL OR jobs.preset = :preset)
    AND jobs.superseded_by IS NULL
"""
_FOUND = f"""
    SELECT segments.job_id, jobs.path, segments.start_seconds, segments.end_seconds,
           segments.channel, jobs.created_at, snippet(segments_fts, 0, '[', ']', '…', 32)
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
    """Filters of a search; None: any value. Times are those of reception, in UTC.

    A time may be a prefix: `2026-05` is the whole month.
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
    """A segment that contains the words."""

    job_id: int
    path: str
    start: float  # seconds in the file
    end: float  # seconds in the file
    channel: int | None
    created_at: str  # when the file was received; UTC, ISO 8601
    snippet: str  # text around the words, which are in brackets


@dataclass(frozen=True, slots=True)
class _SegmentRange:
    """A range of job ids (`first` to `last`) and of segment ids (`low` to `high`)."""

    first: int
    last: int
    low: int
    high: int


def search_file(
    path: Path, words: str, limit: int, filters: SearchFilters = EVERYTHING
) -> list[SearchHit]:
    """As `search_text`, with or without a running daemon; needs no right to write.

    Raises LedgerError if the ledger cannot be read, QueryError.
    """
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
    """Return segments with all of these words, best first; of very common words, newest first.

    `"in quotes"`: a phrase; `trans*`: a prefix; `-not`: must not occur. The filters never hide a
    match. Raises QueryError for a search that is too expensive.
    """
    query = build_match_expression(words)
    if not query:
        return []
    parameters = (
        asdict(filters)
        | _find_received_range(connection, filters)
        | {"words": query, "low": 0, "high": 2**63 - 1}
    )
    if connection.scalar(_COMMON, parameters | {"ranked": RANKED}) is None:
        return [SearchHit(*row) for row in connection.execute(_BEST, parameters | {"limit": limit})]
    if filters == EVERYTHING:
        return [
            SearchHit(*row) for row in connection.execute(_NEWEST, parameters | {"limit": limit})
        ]
    hits: list[SearchHit] = []
    for segment_range in _find_segment_ranges(connection, parameters):
        bounds = asdict(segment_range) | {"limit": limit - len(hits)}
        rows = connection.execute(_NEWEST, parameters | bounds)
        hits += [SearchHit(*row) for row in rows]
        if len(hits) == limit:
            break
    return hits


def _find_segment_ranges(
    connection: Connection, parameters: Mapping[str, object]
) -> Iterator[_SegmentRange]:
    """Yield the segment ranges of the jobs that pass the filters, newest first.

    The segments of a job are mostly adjacent, and those of the next job follow: neighbouring jobs
    are merged into one range.
    """
    max_size = FIRST_RANGE
    current: _SegmentRange | None = None
    for job, low, high in connection.execute(_PLACES, parameters):
        if (
            current
            and low - current.high <= SKIPPED
            and current.low - high <= SKIPPED
            and current.high - current.low < max_size
        ):
            current = _SegmentRange(
                job, current.last, min(low, current.low), max(high, current.high)
            )
            continue
        if current:
            yield current
            max_size *= 2
        current = _SegmentRange(job, job, low, high)
    if current:
        yield current


def _find_received_range(connection: Connection, filters: SearchFilters) -> dict[str, int]:
    """Return the first and the last job of the filters' period, found by bisection.

    Job ids grow with time.
    """
    newest = connection.scalar(text("SELECT max(id) FROM jobs")) or 0

    def created(number: int) -> str:
        return connection.scalar(_NEXT_JOB, {"id": number}) or "~"

    def find_first(time: str) -> int:
        return bisect_left(range(newest + 1), time.replace(" ", "T"), key=created)

    first = find_first(filters.since) if filters.since else 0
    last = find_first(filters.until + "~") - 1 if filters.until else newest
    return {"first": first, "last": last}


def build_match_expression(words: str) -> str:
    """Return the FTS5 query for a user's input; empty if it has no word.

    Raises QueryError for a search that is too expensive.
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
        raise QueryError(f"a search may have {TERMS} words; this one has {len(terms)}")
    if len(prefixes) > PREFIXES:
        raise QueryError(
            f"a search may have {PREFIXES} words with a *; this one has {len(prefixes)}"
        )
    short = next(
        (
            prefix
            for prefix in prefixes
            if prefix.isascii() and len(prefix.split('"')[1]) < PREFIX_LETTERS
        ),
        None,
    )
    if short:
        raise QueryError(
            f"{short.replace(' ', '')} matches too many words",
            hint="Put at least two letters before the *.",
        )


def _parse_terms(words: str) -> Iterator[tuple[bool, str]]:
    """Yield whether a term is excluded, and the term, quoted so that it contains no operator."""
    for minus, quoted, bare, star in _TERM.findall(words.replace("\0", " ")):
        term = quoted or bare.rstrip("*")
        if any(character.isalnum() for character in term):
            yield bool(minus), f'"{term}"' + (" *" if star or bare.endswith("*") else "")
