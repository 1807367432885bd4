"""Reports of workers are checked against their types."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.protocol import ChunkDone, Fault, Hello, LanguageFound, Opened, TaskDone
from speakeasyd.domain.report_check import find_complaint
from speakeasyd.domain.transcript import Chunk, MediaWarning, Segment, WarningKind, Word

JOB, TOKEN = JobId(1), Token("t")
WORD = Word(0.0, 1.0, " a", 0.5)
SEGMENT = Segment(0, 1, " a", -0.1, 1.0, 0.1, words=(WORD,))
CHUNK = Chunk(0, 0.0, 1.0, (SEGMENT,))


@pytest.mark.parametrize(
    "report",
    [
        Hello(1),
        Opened(JOB, TOKEN, None),
        ChunkDone(JOB, TOKEN, CHUNK),
        ChunkDone(JOB, TOKEN, replace(CHUNK, segments=(replace(SEGMENT, text="\ud800\0"),))),
        TaskDone(JOB, TOKEN, 1.0, (MediaWarning(WarningKind.CUT, "cut"),)),
        Fault(Phase.LOAD, "error", ((JOB, 1),)),
    ],
)
def test_valid_reports_are_accepted(report: object) -> None:
    assert find_complaint(report) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 10**400, "1", True, [1.0]])
def test_a_number_must_be_finite(value: object) -> None:
    odd = replace(CHUNK, segments=(replace(SEGMENT, avg_logprob=value),))
    assert find_complaint(ChunkDone(JOB, TOKEN, odd))
    assert find_complaint(LanguageFound(JOB, TOKEN, "en", value))  # type: ignore[arg-type]


def test_a_probability_must_be_present() -> None:
    assert find_complaint(LanguageFound(JOB, TOKEN, "en", None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "report", [None, {}, "Hello", Chunk(0, 0.0, 1.0), object.__new__(ChunkDone)]
)
def test_invalid_reports_are_described(report: object) -> None:
    assert find_complaint(report)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=5,
)


@given(anything, anything, anything)
def test_the_check_never_raises(index: object, start: object, segments: object) -> None:
    odd = Chunk(index, start, 1.0, segments)  # type: ignore[arg-type]
    complaint = find_complaint(ChunkDone(JOB, TOKEN, odd))
    assert complaint is None or complaint.startswith("ChunkDone.chunk.")
