"""Cutting of speech into chunks: complete, disjoint, bounded, independent of how the input is fed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain.chunking import Chunker, ChunkingRules, ChunkSpan

SMALL = ChunkingRules(pad=2, bridge=8, shortest_cut=20, longest=40, smooth=2)

runs = st.lists(
    st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.95]), st.integers(1, 30)),
    min_size=1,
    max_size=30,
).map(lambda parts: [probability for probability, length in parts for _ in range(length)])
settings = st.sampled_from(
    [SMALL, ChunkingRules(pad=2, bridge=8, shortest_cut=20, longest=40, smooth=2, everything=True)]
)


def cut_spans(
    probabilities: list[float], cutting: ChunkingRules = SMALL, step: int = 10_000
) -> list[ChunkSpan]:
    chunker = Chunker(cutting)
    spans: list[ChunkSpan] = []
    for start in range(0, len(probabilities), step):
        spans += chunker.add_probabilities(probabilities[start : start + step])
    return spans + chunker.finish()


@given(runs, settings)
def test_spans_are_ordered_disjoint_within_bounds_and_not_too_long(
    probabilities: list[float], how: ChunkingRules
) -> None:
    spans = cut_spans(probabilities, how)
    for span in spans:
        assert 0 <= span.start < span.end <= len(probabilities)
        assert span.end - span.start <= how.longest
    for before, after in pairwise(spans):
        assert before.end <= after.start


@given(runs, settings)
def test_speech_is_never_lost(probabilities: list[float], how: ChunkingRules) -> None:
    covered = {
        window for span in cut_spans(probabilities, how) for window in range(span.start, span.end)
    }
    spoken = {
        n
        for n, probability in enumerate(probabilities)
        if how.everything or probability >= how.onset
    }
    assert spoken <= covered


@given(runs, settings, st.integers(1, 50))
def test_the_spans_do_not_depend_on_how_they_are_fed(
    probabilities: list[float], how: ChunkingRules, step: int
) -> None:
    assert cut_spans(probabilities, how, step) == cut_spans(probabilities, how)


@given(runs, settings)
def test_needed_samples_are_kept_until_their_span_ends(
    probabilities: list[float], how: ChunkingRules
) -> None:
    chunker = Chunker(how)
    for probability in probabilities:
        needed = chunker.needed_from
        assert all(span.start >= needed for span in chunker.add_probabilities([probability]))
    needed = chunker.needed_from
    assert all(span.start >= needed for span in chunker.finish())


@given(runs, settings)
def test_voiced_runs_are_inside_their_span(probabilities: list[float], how: ChunkingRules) -> None:
    for span in cut_spans(probabilities, how):
        assert span.voiced
        assert all(span.start <= start < end <= span.end for start, end in span.voiced)


def test_silence_has_no_chunks() -> None:
    assert cut_spans([0.1] * 500) == []


def test_only_long_silence_separates_spans() -> None:
    assert len(cut_spans([0.9] * 5 + [0.0] * 6 + [0.9] * 5)) == 1
    assert len(cut_spans([0.9] * 5 + [0.0] * 9 + [0.9] * 5)) == 2


def test_long_speech_is_cut_at_the_least_speech() -> None:
    speech = [0.9] * 70
    speech[30:33] = [0.5, 0.4, 0.5]
    first, second = cut_spans(speech)
    assert first.end == second.start == 31


def test_a_span_keeps_some_silence_around_its_speech() -> None:
    (span,) = cut_spans([0.0] * 10 + [0.9] * 5 + [0.0] * 20)
    assert (span.start, span.end, span.voiced) == (8, 17, ((10, 15),))


@pytest.mark.parametrize("everything", [False, True])
def test_a_hole_is_in_no_chunk(everything: bool) -> None:
    """A hole of twenty hours takes no time, and speech after it keeps its times."""
    hole = 2_250_000  # windows; 20 h
    chunker = Chunker(ChunkingRules(everything=everything))
    spans = chunker.add_probabilities([0.9] * 100)
    spans += chunker.feed_silence(hole)
    assert len(spans) == 1
    assert spans[0].end <= 110
    assert chunker.needed_from == 100 + hole - 10
    spans += chunker.add_probabilities([0.9] * 100)
    spans += chunker.finish()
    assert spans[-1].end == hole + 200
    assert spans[-1].voiced == ((hole + 100, hole + 200),)


def test_a_short_hole_is_bridged() -> None:
    chunker = Chunker(ChunkingRules())
    spans = [
        *chunker.add_probabilities([0.9] * 100),
        *chunker.feed_silence(32),
        *chunker.add_probabilities([0.9] * 100),
        *chunker.finish(),
    ]
    assert [span.voiced for span in spans] == [((0, 100), (132, 232))]
