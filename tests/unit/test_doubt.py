"""Which texts are doubted, which are dropped, which of two is believed."""

from dataclasses import replace

from speakeasyd.domain.doubt import Evidence, doubtful, merit, silent, sparse

SOUND = Evidence(
    text="Call the dentist on Monday morning.", tokens=7, speech_s=2.0, avg_logprob=-0.3, no_speech_prob=0.05
)


def test_a_sound_text_is_believed() -> None:
    assert not doubtful(SOUND)
    assert not silent(SOUND)


def test_guesswork_is_doubted() -> None:
    assert doubtful(replace(SOUND, avg_logprob=-0.9))


def test_a_text_that_goes_round_in_circles_is_doubted_however_sure_the_model_is() -> None:
    assert doubtful(replace(SOUND, text="and so on " * 40, avg_logprob=-0.1))


def test_a_text_that_ran_into_the_limit_is_doubted() -> None:
    assert doubtful(replace(SOUND, cut_off=True))


def test_a_text_too_short_for_what_was_said_is_doubted_however_sure_the_model_is() -> None:
    jumped = replace(SOUND, speech_s=12.0, avg_logprob=-0.1)
    assert sparse(jumped)
    assert doubtful(jumped)
    assert merit(jumped) < merit(replace(jumped, tokens=40, avg_logprob=-0.6))
    assert not sparse(replace(SOUND, tokens=1))  # too little speech to judge by


def test_an_unsure_text_over_likely_silence_is_an_invention_and_not_worth_another_try() -> None:
    invented = replace(SOUND, avg_logprob=-1.3, no_speech_prob=0.8)
    assert silent(invented)
    assert not doubtful(invented)


def test_a_sure_text_survives_a_high_probability_of_silence() -> None:
    assert not silent(replace(SOUND, no_speech_prob=0.9))


def test_merit_prefers_the_surer_text_but_not_one_in_circles() -> None:
    assert merit(SOUND) > merit(replace(SOUND, avg_logprob=-0.6))
    assert merit(replace(SOUND, avg_logprob=-0.9)) > merit(replace(SOUND, text="no " * 300, avg_logprob=-0.1))
