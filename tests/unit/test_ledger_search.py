"""Full-text search."""

import sqlite3
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.errors import QueryError
from speakeasyd.ledger import search
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.results import store_results
from speakeasyd.ledger.search import SearchFilters, build_match_expression, search_text
from speakeasyd.testing import ManualClock
from tests.ledgers import add_claimed_jobs, build_chunk, build_job


async def test_words_are_found_at_their_times(ledger: Ledger) -> None:
    one, two = await add_claimed_jobs(ledger, build_job("one.wav"), build_job("two.wav"))
    await ledger.write(
        store_results,
        [(one.id, one.token, build_chunk(0, " The quick brown fox", " jumps over the Café."))],
    )
    await ledger.write(store_results, [(two.id, two.token, build_chunk(1, " A slow fox."))])
    assert [
        (hit.path, hit.start) for hit in await ledger.searches.read(search_text, "quick fox")
    ] == [("one.wav", 0.0)]
    assert {hit.path for hit in await ledger.searches.read(search_text, "FOX")} == {
        "one.wav",
        "two.wav",
    }
    [hit] = await ledger.searches.read(search_text, "cafe")
    assert (hit.job_id, hit.start, hit.end, hit.snippet) == (
        one.id,
        1.0,
        2.0,
        " jumps over the [Café].",
    )
    assert len(await ledger.searches.read(search_text, "fo*", limit=1)) == 1


@pytest.mark.parametrize(
    "words", ["", '"', "a AND", "text:fox", "(", "* ^", "NEAR(a b)", "it's", "-fox"]
)
async def test_words_are_not_operators(ledger: Ledger, words: str) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a.wav"))
    await ledger.write(store_results, [(job.id, job.token, build_chunk(0, " fox"))])
    assert await ledger.searches.read(search_text, words) == []


async def test_phrases_prefixes_and_exclusions(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a.wav"))
    await ledger.write(
        store_results,
        [(job.id, job.token, build_chunk(0, " the quick brown fox", " the brown quick dog"))],
    )

    async def list_starts(words: str) -> set[float]:
        return {hit.start for hit in await ledger.searches.read(search_text, words)}

    assert await list_starts("quick brown") == {0.0, 1.0}
    assert await list_starts('"quick brown"') == {0.0}
    assert await list_starts('"quick bro"*') == {0.0}
    assert await list_starts('"quick brown') == {0.0}  # the second quote is not typed yet
    assert await list_starts("qu* -fox") == {1.0}
    assert await list_starts('brown -"quick dog"') == {0.0}


async def test_hits_are_filtered(ledger: Ledger, clock: ManualClock) -> None:
    calls, talk = await add_claimed_jobs(
        ledger, replace(build_job("c.wav"), batch="calls", preset="split"), build_job("t.wav")
    )
    await ledger.write(
        store_results, [(calls.id, calls.token, build_chunk(0, " hello", channel=0))]
    )
    await ledger.write(
        store_results, [(calls.id, calls.token, build_chunk(1, " hello", channel=1))]
    )
    await ledger.write(store_results, [(talk.id, talk.token, build_chunk(0, " hello"))])
    clock.advance(timedelta(days=40).total_seconds())
    [late] = await add_claimed_jobs(ledger, build_job("late.wav", inbox="other"))
    await ledger.write(store_results, [(late.id, late.token, build_chunk(0, " hello"))])

    async def list_paths(**filters: object) -> list[str]:
        return sorted(
            hit.path
            for hit in await ledger.searches.read(
                search_text, "hello", filters=SearchFilters(**filters)
            )
        )  # type: ignore[arg-type]

    assert await list_paths() == ["c.wav", "c.wav", "late.wav", "t.wav"]
    assert await list_paths(batch="calls", channel=1) == ["c.wav"]
    assert await list_paths(preset="split") == ["c.wav", "c.wav"]
    assert await list_paths(inbox="other") == ["late.wav"]
    assert await list_paths(since="2026-02") == ["late.wav"]
    assert await list_paths(until="2026-01", channel=0) == ["c.wav"]
    assert await list_paths(since="2026-01-01", until="2026-01-01") == ["c.wav", "c.wav", "t.wav"]
    assert await list_paths(since="2026-01-01 00:01") == ["late.wav"]
    assert await list_paths(until="2026-01-01 00:01") == ["c.wav", "c.wav", "t.wav"]
    assert await list_paths(since="2027") == await list_paths(until="2025") == []


async def test_newest_hits_of_common_words_come_first(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a.wav"))
    await ledger.write(
        store_results, [(job.id, job.token, build_chunk(0, " so so so", *[" so it was"] * 5))]
    )
    assert [hit.start for hit in await ledger.searches.read(search_text, "so", limit=2)] == [
        0.0,
        1.0,
    ]  # the first has most hits
    with patch.object(search, "RANKED", 3):
        assert [hit.start for hit in await ledger.searches.read(search_text, "so", limit=2)] == [
            5.0,
            4.0,
        ]
        more = await ledger.searches.read(search_text, "so", limit=2, offset=2)
        assert [hit.start for hit in more] == [3.0, 2.0]
    rest = await ledger.searches.read(search_text, "so", limit=9, offset=4)
    assert len(rest) == 2


@pytest.mark.parametrize(("passed", "stretch"), [(0, 1), (3, 4), (1000, 1), (1000, 1000)])
async def test_common_words_among_many_files_are_all_found(
    ledger: Ledger, passed: int, stretch: int
) -> None:
    """Matching files may be far apart, and chunks of several files may have equal times."""
    files = [
        build_job(f"{number}.wav", channels="split" if number % 3 else "mix") for number in range(8)
    ]
    jobs = await add_claimed_jobs(
        ledger, *(replace(file, batch=f"batch {n % 2}") for n, file in enumerate(files))
    )
    for index in range(3):
        for number, job in enumerate(jobs):
            channel = index % 2 if number % 3 else None
            await ledger.write(
                store_results,
                [
                    (
                        job.id,
                        job.token,
                        build_chunk(index, " so", " so it was", " no", channel=channel),
                    )
                ],
            )
    with patch.multiple(search, RANKED=3, SKIPPED=passed, FIRST_RANGE=stretch):
        for filters in (
            SearchFilters(batch="batch 1"),
            SearchFilters(batch="batch 0", channel=1),
            SearchFilters(channel=0),
        ):
            expected = {
                (job.id, index * 10.0 + word)
                for number, job in enumerate(jobs)
                for index in range(3)
                for word in (0, 1)
                if filters.batch in {None, f"batch {number % 2}"}
                and (filters.channel is None or (number % 3 and filters.channel == index % 2))
            }
            hits = await ledger.searches.read(search_text, "so", limit=100, filters=filters)
            assert len(hits) == len(expected)
            assert {(hit.job_id, hit.start) for hit in hits} == expected


@given(
    words=st.text(st.characters(codec="utf-8"), max_size=30)
    | st.text('ab"*-^:(){} \0', max_size=12)
)
def test_any_text_is_a_valid_query(words: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "CREATE VIRTUAL TABLE t USING fts5(text, tokenize = 'unicode61 remove_diacritics 2')"
    )
    with suppress(QueryError):  # too many words or prefixes
        if query := build_match_expression(words):
            connection.execute("SELECT * FROM t WHERE t MATCH ?", [query]).fetchall()
    connection.close()
