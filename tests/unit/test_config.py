"""Settings: sources, validation and messages."""

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.config import (
    InboxSettings,
    Settings,
    apply_live_changes,
    compare_settings,
    load_configuration,
)
from speakeasyd.config.changes import LIVE
from speakeasyd.config.error_messages import list_keys
from speakeasyd.config.reference import (
    format_toml,
    list_assignments,
    list_reference,
    render_markdown,
    render_toml_file,
)
from speakeasyd.errors import ConfigError
from speakeasyd.setting_sources import find_state_folder, list_candidates

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _hide_local_configuration(monkeypatch: pytest.MonkeyPatch, scratch_home: Path) -> None:
    monkeypatch.setattr(
        "speakeasyd.setting_sources.list_candidates", lambda: [scratch_home / "speakeasyd.toml"] * 2
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "speakeasyd.toml"


def read_refusal(file: Path, text: str, environ: Mapping[str, str] | None = None) -> str:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_configuration(file, environ=environ or {})
    assert caught.value.exit_status == 78
    return str(caught.value)


# --- layers


def test_later_layers_override_earlier_ones(file: Path) -> None:
    file.write_text("[watch]\nsettle_s = 1\npoll_s = 1\nempty_s = 1\n")
    environ = {"SPEAKEASYD_WATCH__POLL_S": "2", "SPEAKEASYD_WATCH__EMPTY_S": "2"}
    loaded = load_configuration(file, environ=environ, flags={"watch": {"empty_s": 3}})
    watch = loaded.settings.watch
    assert (watch.settle_s, watch.poll_s, watch.empty_s, watch.rescan_s) == (1, 2, 3, 300)
    assert loaded.find_origin("watch.settle_s") == str(file)
    assert loaded.find_origin("watch.poll_s") == "the environment variable SPEAKEASYD_WATCH__POLL_S"
    assert loaded.find_origin("watch.empty_s") == "the command line"
    assert loaded.find_origin("watch.rescan_s") is None


@pytest.mark.parametrize(
    ("text", "environ", "flag"),
    [
        ("", {}, None),
        ("state = 'ledger'", {}, None),
        ("state = '~/ledger'", {"SPEAKEASYD_STATE": "/elsewhere"}, None),
        ("state = 'ledger'", {"SPEAKEASYD_STATE": "/elsewhere"}, Path("/flag")),
    ],
)
def test_the_state_folder_is_found_without_the_settings(
    file: Path, text: str, environ: Mapping[str, str], flag: Path | None
) -> None:
    file.write_text(text)
    flags = {"state": str(flag)} if flag else {}
    settings = load_configuration(file, environ=environ, flags=flags).settings
    assert find_state_folder(file, environ=environ, flag=flag) == settings.state


@pytest.mark.parametrize("text", ["state = 3", "state = '$UNSET/ledger'", "[watch]\nsettle_s = 1"])
def test_settings_that_have_to_be_checked_are_left_to_the_check(file: Path, text: str) -> None:
    file.write_text(text)
    assert find_state_folder(file, environ={}) is None


def test_lists_in_the_environment_are_written_as_toml(file: Path) -> None:
    file.write_text("")
    environ = {
        "SPEAKEASYD_OPTIONS__FORMATS": '["vtt", "json"]',
        "SPEAKEASYD_WORKERS__OFFLINE": "true",
    }
    settings = load_configuration(file, environ=environ).settings
    assert settings.options.formats == ("vtt", "json")
    assert settings.workers.offline is True


def test_a_preset_can_come_from_the_environment(file: Path) -> None:
    file.write_text("[presets.fr]\nlanguage = 'fr'\n")
    settings = load_configuration(file, environ={"SPEAKEASYD_PRESETS__FR__BEAM_SIZE": "2"}).settings
    assert settings.presets == {"fr": {"language": "fr", "beam_size": 2}}


def test_the_file_of_the_environment_and_none_at_all(file: Path) -> None:
    file.write_text("[log]\nlevel = 'debug'\n")
    assert (
        load_configuration(environ={"SPEAKEASYD_CONFIG": str(file)}).settings.log.level == "debug"
    )
    loaded = load_configuration(environ={})
    assert loaded.file is None
    assert loaded.settings.log.level == "info"


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*nowhere\.toml"):
        load_configuration(tmp_path / "nowhere.toml", environ={})
    with pytest.raises(ConfigError, match="SPEAKEASYD_CONFIG"):
        load_configuration(environ={"SPEAKEASYD_CONFIG": str(tmp_path / "nowhere.toml")})


def test_the_users_file_comes_before_the_machines() -> None:
    user, machine = list_candidates()
    assert user.name == machine.name == "speakeasyd.toml"
    assert "speakeasyd" in user.parent.name
    assert machine.is_absolute()


def test_a_byte_order_mark_is_skipped(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[log]\nlevel = 'error'\n")
    assert load_configuration(file, environ={}).settings.log.level == "error"


# --- paths


def test_paths_count_from_the_file_and_are_filled_in(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scratch_home: Path
) -> None:
    monkeypatch.setenv("SPOKEN", str(tmp_path / "spoken"))
    file.write_text('state = "state"\n[[inboxes]]\npath = "~/inbox"\noutbox = "$SPOKEN/out"\n')
    settings = load_configuration(file, environ={}).settings
    assert settings.state == tmp_path / "state"
    assert settings.inboxes[0].path == scratch_home / "inbox"
    assert settings.inboxes[0].outbox == tmp_path / "spoken" / "out"


def test_a_variable_that_is_not_set_is_refused(file: Path) -> None:
    message = read_refusal(file, 'state = "${NO_SUCH_VARIABLE}/state"')
    assert "state" in message
    assert "NO_SUCH_VARIABLE is not set" in message


# --- validation

WRONG = [
    ("[watch]\nsetle_s = 1", ["watch.setle_s", "did you mean settle_s?"]),
    ("settle_s = 1", ["no key settle_s", "did you mean watch.settle_s?"]),
    ("[watching]\nx = 1", ["no key watching", "did you mean watch?"]),
    ("[log]\nzzz = 1", ["no key log.zzz", "allowed: level, format"]),
    ("[log]\nlevel = 'loud'", ["log.level is 'loud'", "'debug', 'info', 'warning' or 'error'"]),
    ("[watch]\nsettle_s = -1", ["watch.settle_s is -1", "at least 0"]),
    ("[workers]\ndevice = 'gpu'", ["workers.device is 'gpu'", "`cuda:0`"]),
    ("[options]\nformats = ['pdf']", ["options.formats", "'txt', 'srt'"]),
    ("[options]\nname = '{stm}'", ["options.name", "unknown field {stm}", "{stem}"]),
    ("[options]\nname = '../{stem}'", ["options.name", ".."]),
    ("[presets.fr]\nlangage = 'fr'", ["presets.fr.langage", "did you mean language?"]),
    ("[presets.fr]\nbeam_size = 99", ["presets.fr.beam_size is 99", "at most 20"]),
    ("[presets.fr]\nname = '{nope}'", ["presets.fr.name", "unknown field {nope}"]),
    ("[presets.'a/b']\ntask = 'translate'", ["'a/b'", "allowed in folder names"]),
    ("inboxes = []", ["inboxes is empty"]),
    ("[[inboxes]]\npath = 'a'\n[[inboxes]]\npath = 'b'", ["two inboxes are named 'inbox'"]),
    (
        "[[inboxes]]\nname = 'a'\npath = 'x'\n[[inboxes]]\nname = 'b'\npath = 'x/y'",
        ["inbox 'b'", "is inside inbox 'a'"],
    ),
    ("[[inboxes]]\npath = 'x'\noutbox = 'x'", ["outbox of inbox 'inbox' is inbox 'inbox'"]),
    (
        "[[inboxes]]\npath = 'x'\narchive = './x/../x'",
        ["archive of inbox 'inbox' is inbox 'inbox'"],
    ),
    ("[[inboxes]]\nsources = 'archive'", ["inboxes.0", "needs the key archive"]),
    (
        "[[inboxes]]\npreset = 'fr'\n[presets.de]\nlanguage = 'de'",
        ["has the preset 'fr'", "known presets: de"],
    ),
    ("[[inboxes]]\nname = 'a b'", ["inboxes.0.name is 'a b'", "letters, digits"]),
    ("[polite]\nhours = ['22:00']", ["polite.hours.0", "'22:00' is no span of time"]),
    ("[notify]\nhook = ['mail', '{text}']", ["notify.hook", "unknown field {text}", "{txt}"]),
    (
        "[notify]\nwebhooks = [{ url = 'ftp://x' }]",
        ["notify.webhooks.0.url is 'ftp://x'", "`https://`"],
    ),
    (
        "[notify]\nwebhooks = [{ url = 'http://x' }, { url = 'http://x' }]",
        ["two webhooks have the url 'http://x'"],
    ),
    (
        "[notify]\nwebhooks = [{ url = 'http://x', event = [] }]",
        ["notify.webhooks.0.event", "did you mean events?"],
    ),
    ("state = 3", ["state is 3"]),
    ("[watch", ["is not TOML: "]),
    ('state = "C:\\Users\\me"', ["is not TOML"]),
]


@pytest.mark.parametrize(
    "text",
    [
        "[notify]\nwebhooks = [{ url = 'http://x/SECRET' }, { url = 'http://x/SECRET' }]",
        "[notify]\nwebhooks = [{ url = 'http://u:SECRET@x' }, { url = 'http://u:SECRET@x' }]",
        "[notify]\nwebhooks = [{ url = 'ftp://x/SECRET' }]",
        "[notify]\nwebhooks = [{ url = 'x/SECRET' }]",
        "[notify]\nwebhooks = [{ url = 'http://[x/SECRET a' }]",
        "[notify]\nwebhooks = 'http://x/SECRET'",
        "[notify]\nwebhooks = ['http://x/SECRET']",
        "[notify]\nwebhooks = [{ url = 'http://x', secret = ['SECRET'] }]",
        "[notify]\nwebhooks = [{ secret = 'SECRET' }]",
        "[notify]\napprise = 'mailto://u:SECRET@x'",
        "[notify]\napprise = [['mailto://u:SECRET@x']]",
        "[server]\ntoken = 'SECRET'",
        "[server]\ntoken = ['SECRET']",
        "notify = ['SECRET']",
        "server = 'SECRET'",
    ],
)
def test_possible_secrets_are_hidden(file: Path, text: str) -> None:
    assert "SECRET" not in read_refusal(file, text)


@pytest.mark.parametrize(
    ("text", "expected"), WRONG, ids=[text.replace("\n", " ") for text, _ in WRONG]
)
def test_an_error_names_file_key_and_allowed_values(
    file: Path, text: str, expected: list[str]
) -> None:
    message = read_refusal(file, text)
    assert message.startswith(str(file))
    assert [part for part in expected if part not in message] == []


def test_all_errors_are_reported_together(file: Path) -> None:
    message = read_refusal(file, "[watch]\nsettle_s = -1\n[log]\nlevel = 'loud'\nformt = 'x'")
    assert len(message.splitlines()) == 3


def test_an_error_names_its_variable_or_flag(file: Path) -> None:
    message = read_refusal(
        file, "[watch]\npoll_s = 1", environ={"SPEAKEASYD_WATCH__POLL_S": "soon"}
    )
    assert message.startswith(
        "the environment variable SPEAKEASYD_WATCH__POLL_S: watch.poll_s is 'soon'"
    )
    assert "SPEAKEASYD_WACTH__POLL_S: there is no key wacth" in read_refusal(
        file, "", {"SPEAKEASYD_WACTH__POLL_S": "1"}
    )
    assert "SPEAKEASYD_OPTIONS__FORMATS is not a list" in read_refusal(
        file, "", {"SPEAKEASYD_OPTIONS__FORMATS": "[txt"}
    )
    with pytest.raises(ConfigError, match=r"the command line: options\.task is 'sing'"):
        load_configuration(flags={"options": {"task": "sing"}}, environ={})


def test_windows_paths_in_double_quotes_get_a_hint(file: Path) -> None:
    file.write_text('state = "C:\\Users\\me"')
    with pytest.raises(ConfigError) as caught:
        load_configuration(file, environ={})
    assert "single quotes" in caught.value.hint


def test_binary_is_not_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        load_configuration(file, environ={})


def test_an_outbox_below_the_inbox_is_allowed(file: Path) -> None:
    file.write_text("[[inboxes]]\npath = 'x'\noutbox = 'x/transcripts'\n")
    assert load_configuration(file, environ={}).settings.inboxes[0].outbox.parent.name == "x"


@given(st.text())
def test_any_file_is_loaded_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "speakeasyd.toml"
    file.write_text(text, encoding="utf-8", errors="replace")
    with suppress(ConfigError):
        load_configuration(file, environ={})


# --- the reference


def test_the_commented_file_is_up_to_date() -> None:
    """To regenerate it: speakeasyd config init --force config/speakeasyd.toml"""
    assert (REPOSITORY / "config" / "speakeasyd.toml").read_text(
        encoding="utf-8"
    ) == render_toml_file()


def test_the_commented_file_changes_nothing() -> None:
    assert (
        load_configuration(REPOSITORY / "config" / "speakeasyd.toml", environ={}).settings
        == Settings()
    )


def test_every_key_is_in_the_file_with_its_default(tmp_path: Path) -> None:
    """Without the `#` before keys, the file loads and gives the same settings."""
    uncommented = [
        line.removeprefix("# ")
        for line in render_toml_file().splitlines()
        if not line.startswith("# ") or _is_key(line.removeprefix("# "))
    ]
    values = tomllib.loads("\n".join(uncommented))
    for key in list_reference():
        table = values.get(key.table, values) if key.table else values
        value = (table[0] if isinstance(table, list) else table)[key.name]
        assert format_toml(value) == key.default
    examples = {(key.table, key.name) for key in list_reference() if key.is_example}
    places = {("inboxes", "preset"), ("inboxes", "archive"), ("inboxes", "failed")}
    speakers = {("options", "speakers_min"), ("options", "speakers_max")}
    assert examples == places | speakers | {("server", "token"), ("server", "inbox")}


def _is_key(line: str) -> bool:
    """Whether it is a key, a continued line of a list, or the header of the preset example."""
    return line.startswith(("    ", "[")) or line.partition(" = ")[0] in {
        name for _, _, name in list_keys()
    }


def test_every_key_has_a_comment_line() -> None:
    assert [key.name for key in list_reference() if not key.why.strip().endswith(".")] == []


def test_the_docs_have_every_key() -> None:
    """To fix it: put the output of `render_markdown()` between the marks."""
    assert render_markdown() in (REPOSITORY / "docs" / "configuration.md").read_text(
        encoding="utf-8"
    )


def test_settings_are_written_as_in_the_file(file: Path, tmp_path: Path) -> None:
    file.write_text(
        "[[inboxes]]\npath='a'\noutbox='b'\n[presets.fr]\nlanguage='fr'\nhotwords='Zoë \"Q\"'\n[watch]\nsettle_s=0.5"
    )
    settings = load_configuration(file, environ={}).settings
    lines, table = [], ""
    for assignment in list_assignments(settings):
        if assignment.table != table:
            table = assignment.table
            lines.append(table)
        lines.append(f"{assignment.key} = {assignment.value}")
    again = tmp_path / "again.toml"
    again.write_text("\n".join(lines), encoding="utf-8")
    assert load_configuration(again, environ={}).settings == settings


def test_secrets_are_shown_as_stars(file: Path) -> None:
    file.write_text(
        "[notify]\nwebhooks = [{ url = 'http://x', secret = 'hush' }]\napprise = ['ntfy://hush']"
    )
    message = " ".join(
        assignment.value
        for assignment in list_assignments(load_configuration(file, environ={}).settings)
    )
    assert "http://x" in message
    assert "hush" not in message


# --- reload


def test_a_reload_reports_what_needs_a_restart() -> None:
    old = Settings()
    new = Settings.model_validate(
        {
            "state": "/elsewhere",
            "inboxes": [{"path": "/other"}],
            "watch": {"settle_s": 9},
            "options": {"language": "de"},
            "presets": {"fr": {"language": "fr"}},
            "recovery": {"max_attempts": 9},
            "log": {"level": "debug", "format": "json"},
            "workers": {"device": "cpu"},
        }
    )
    changes = compare_settings(old, new)
    assert changes.now == (
        "log.level",
        "options.language",
        "presets.fr.language",
        "watch.settle_s",
    )
    assert changes.restart == (
        "inboxes.0.path",
        "log.format",
        "recovery.max_attempts",
        "state",
        "workers.device",
    )
    assert compare_settings(apply_live_changes(old, new), new) == type(changes)(
        now=(), restart=changes.restart
    )


def test_equal_settings_have_no_changes() -> None:
    changes = compare_settings(Settings(), Settings())
    assert (changes.now, changes.restart) == ((), ())


def test_live_keys_exist() -> None:
    known = {f"{table}.{name}" if table else name for table, _, name in list_keys()} | {"presets"}
    assert [
        live for live in LIVE if not any(key == live or key.startswith(f"{live}.") for key in known)
    ] == []


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        InboxSettings().name = "other"  # type: ignore[misc]  # that is the point
