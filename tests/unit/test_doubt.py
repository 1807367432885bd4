"""Which texts are decoded again, dropped, or chosen among several."""

from dataclasses import replace

import pytest

from speakeasyd.domain.text_quality import (
    DecodeStatistics,
    Doubt,
    Passage,
    choose_text,
    find_doubts,
    find_repeated_phrase,
    is_invented,
    is_settled,
    is_sparse,
)

SOUND = DecodeStatistics(
    text="Call the dentist on Monday morning.",
    tokens=7,
    speech_s=2.0,
    avg_logprob=-0.3,
    no_speech_prob=0.05,
    passages=(Passage(0.0, 2.0, "Call the dentist on Monday morning."),),
    speech_end=2.0,
)
REFRAIN = "Row, row, row your boat. Row, row, row your boat."
ONCE = "Row, row, row your boat."


def build_evidence(text: str, **changes: object) -> DecodeStatistics:
    """Return evidence of a text at an ordinary speaking rate."""
    seconds = len(text) / 14
    values = {
        "text": text,
        "tokens": max(1, len(text) // 4),
        "speech_s": seconds,
        "passages": (Passage(0.0, seconds, text),),
        "speech_end": seconds,
    }
    return replace(SOUND, **(values | changes))  # type: ignore[arg-type]


def test_an_ordinary_text_is_kept() -> None:
    assert find_doubts(SOUND) == frozenset()
    assert is_settled([SOUND])
    assert not is_invented(SOUND)


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"avg_logprob": -0.9}, Doubt.UNSURE),
        ({"text": "and so on " * 40, "avg_logprob": -0.1}, Doubt.REPETITIVE),
        ({"cut_off": True}, Doubt.CUT_OFF),
        ({"speech_s": 12.0, "avg_logprob": -0.1}, Doubt.SPARSE),
        ({"text": "Call the dentist, call the dentist."}, Doubt.REPEATED),
        ({"text": SOUND.text * 3}, Doubt.HURRIED),
        ({"passages": (*SOUND.passages, Passage(7.0, 28.0, "Monday."))}, Doubt.OVERRUN),
        ({"text": "― ― ― ― ― ― ― ― ―"}, Doubt.WORDLESS),
        ({"text": "..."}, Doubt.WORDLESS),
    ],
)
def test_each_doubt_has_its_sign(changes: dict[str, object], doubt: Doubt) -> None:
    evidence = replace(SOUND, **changes)  # type: ignore[arg-type]
    assert doubt in find_doubts(evidence)
    assert not is_settled([evidence])


@pytest.mark.parametrize(
    "text", ["— Yes. — No, he said.", "Quoi ? Rien !", "3 000 €", "はい。", ""]
)
def test_signs_beside_words_are_accepted(text: str) -> None:
    assert Doubt.WORDLESS not in find_doubts(replace(SOUND, text=text))


def test_words_are_preferred_to_signs_of_higher_probability() -> None:
    signs = replace(SOUND, text="― ― ― ― ―", avg_logprob=-0.2)
    assert choose_text([signs, replace(SOUND, avg_logprob=-0.7)]) == 1


def test_one_looping_passage_is_found_in_a_long_text() -> None:
    """The compression ratio of the whole text does not show it."""
    loop = Passage(20.0, 24.0, " on and on and on" * 5)
    varied = " ".join(f"word{number * 7919 % 1009}" for number in range(60))
    evidence = build_evidence(varied + loop.text, passages=(Passage(0.0, 20.0, varied), loop))
    assert Doubt.REPETITIVE in find_doubts(evidence)


@pytest.mark.parametrize(
    "text",
    [
        "an exact imitation, which are an exact imitation, which are an exact imitation.",
        "The box? Could you open the box? Could you open the box?",
        "and cried, and cried, and cried, and cried",
        "no " * 9,
        "Es ist ein Jammer, es ist ein Jammer.",
        "это очень хорошо, это очень хорошо",
        "どうもありがとうございます。どうもありがとうございます。",
    ],
)
def test_an_immediately_repeated_phrase_is_found(text: str) -> None:
    assert find_repeated_phrase(text)


@pytest.mark.parametrize(
    "text",
    [
        "No, no, no, I said no.",
        "very good, very good, very good",
        "ha ha ha ha ha ha ha",
        "It was the best of times, it was the worst of times.",
        "one two three four five six seven eight nine ten",
        "nine, nine, four, four, four, one, one",
        "はい、はい、はい",
        "ハハハハ",
        "",
        "...",
    ],
)
def test_natural_repetitions_are_accepted(text: str) -> None:
    assert find_repeated_phrase(text) == ()


def test_a_phrase_repeated_from_the_text_before_is_found() -> None:
    context = "Nobody had opened the box. Could you please let me out of the box?"
    text = "Could you please let me out of the box?"
    assert find_repeated_phrase(text, context=context)
    assert not find_repeated_phrase("Who is there?", context=context + text)
    first = build_evidence(text, context=context)
    assert find_doubts(first) == {Doubt.REPEATED}
    other = build_evidence(
        "I said who is there.", speech_s=first.speech_s, context=context, avg_logprob=-0.5
    )
    assert choose_text([first, other]) == 1
    assert choose_text([first, replace(first, avg_logprob=-0.4)]) == 0


def test_a_repetition_confirmed_by_another_decoding_is_kept() -> None:
    first, second = build_evidence(REFRAIN), build_evidence(REFRAIN, avg_logprob=-0.4)
    other = build_evidence(ONCE, speech_s=first.speech_s, avg_logprob=-0.5)
    assert not is_settled([first])
    assert is_settled([first, second])
    assert choose_text([first, second]) == 0
    assert choose_text([first, second, other]) == 0


def test_an_equal_number_of_other_words_confirms_a_repetition() -> None:
    first = build_evidence("Serve it in a chafing dish. Serve it in a chafing dish.")
    other = build_evidence(
        "Serve it in a chafing dish. Serve it in the chaffing dish.", avg_logprob=-0.2
    )
    assert is_settled([first, other])
    assert choose_text([first, replace(other, avg_logprob=-0.6)]) == 0


def test_a_looping_text_confirms_nothing() -> None:
    first = build_evidence(REFRAIN)
    loop = build_evidence(ONCE * 20, speech_s=first.speech_s, avg_logprob=-0.6)
    assert not is_settled([loop, first])
    once = build_evidence(ONCE, speech_s=first.speech_s, avg_logprob=-0.4)
    assert choose_text([first, loop, once]) == 2


def test_an_unconfirmed_repetition_is_replaced() -> None:
    invented = build_evidence(REFRAIN, avg_logprob=-0.3)
    once = build_evidence(ONCE, speech_s=invented.speech_s, avg_logprob=-0.45)
    assert choose_text([invented, once]) == 1


def test_a_repetition_longer_than_the_speech_is_not_confirmed() -> None:
    first = build_evidence(REFRAIN, speech_s=0.8)
    assert not is_settled([first, first])
    assert choose_text([first, first, build_evidence(ONCE, avg_logprob=-0.7)]) == 2


def test_without_detected_speech_the_rate_is_unknown() -> None:
    assert find_doubts(replace(SOUND, speech_s=0.0, speech_end=None)) == frozenset()


def test_a_text_too_short_for_the_speech_is_worse_than_an_unsure_one() -> None:
    jumped = replace(SOUND, speech_s=12.0, avg_logprob=-0.1)
    assert is_sparse(jumped)
    assert choose_text([jumped, replace(jumped, tokens=40, avg_logprob=-0.6)]) == 1
    assert not is_sparse(replace(SOUND, tokens=1))  # too little speech to decide


def test_an_unsure_text_over_likely_silence_is_dropped() -> None:
    invented = replace(SOUND, avg_logprob=-1.3, no_speech_prob=0.8)
    assert is_invented(invented)
    assert is_settled([invented])


def test_a_sure_text_survives_a_high_probability_of_silence() -> None:
    assert not is_invented(replace(SOUND, no_speech_prob=0.9))


def test_the_surer_text_is_kept_but_not_one_that_loops() -> None:
    assert choose_text([replace(SOUND, avg_logprob=-0.6), SOUND]) == 1
    loop = replace(SOUND, text="no " * 300, avg_logprob=-0.1)
    assert choose_text([loop, replace(SOUND, avg_logprob=-0.9)]) == 1
