"""Names of artifacts: templates are validated, and results are safe for every file system."""

import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakeasyd.domain.naming import (
    ENDING,
    FIELDS,
    LONGEST,
    build_collision_key,
    check_template,
    make_component,
    propose_names,
)
from speakeasyd.errors import ConfigError

VALUES = {
    "stem": "monday",
    "name": "monday.mp3",
    "ext": "mp3",
    "preset": "talks",
    "language": "en",
    "date": "2026-01-31",
    "job_id": "7",
    "batch": "b",
    "model": "Systran/faster-whisper-tiny.en",
}
RESERVED = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10)),
}


def choose_first_name(template: str, *, folder: str = "", **values: str) -> str:
    return next(propose_names(template, VALUES | values, folder=folder))


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{stem}", "monday"),
        ("{name}", "monday.mp3"),
        ("{date} {stem} ({language})", "2026-01-31 monday (en)"),
        ("{preset}/{stem}", "talks/monday"),
        ("{model}", "Systran_faster-whisper-tiny.en"),
        ("{{{stem}}}", "{monday}"),
    ],
)
def test_a_template_is_filled(template: str, name: str) -> None:
    check_template(template)
    assert choose_first_name(template) == name


@pytest.mark.parametrize(
    "template",
    [
        "{stem.__class__}",
        "{stem[0]}",
        "{0}",
        "{}",
        "{stem!r}",
        "{stem:>999999999}",
        "{unknown}",
        "{stem",
        "stem}",
        "../{stem}",
        "/{stem}",
        "a//{stem}",
        "{stem}/",
        "a/./{stem}",
        "",
        " ",
    ],
)
def test_other_fields_are_refused_with_the_allowed_ones(template: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_template(template)
    assert all(f"{{{field}}}" in refusal.value.hint for field in FIELDS)


def test_folders_of_the_source_are_mirrored() -> None:
    assert (
        choose_first_name("{preset}/{stem}", folder="2026/january") == "2026/january/talks/monday"
    )


def test_collisions_use_the_full_name_then_numbers_then_the_job() -> None:
    names = list(propose_names("{stem}", VALUES))
    assert names[:4] == ["monday", "monday.mp3", "monday (2)", "monday (3)"]
    assert names[-1] == "monday (job 7)"
    assert len(set(map(build_collision_key, names))) == len(names)


def test_a_template_without_the_stem_has_no_alternative_name() -> None:
    assert list(propose_names("{date}", VALUES))[:2] == ["2026-01-31", "2026-01-31 (2)"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("con", "con_"),
        ("Con.tar", "Con_.tar"),
        ("NUL .x", "NUL_ .x"),
        ("com\u00b9", "com\u00b9_"),
        ("console", "console"),
        ('a/b\\c:d*e?f"g<h>i|j', "a_b_c_d_e_f_g_h_i_j"),
        ("line\nbreak\x00", "line_break_"),
        ("..", "_"),
        ("a. . ", "a"),
        ("  ", "_"),
        ("-rf", "-rf"),
        ("caf\udce9", "caf%E9"),
        ("half \ud83d", "half \ufffd"),
        ("e\u0301", "é"),
        ("\u202egpj.exe", "\u202egpj.exe"),
    ],
)
def test_a_text_becomes_a_safe_component(text: str, name: str) -> None:
    assert make_component(text) == name


def test_names_are_shortened_between_characters() -> None:
    assert len(make_component("é" * 200).encode()) <= LONGEST
    assert set(make_component("日" * 200)) == {"日"}


HOSTILE = st.text(
    st.one_of(
        st.characters(exclude_categories=()),
        st.sampled_from("/\\:.. \0\n\ud800\udcff{}%"),
        st.sampled_from("CONconNULaux1²"),
    ),
    max_size=300,
)


@given(HOSTILE)
def test_every_text_becomes_a_valid_component(text: str) -> None:
    assert_valid(make_component(text), room=0)


@settings(deadline=None)
@given(
    template=st.lists(
        st.one_of(st.sampled_from([f"{{{field}}}" for field in FIELDS]), HOSTILE),
        min_size=1,
        max_size=5,
    ),
    values=st.fixed_dictionaries(
        dict.fromkeys(FIELDS, HOSTILE) | {"job_id": st.integers(1).map(str)}
    ),
    folder=HOSTILE,
)
def test_no_template_no_value_and_no_folder_escapes(
    template: list[str], values: dict[str, str], folder: str
) -> None:
    pattern = "".join(template)
    try:
        check_template(pattern)
    except ConfigError:
        pattern = "{stem}/{model}"
    seen = set()
    for path in propose_names(pattern, values, folder=folder):
        *folders, name = path.split("/")
        for part in folders:
            assert_valid(part, room=0)
        assert_valid(name, room=ENDING)
        seen.add(path)
    assert len(seen) >= 90


def assert_valid(part: str, *, room: int) -> None:
    raw = part.encode()  # no surrogates
    assert 0 < len(raw) <= LONGEST - room
    assert part not in {".", ".."}
    assert not set(part) & set('/\\:*?"<>|')
    assert not any(unicodedata.category(char) == "Cc" for char in part)
    assert part == part.rstrip(". ") == part.lstrip(" ")
    assert part.split(".", 1)[0].strip().upper() not in RESERVED
    assert os.fsdecode(os.fsencode(part)) == part


@given(st.text(max_size=20))
def test_names_that_differ_only_in_case_or_form_collide(text: str) -> None:
    assert build_collision_key(text) == build_collision_key(unicodedata.normalize("NFD", text))
    assert build_collision_key(text) == build_collision_key(build_collision_key(text))
