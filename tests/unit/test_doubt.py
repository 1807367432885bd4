"""Which texts are decoded again, which are dropped, which of several is kept."""

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


def say(text: str, **changes: object) -> DecodeStatistics:
    """Evidence of a text spoken at an ordinary pace."""
    seconds = len(text) / 14
    said = {
        "text": text,
        "tokens": max(1, len(text) // 4),
        "speech_s": seconds,
        "passages": (Passage(0.0, seconds, text),),
        "speech_end": seconds,
    }
    return replace(SOUND, **(said | changes))  # type: ignore[arg-type]


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
    ],
)
def test_each_doubt_has_its_sign(changes: dict[str, object], doubt: Doubt) -> None:
    evidence = replace(SOUND, **changes)  # type: ignore[arg-type]
    assert doubt in find_doubts(evidence)
    assert not is_settled([evidence])


def test_one_looping_passage_is_found_in_a_long_text() -> None:
    """Over the whole text, the compression ratio hides it."""
    loop = Passage(20.0, 24.0, " on and on and on" * 5)
    varied = " ".join(f"word{number * 7919 % 1009}" for number in range(60))
    evidence = say(varied + loop.text, passages=(Passage(0.0, 20.0, varied), loop))
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
def test_a_phrase_said_again_at_once_is_found(text: str) -> None:
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
def test_what_people_do_say_is_no_repeated_phrase(text: str) -> None:
    assert find_repeated_phrase(text) == ()


def test_a_phrase_repeated_from_the_text_before_is_found() -> None:
    said = "Nobody had opened the box. Could you please let me out of the box?"
    text = "Could you please let me out of the box?"
    assert find_repeated_phrase(text, said=said)
    assert not find_repeated_phrase("Who is there?", said=said + text)
    first = say(text, said=said)
    assert find_doubts(first) == {Doubt.REPEATED}
    other = say("I said who is there.", speech_s=first.speech_s, said=said, avg_logprob=-0.5)
    assert choose_text([first, other]) == 1
    assert choose_text([first, replace(first, avg_logprob=-0.4)]) == 0


def test_a_repetition_that_another_way_confirms_is_kept() -> None:
    first, second = say(REFRAIN), say(REFRAIN, avg_logprob=-0.4)
    other = say(ONCE, speech_s=first.speech_s, avg_logprob=-0.5)
    assert not is_settled([first])
    assert is_settled([first, second])
    assert choose_text([first, second]) == 0
    assert choose_text([first, second, other]) == 0


def test_other_words_of_the_same_number_confirm_a_repetition() -> None:
    first = say("Serve it in a chafing dish. Serve it in a chafing dish.")
    other = say("Serve it in a chafing dish. Serve it in the chaffing dish.", avg_logprob=-0.2)
    assert is_settled([first, other])
    assert choose_text([first, replace(other, avg_logprob=-0.6)]) == 0


def test_a_text_that_loops_itself_confirms_nothing() -> None:
    first = say(REFRAIN)
    loop = say(ONCE * 20, speech_s=first.speech_s, avg_logprob=-0.6)
    assert not is_settled([loop, first])
    once = say(ONCE, speech_s=first.speech_s, avg_logprob=-0.4)
    assert choose_text([first, loop, once]) == 2


def test_a_repetition_that_no_other_way_confirms_is_replaced() -> None:
    invented = say(REFRAIN, avg_logprob=-0.3)
    once = say(ONCE, speech_s=invented.speech_s, avg_logprob=-0.45)
    assert choose_text([invented, once]) == 1


def test_a_repetition_that_does_not_fit_into_the_time_is_not_confirmed() -> None:
    first = say(REFRAIN, speech_s=0.8)
    assert not is_settled([first, first])
    assert choose_text([first, first, say(ONCE, avg_logprob=-0.7)]) == 2


def test_nothing_is_known_of_the_pace_where_no_speech_was_detected() -> None:
    assert find_doubts(replace(SOUND, speech_s=0.0, speech_end=None)) == frozenset()


def test_a_text_too_short_for_what_was_said_is_worse_than_an_unsure_one() -> None:
    jumped = replace(SOUND, speech_s=12.0, avg_logprob=-0.1)
    assert is_sparse(jumped)
    assert choose_text([jumped, replace(jumped, tokens=40, avg_logprob=-0.6)]) == 1
    assert not is_sparse(replace(SOUND, tokens=1))  # too little speech to judge by


def test_an_unsure_text_over_likely_silence_is_an_invention_and_not_decoded_again() -> None:
    invented = replace(SOUND, avg_logprob=-1.3, no_speech_prob=0.8)
    assert is_invented(invented)
    assert is_settled([invented])


def test_a_sure_text_survives_a_high_probability_of_silence() -> None:
    assert not is_invented(replace(SOUND, no_speech_prob=0.9))


def test_the_surer_text_is_kept_but_not_one_that_loops() -> None:
    assert choose_text([replace(SOUND, avg_logprob=-0.6), SOUND]) == 1
    loop = replace(SOUND, text="no " * 300, avg_logprob=-0.1)
    assert choose_text([loop, replace(SOUND, avg_logprob=-0.9)]) == 1
