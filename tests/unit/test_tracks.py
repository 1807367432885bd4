"""The choice of audio tracks."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from speakeasyd.domain.options import Options
from speakeasyd.domain.tracks import (
    AudioTrack,
    TrackChoice,
    TrackSound,
    choose_tracks,
    clean_language_tag,
    label_tracks,
    must_measure,
    parse_request,
    split_transcript,
)
from speakeasyd.domain.transcript import Segment, TranscribedTrack, Transcript, WarningKind

SPEECH, AUDIBLE, SILENT, BROKEN = (
    TrackSound.SPEECH,
    TrackSound.AUDIBLE,
    TrackSound.SILENT,
    TrackSound.UNDECODABLE,
)


def build_tracks(*described: tuple[str, TrackSound]) -> list[AudioTrack]:
    """Return tracks with languages and sounds; the first is the default."""
    return [
        AudioTrack(number, language, is_default=number == 1, sound=sound)
        for number, (language, sound) in enumerate(described, 1)
    ]


def choose_numbers(
    found: list[AudioTrack], audio: str = "auto", *languages: str, camera: bool = False
) -> TrackChoice:
    request = parse_request(audio)
    return choose_tracks(found, request, languages=languages, from_camera=camera)


def list_numbers(choice: TrackChoice) -> list[list[int]]:
    return [[track.number for track in group] for group in choice.groups]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("auto", "auto"),
        (2, "2"),
        ("2", "2"),
        ("deu", "deu"),
        ("German", "German"),
        ("eng, jpn", "eng, jpn"),
        (["eng", 3], "eng,3"),
        ("all", "all"),
        ("gsw", "gsw"),
    ],
)
def test_spellings_of_the_option_are_accepted(given: object, kept: str) -> None:
    assert Options.model_validate({"audio": given}).audio == kept


@pytest.mark.parametrize(
    "given", ["", 0, -1, "0", 1.5, True, "eng,", "all,eng", "Klingon", "²", [], None, 10**30]
)
def test_invalid_values_of_the_option_are_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate({"audio": given})


@pytest.mark.parametrize(
    ("found", "languages", "chosen"),
    [
        (build_tracks(("", SPEECH), ("", SPEECH)), (), [1]),
        (build_tracks(("", SILENT), ("", SPEECH)), (), [2]),
        (build_tracks(("", AUDIBLE), ("", SPEECH)), (), [2]),
        (build_tracks(("", SILENT), ("", AUDIBLE)), (), [2]),
        (build_tracks(("", SILENT), ("", SILENT)), (), [1]),
        (build_tracks(("eng", SPEECH), ("deu", SPEECH)), ("de",), [2]),
        (build_tracks(("eng", SPEECH), ("ger", AUDIBLE)), ("de",), [2]),
        (build_tracks(("eng", SPEECH), ("de-AT", SPEECH)), ("de",), [2]),
        (build_tracks(("eng", SPEECH), ("fra", SPEECH)), ("de",), [1]),
        (build_tracks(("eng", SPEECH), ("deu", SILENT), ("", SPEECH)), ("de",), [3]),
        (build_tracks(("", BROKEN), ("", SPEECH)), (), [2]),
        (build_tracks(("eng", SPEECH), ("deu", BROKEN)), ("de",), [1]),
    ],
)
def test_the_choice_is_automatic(
    found: list[AudioTrack], languages: tuple[str, ...], chosen: list[int]
) -> None:
    choice = choose_numbers(found, "auto", *languages)
    assert list_numbers(choice) == [chosen]
    [warning] = choice.warnings
    assert warning.kind is WarningKind.LEFT_OUT


def test_a_commentary_is_not_chosen_automatically() -> None:
    comment = replace(build_tracks(("eng", SPEECH))[0], is_auxiliary=True)
    feature = AudioTrack(2, "eng", sound=AUDIBLE)
    assert list_numbers(choose_numbers([comment, feature])) == [[2]]
    assert list_numbers(choose_numbers([comment, feature], "1")) == [[1]]
    assert list_numbers(choose_numbers([comment])) == [[1]]


def test_omitted_tracks_are_named() -> None:
    found = build_tracks(("eng", SPEECH), ("jpn", SPEECH), ("", SILENT))
    found[1] = replace(found[1], title="Director's\ncut")
    [warning] = choose_numbers(found).warnings
    assert warning.text == (
        """track 1 is transcribed; left out: track 2 (jpn, "Director's cut", speech), 3 (silent)"""
    )


def test_microphones_of_a_camera_are_mixed() -> None:
    found = [AudioTrack(1, is_default=True), AudioTrack(2)]
    assert not must_measure(found, parse_request("auto"), from_camera=True)
    assert choose_numbers(found, camera=True) == TrackChoice((tuple(found),))
    told_apart = [replace(found[0], language="eng"), replace(found[1], language="deu")]
    assert list_numbers(choose_numbers(told_apart, camera=True)) == [[1]]
    with_mix = [AudioTrack(1, channels=2, is_default=True), *(AudioTrack(n) for n in (2, 3))]
    assert list_numbers(choose_numbers(with_mix, camera=True)) == [[1]]
    with_mix[0] = replace(with_mix[0], sound=SILENT)
    with_mix[2] = replace(with_mix[2], sound=SPEECH)
    assert list_numbers(choose_numbers(with_mix, camera=True)) == [[2, 3]]
    assert list_numbers(choose_numbers(found)) == [[1]], "other containers keep other things apart"


@pytest.mark.parametrize(
    ("audio", "chosen", "kinds"),
    [
        ("2", [[2]], []),
        ("deu", [[2]], []),
        ("German", [[2]], []),
        ("DE", [[2]], []),
        ("deu,eng", [[2], [1]], []),
        ("deu,2", [[2]], []),
        ("all", [[1], [2], [3]], []),
        ("eng,jpn", [[1]], [WarningKind.OTHER]),
        ("jpn", [[1]], [WarningKind.OTHER, WarningKind.LEFT_OUT]),
        ("7", [[1]], [WarningKind.OTHER, WarningKind.LEFT_OUT]),
    ],
)
def test_requested_tracks_are_chosen(
    audio: str, chosen: list[list[int]], kinds: list[WarningKind]
) -> None:
    found = build_tracks(("eng", SPEECH), ("deu", SPEECH), ("deu", SILENT))
    choice = choose_numbers(found, audio)
    assert list_numbers(choice) == chosen
    assert [warning.kind for warning in choice.warnings] == kinds


def test_a_single_track_may_have_any_language() -> None:
    assert choose_numbers([AudioTrack(1)], "deu").warnings == ()
    assert len(choose_numbers([AudioTrack(1, "eng")], "deu").warnings) == 1


def test_tags_without_a_language_are_ignored() -> None:
    assert [clean_language_tag(tag) for tag in ("und", " eng ", "", "mul")] == ["", "eng", "", ""]


def test_labels_are_all_different() -> None:
    described = ["eng", "", "ENG", "../x", "en-US", "2"]
    found = [TranscribedTrack(number, tag) for number, tag in enumerate(described, 1)]
    assert label_tracks(found) == ["eng", "2", "ENG.3", "x", "en-US", "2.6"]


def test_each_track_has_its_transcript() -> None:
    segments = (
        Segment(0.0, 1.0, " Yes.", None, None, None, language="en", track=1),
        Segment(0.5, 1.0, " Hai.", None, None, None, language="ja", track=2),
        Segment(2.0, 3.0, " No.", None, None, None, language="en", track=1),
    )
    named = (TranscribedTrack(1, "eng"), TranscribedTrack(2), TranscribedTrack(3, "deu"))
    whole = Transcript(1, "a.mkv", "en", "m", 3.0, segments, tracks=named)
    parts = split_transcript(whole)
    assert whole.text == "Yes. No. Hai."
    assert {label: (part.language, part.text) for label, part in parts.items()} == {
        "eng": ("en", "Yes. No."),
        "2": ("ja", "Hai."),
        "deu": ("de", ""),
    }
