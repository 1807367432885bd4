"""Arbitrary configurations, sidecars and transcripts raise only documented errors."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speakeasyd.config import InboxSettings, Settings
from speakeasyd.config.loading import combine_sources
from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.naming import FIELDS, LONGEST, check_template, propose_names
from speakeasyd.domain.options import Options
from speakeasyd.domain.presets import Presets, parse_sidecar
from speakeasyd.domain.transcript import Segment, Transcript
from speakeasyd.errors import ConfigError, ErrorCode, FileFault
from tests.unit.test_subtitles import parse_srt

ANY = st.text(
    st.characters(exclude_categories=()), max_size=30
)  # including lone surrogates and control characters
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    PLAIN,
    st.sampled_from(
        ["en", "auto", "txt", "{stem}", "../{stem}", "{stem}/{date}", "cpu", "~", "$HOME", "cuda:1"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=6,
)
OPTIONS = st.dictionaries(
    st.sampled_from([*Options.model_fields, "nmae"]) | PLAIN, VALUES, max_size=5
)
TABLES = st.dictionaries(
    st.sampled_from(list(Settings.model_fields)) | PLAIN, VALUES | OPTIONS, max_size=4
)
INBOXES = st.lists(
    st.dictionaries(st.sampled_from(list(InboxSettings.model_fields)), SCALARS, max_size=4),
    max_size=2,
)


def render_toml(table: dict[str, object]) -> str:
    """Return inline tables of JSON values. Values that TOML does not have become invalid TOML."""

    def render_value(value: object) -> str:
        if isinstance(value, dict):
            return (
                "{"
                + ", ".join(
                    f"{json.dumps(key)} = {render_value(inner)}" for key, inner in value.items()
                )
                + "}"
            )
        if isinstance(value, list):
            return f"[{', '.join(map(render_value, value))}]"
        return json.dumps(value)

    return "".join(f"{json.dumps(key)} = {render_value(value)}\n" for key, value in table.items())


@given(OPTIONS, st.sampled_from(["", "meetings", "nowhere"]))
def test_a_sidecar_gives_options_or_an_error(changes: dict[str, object], folder: str) -> None:
    presets = Presets(defaults=Options(), presets={"meetings": {"language": "de"}})
    data = render_toml(changes).encode("utf-8", "replace")
    faults: list[FileFault] = []
    try:
        check_template(presets.choose_options(folder, parse_sidecar(data)).options.name)
    except FileFault as fault:
        faults.append(fault)
    assert all(fault.code is ErrorCode.BAD_SIDECAR and fault.hint for fault in faults)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.one_of(
        st.binary(max_size=200),
        TABLES.map(render_toml).map(lambda text: text.encode("utf-8", "replace")),
    ),
    flags=TABLES | st.fixed_dictionaries({"inboxes": INBOXES}),
    environ=st.dictionaries(
        st.sampled_from(
            ["STATE", "WATCH__SETTLE_S", "INBOXES", "OPTIONS", "LOG__LEVEL__X", "", "__"]
        ),
        PLAIN | st.sampled_from(["[", "{", "[[]]", "{a = 1}", "[1]"]),
        max_size=2,
    ),
)
def test_a_configuration_is_accepted_or_refused_with_a_reason(
    tmp_path: Path, file: bytes, flags: dict[str, object], environ: dict[str, str]
) -> None:
    path = tmp_path / "speakeasyd.toml"
    path.write_bytes(file)
    with suppress(ConfigError):
        combine_sources(
            path,
            flags=flags,
            environ={f"SPEAKEASYD_{name}": value for name, value in environ.items()},
        )


@given(
    template=st.lists(
        st.sampled_from(
            [*(f"{{{field}}}" for field in FIELDS), "/", ".", "..", " ", "{", "}", "{}"]
        )
        | ANY
    )
    .map("".join)
    .filter(bool),
    value=ANY | st.sampled_from(["..", "/etc", "CON", "a/../b", "x" * 500]),
    folder=ANY,
)
def test_a_template_is_refused_or_names_files_below_the_outbox(
    template: str, value: str, folder: str
) -> None:
    with suppress(ConfigError):
        check_template(template)
        for path in propose_names(
            template, dict.fromkeys(FIELDS, value) | {"job_id": "7"}, folder=folder
        ):
            parts = path.split("/")
            assert all(
                part and part.strip(". ") and len(part.encode()) <= LONGEST for part in parts
            ), path
            assert not {"\\", "\0", ":"} & set(path)


TIMES = st.floats(-10, 1e6, allow_nan=False)


@settings(deadline=None, max_examples=40)
@given(
    segments=st.lists(
        st.builds(Segment, TIMES, TIMES, ANY, TIMES, TIMES, TIMES, st.sampled_from([None, 0, 1]))
    ),
    gaps=st.lists(st.tuples(TIMES, TIMES), max_size=2),
    source=ANY,
)
def test_any_transcript_can_be_rendered(
    segments: list[Segment], gaps: list[tuple[float, float]], source: str
) -> None:
    """Including impossible ones: unordered, with negative times or lengths."""
    transcript = Transcript(1, source, None, "tiny.en", 60.0, tuple(segments), tuple(gaps))
    render_value = {name: spec.render_file(transcript) for name, spec in FORMATS.items()}
    json.loads(render_value["json"])
    times = [(start, end) for start, end, _ in parse_srt(render_value["srt"].decode())]
    assert all(start <= end for start, end in times)
    assert [start for start, _ in times] == sorted(start for start, _ in times)
    assert render_value["vtt"].startswith(b"WEBVTT\n")


def test_the_rendered_input_is_toml() -> None:
    assert parse_sidecar(render_toml({"language": "en", "formats": ["txt"]}).encode()) == {
        "language": "en",
        "formats": ["txt"],
    }
    with pytest.raises(FileFault):
        parse_sidecar(render_toml({"a": None}).encode())
