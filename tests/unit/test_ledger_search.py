"""Where words were said."""

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.ledger import search
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.search import Filters, phrase
from speakeasyd.testing import ManualClock
from tests.ledgers import a_chunk, a_file, claimed, opened


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Ledger]:
    async with opened(tmp_path / "ledger.db", clock=clock) as one:
        yield one


async def test_words_are_found_where_they_are_said(ledger: Ledger) -> None:
    one, two = await claimed(ledger, a_file("one.wav"), a_file("two.wav"))
    await ledger.record([(one.id, one.token, a_chunk(0, " The quick brown fox", " jumps over the Café."))])
    await ledger.record([(two.id, two.token, a_chunk(1, " A slow fox."))])
    assert [(hit.path, hit.start) for hit in await ledger.search("quick fox")] == [("one.wav", 0.0)]
    assert {hit.path for hit in await ledger.search("FOX")} == {"one.wav", "two.wav"}
    [hit] = await ledger.search("cafe")
    assert (hit.job_id, hit.start, hit.end, hit.snippet) == (one.id, 1.0, 2.0, " jumps over the [Café].")
    assert len(await ledger.search("fo*", limit=1)) == 1


@pytest.mark.parametrize("words", ["", '"', "a AND", "text:fox", "(", "* ^", "NEAR(a b)", "it's", "-fox"])
async def test_no_word_is_taken_for_an_operator(ledger: Ledger, words: str) -> None:
    [job] = await claimed(ledger, a_file("a.wav"))
    await ledger.record([(job.id, job.token, a_chunk(0, " fox"))])
    assert await ledger.search(words) == []


async def test_phrases_beginnings_and_what_must_not_be_there(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a.wav"))
    await ledger.record([(job.id, job.token, a_chunk(0, " the quick brown fox", " the brown quick dog"))])

    async def starts(words: str) -> set[float]:
        return {hit.start for hit in await ledger.search(words)}

    assert await starts("quick brown") == {0.0, 1.0}
    assert await starts('"quick brown"') == {0.0}
    assert await starts('"quick bro"*') == {0.0}
    assert await starts('"quick brown') == {0.0}  # the second quote is still to be typed
    assert await starts("qu* -fox") == {1.0}
    assert await starts('brown -"quick dog"') == {0.0}


async def test_hits_are_filtered(ledger: Ledger, clock: ManualClock) -> None:
    calls, talk = await claimed(ledger, replace(a_file("c.wav"), batch="calls", preset="split"), a_file("t.wav"))
    await ledger.record([(calls.id, calls.token, a_chunk(0, " hello", channel=0))])
    await ledger.record([(calls.id, calls.token, a_chunk(1, " hello", channel=1))])
    await ledger.record([(talk.id, talk.token, a_chunk(0, " hello"))])
    clock.advance(timedelta(days=40).total_seconds())
    [late] = await claimed(ledger, a_file("late.wav", inbox="other"))
    await ledger.record([(late.id, late.token, a_chunk(0, " hello"))])

    async def paths(**filters: object) -> list[str]:
        return sorted(hit.path for hit in await ledger.search("hello", filters=Filters(**filters)))  # type: ignore[arg-type]

    assert await paths() == ["c.wav", "c.wav", "late.wav", "t.wav"]
    assert await paths(batch="calls", channel=1) == ["c.wav"]
    assert await paths(preset="split") == ["c.wav", "c.wav"]
    assert await paths(inbox="other") == ["late.wav"]
    assert await paths(since="2026-02") == ["late.wav"]
    assert await paths(until="2026-01", channel=0) == ["c.wav"]
    assert await paths(since="2026-01-01", until="2026-01-01") == ["c.wav", "c.wav", "t.wav"]
    assert await paths(since="2027") == await paths(until="2025") == []


async def test_of_common_words_the_newest_come_first(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a.wav"))
    await ledger.record([(job.id, job.token, a_chunk(0, " so so so", *[" so it was"] * 5))])
    assert [hit.start for hit in await ledger.search("so", limit=2)] == [0.0, 1.0]  # the first has most of it
    with patch.object(search, "RANKED", 3), patch.object(search, "EXAMINED", 4):
        assert [hit.start for hit in await ledger.search("so", limit=2)] == [5.0, 4.0]
        assert len(await ledger.search("so", filters=Filters(batch="talks"))) == 5


@given(words=st.text(st.characters(codec="utf-8"), max_size=30) | st.text('ab"*-^:(){} \0', max_size=12))
def test_whatever_is_typed_is_a_query(words: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE t USING fts5(text, tokenize = 'unicode61 remove_diacritics 2')")
    if query := phrase(words):
        connection.execute("SELECT * FROM t WHERE t MATCH ?", [query]).fetchall()
    connection.close()
