"""Defaults < the inbox's preset < the folder's preset < the sidecar."""

import unicodedata
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain.options import Options
from speakeasyd.domain.presets import ChosenOptions, Presets, parse_sidecar
from speakeasyd.errors import ErrorCode, FileFault

PRESETS: dict[str, dict[str, object]] = {
    "meetings": {"language": "de", "formats": ["txt", "docx"]},
    "calls": {"channels": "split", "beam_size": 1},
    "Übung": {"task": "translate"},
}
DEFAULTS = Options(priority=3, beam_size=7)


def create_presets(inbox_preset: str | None = None) -> Presets:
    return Presets(defaults=DEFAULTS, presets=PRESETS, inbox_preset=inbox_preset)


def test_without_preset_and_sidecar_the_defaults_apply() -> None:
    assert create_presets().choose_options("") == ChosenOptions(DEFAULTS, None)
    assert create_presets().choose_options("some folder") == ChosenOptions(DEFAULTS, None)


def test_each_level_overrides_the_one_below_and_keeps_the_rest() -> None:
    choice = create_presets("meetings").choose_options("calls", {"beam_size": 2})
    assert choice.preset == "calls"
    assert choice.options.priority == 3  # from the defaults
    assert choice.options.language == "de"  # from the inbox's preset
    assert choice.options.formats == ("txt", "docx")
    assert choice.options.channels == "split"  # from the folder's preset
    assert choice.options.beam_size == 2  # from the sidecar


def test_a_sidecar_may_name_another_preset() -> None:
    choice = create_presets().choose_options("calls", {"preset": "meetings", "beam_size": 2})
    assert (choice.preset, choice.options.language, choice.options.beam_size) == (
        "meetings",
        "de",
        2,
    )
    assert choice.options.channels == "mix"  # the folder's preset does not apply
    with pytest.raises(FileFault, match=r"no preset 'sing'.*calls, meetings"):
        create_presets().choose_options("", {"preset": "sing"})


def test_the_preset_of_the_inbox_is_the_default() -> None:
    assert create_presets("meetings").choose_options("").preset == "meetings"


def test_a_folder_is_found_in_either_unicode_form() -> None:
    assert create_presets().choose_options(unicodedata.normalize("NFD", "Übung")).preset == "Übung"


def test_files_without_a_sidecar_share_one_object() -> None:
    chooser = create_presets()
    assert chooser.choose_options("calls").options is chooser.choose_options("calls").options


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        ({"langage": "de"}, ["unknown key 'langage'", "did you mean 'language'", "beam_size"]),
        ({"task": "sing"}, ["task", "'transcribe'", "'translate'", "sing"]),
        ({"beam_size": 0}, ["beam_size", "at least 1"]),
        ({"formats": ["pdf"]}, ["formats.0", "'docx'", "pdf"]),
        ({"formats": []}, ["formats", "must not be empty"]),
        ({"options": {"task": "translate"}}, ["unknown key 'options'"]),
    ],
)
def test_an_invalid_sidecar_is_refused_with_key_and_allowed_values(
    sidecar: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(FileFault) as caught:
        create_presets().choose_options("calls", sidecar)
    assert caught.value.code is ErrorCode.BAD_SIDECAR
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\xff\xfe", "UTF-8"),
        (b"language = ", "TOML"),
        (b"\0", "TOML"),
        (b"a=" + b"[" * 60_000, "nested too deep"),
        (b"a=1\na=2", "TOML"),
    ],
)
def test_a_sidecar_that_is_not_toml_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(FileFault, match=word) as caught:
        parse_sidecar(data)
    assert caught.value.code is ErrorCode.BAD_SIDECAR


@given(
    data=st.one_of(
        st.binary(max_size=300), st.text(alphabet="ab=[]{}\"'#.\n1", max_size=100).map(str.encode)
    )
)
def test_any_sidecar_is_accepted_or_refused(data: bytes) -> None:
    with suppress(FileFault):
        create_presets().choose_options("", parse_sidecar(data))


def test_a_sidecar_saved_by_notepad_is_read() -> None:
    assert parse_sidecar('language = "de"\r\n'.encode("utf-8-sig")) == {"language": "de"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_sidecar_in_utf_16_has_a_fitting_error(encoding: str) -> None:
    with pytest.raises(FileFault, match="it is UTF-16; save it as UTF-8"):
        parse_sidecar('language = "de"\n'.encode(encoding))
