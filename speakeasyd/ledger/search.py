"""Full-text search over the transcripts."""

import re
from bisect import bisect_left
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from speakeasyd.errors import QueryError
from speakeasyd.ledger.rows import ReadConnection, fetch_rows, fetch_value, stream_rows

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
_SPEAKER = """(
    SELECT coalesce(nullif(value ->> 'name', ''), 'Speaker ' || (value ->> 'number'))
    FROM chunks JOIN json_each(jobs.speakers)
    ON value ->> 'number' = chunks.speaker_numbers ->> segments.local_speaker
    WHERE chunks.job_id = segments.job_id AND chunks.number = segments.chunk
)"""
"""SQL expression: the name of who speaks in a segment."""
_FOUND = f"""
    SELECT segments.job_id, jobs.path, segments.start_seconds AS start, segments.end_seconds AS "end",
           segments.channel, jobs.created_at,
           snippet(segments_fts, 0, '[', ']', '…', 32) AS snippet, {_SPEAKER} AS speaker
    FROM segments_fts
    JOIN segments ON segments.id = segments_fts.rowid
    JOIN jobs ON jobs.id = segments.job_id
    WHERE segments_fts MATCH :words AND segments_fts.rowid BETWEEN :low AND :high
      AND (:channel IS NULL OR segments.channel = :channel)
      AND (:speaker IS NULL OR instr(lower({_SPEAKER}), lower(:speaker))) AND {_FILTERED}
"""  # noqa: S608 - constants
_BEST = f"{_FOUND} ORDER BY segments_fts.rank LIMIT :limit"
_NEWEST = f"{_FOUND} ORDER BY segments_fts.rowid DESC LIMIT :limit"
_COMMON = "SELECT 1 FROM segments_fts WHERE segments_fts MATCH :words LIMIT 1 OFFSET :ranked"
_PLACES = f"""
    SELECT id,
           (SELECT min(id) FROM segments WHERE job_id = jobs.id) AS low,
           (SELECT max(id) FROM segments WHERE job_id = jobs.id) AS high
    FROM jobs
    WHERE {_FILTERED} AND (:channel IS NULL OR json_extract(options, '$.channels') = 'split')
      AND (:speaker IS NULL OR EXISTS (
          SELECT 1 FROM json_each(jobs.speakers) WHERE instr(
              lower(coalesce(nullif(value ->> 'name', ''), 'Speaker ' || (value ->> 'number'))),
              lower(:speaker)
          )
      ))
      AND EXISTS (SELECT 1 FROM segments WHERE job_id = jobs.id)
    ORDER BY id DESC
"""  # noqa: S608 - constants
_NEXT_JOB = "SELECT created_at FROM jobs WHERE id >= :id ORDER BY id LIMIT 1"


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
    speaker: str | None = None  # a part of the name; upper and lower case are the same


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
    speaker: str | None = None  # who says it


@dataclass(frozen=True, slots=True)
class _SegmentRange:
    """A range of job ids (`first` to `last`) and of segment ids (`low` to `high`)."""

    first: int
    last: int
    low: int
    high: int


def search_text(
    connection: ReadConnection,
    words: str,
    *,
    limit: int = 20,
    offset: int = 0,
    filters: SearchFilters = EVERYTHING,
) -> list[SearchHit]:
    """Return segments with all of these words, best first; of very common words, newest first.

    `"in quotes"`: a phrase; `trans*`: a prefix; `-not`: must not occur. The filters never hide a
    match. `offset`: hits to leave out. Raises QueryError for a search that is too expensive.
    """
    return _find_first_hits(connection, words, offset + limit, filters)[offset:]


def _find_first_hits(
    connection: ReadConnection, words: str, limit: int, filters: SearchFilters
) -> list[SearchHit]:
    query = build_match_expression(words)
    if not query:
        return []
    parameters = (
        asdict(filters)
        | _find_received_range(connection, filters)
        | {"words": query, "low": 0, "high": 2**63 - 1, "limit": limit}
    )
    if fetch_value(connection, _COMMON, parameters | {"ranked": RANKED}) is None:
        return _fetch_hits(connection, _BEST, parameters)
    if filters == EVERYTHING:
        return _fetch_hits(connection, _NEWEST, parameters)
    hits: list[SearchHit] = []
    with closing(_find_segment_ranges(connection, parameters)) as ranges:
        for segment_range in ranges:
            bounds = asdict(segment_range) | {"limit": limit - len(hits)}
            hits += _fetch_hits(connection, _NEWEST, parameters | bounds)
            if len(hits) == limit:
                break
    return hits


def _fetch_hits(
    connection: ReadConnection, sql: str, parameters: Mapping[str, object]
) -> list[SearchHit]:
    rows: list[dict[str, Any]] = fetch_rows(connection, sql, parameters)
    return [SearchHit(**row) for row in rows]


def _find_segment_ranges(
    connection: ReadConnection, parameters: Mapping[str, object]
) -> Generator[_SegmentRange, None, None]:
    """Yield the segment ranges of the jobs that pass the filters, newest first.

    The segments of a job are mostly adjacent, and those of the next job follow: neighbouring jobs
    are merged into one range.
    """
    max_size = FIRST_RANGE
    current: _SegmentRange | None = None
    with closing(stream_rows(connection, _PLACES, parameters)) as places:
        for place in places:
            job, low, high = (int(str(place[name])) for name in ("id", "low", "high"))
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


def _find_received_range(connection: ReadConnection, filters: SearchFilters) -> dict[str, int]:
    """Return the first and the last job of the filters' period, found by bisection.

    Job ids grow with time.
    """
    newest = int(str(fetch_value(connection, "SELECT max(id) FROM jobs") or 0))

    def created(number: int) -> str:
        return str(fetch_value(connection, _NEXT_JOB, {"id": number}) or "~")

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
        raise QueryError(
            f"a search may have {TERMS} words; this one has {len(terms)}", hint="Use fewer words."
        )
    if len(prefixes) > PREFIXES:
        raise QueryError(
            f"a search may have {PREFIXES} words with a *; this one has {len(prefixes)}",
            hint="Leave out the * of some.",
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
