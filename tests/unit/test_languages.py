"""The language of speech: clear evidence changes it, short or unclear speech does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain.languages import (
    LanguageEvidence,
    find_languages,
    needs_previous,
    restrict_languages,
)

CODES = ("cy", "de", "en", "fr")


def build_evidence(speech_s: float, **probabilities: float) -> LanguageEvidence:
    rest = 1.0 - sum(probabilities.values())
    others = [code for code in CODES if code not in probabilities]
    return LanguageEvidence(speech_s, probabilities | {code: rest / len(others) for code in others})


GERMAN = build_evidence(8.0, de=0.97, en=0.01)
ENGLISH = build_evidence(8.0, en=0.97, de=0.01)
SHORT_ENGLISH = build_evidence(1.0, en=0.97, de=0.01)
UNCLEAR = build_evidence(8.0, cy=0.5, de=0.2)


def test_clear_speech_needs_no_earlier_speech() -> None:
    assert not needs_previous([GERMAN])
    assert find_languages([GERMAN], None) == ["de"]
    assert find_languages([GERMAN], "en") == ["de"]


def test_short_speech_keeps_the_earlier_language() -> None:
    assert needs_previous([SHORT_ENGLISH])
    assert find_languages([SHORT_ENGLISH], "de") == ["de"]
    assert find_languages([SHORT_ENGLISH], "en") == ["en"]
    assert find_languages([SHORT_ENGLISH], None) == ["en"]


def test_unclear_speech_keeps_the_earlier_language() -> None:
    assert find_languages([UNCLEAR], "de") == ["de"]


def test_unclear_evidence_adds_up() -> None:
    hint = build_evidence(4.0, en=0.7, de=0.1)
    assert find_languages([hint], "de") == ["de"]
    assert find_languages([hint] * 4, "de") == ["en"] * 4


def test_the_language_changes_where_the_evidence_does() -> None:
    assert find_languages([GERMAN, GERMAN, ENGLISH, ENGLISH], None) == ["de", "de", "en", "en"]


def test_short_speech_in_another_language_changes_nothing() -> None:
    assert find_languages([GERMAN, SHORT_ENGLISH, GERMAN], "de") == ["de"] * 3


def test_a_short_beginning_takes_the_language_of_what_follows() -> None:
    assert find_languages([SHORT_ENGLISH, GERMAN], None) == ["de", "de"]


def test_an_earlier_language_that_is_not_allowed_does_not_count() -> None:
    assert find_languages([SHORT_ENGLISH], "ja") == ["en"]


def test_only_allowed_languages_remain() -> None:
    found = restrict_languages({"cy": 0.6, "de": 0.1, "en": 0.3}, ("de", "en"))
    assert found == pytest.approx({"de": 0.25, "en": 0.75})
    assert restrict_languages({"cy": 0.6, "de": 0.4}, ()) == pytest.approx({"cy": 0.6, "de": 0.4})
    assert restrict_languages({"cy": 1.0, "de": 0.0, "en": 0.0}, ("de", "en")) == {
        "de": 0.5,
        "en": 0.5,
    }


@st.composite
def _draw_stretches(draw: st.DrawFn) -> list[LanguageEvidence]:
    weights = st.floats(0.001, 1.0)
    found = []
    for _ in range(draw(st.integers(1, 6))):
        raw = {code: draw(weights) for code in CODES}
        found.append(LanguageEvidence(draw(st.floats(0.1, 12.0)), restrict_languages(raw, ())))
    return found


@given(_draw_stretches())
def test_clear_languages_do_not_depend_on_earlier_ones(
    stretches: list[LanguageEvidence],
) -> None:
    found = {tuple(find_languages(stretches, before)) for before in (None, *CODES)}
    if not needs_previous(stretches):
        assert len(found) == 1


@given(_draw_stretches(), st.sampled_from(CODES))
def test_languages_are_found_for_every_stretch(
    stretches: list[LanguageEvidence], before: str
) -> None:
    found = find_languages(stretches, before)
    assert len(found) == len(stretches)
    assert set(found) <= set(CODES)
