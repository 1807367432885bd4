"""Loads `Settings` from the file, the environment and the flags, with the origin of each value."""

import os
import stat
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platformdirs import site_config_path, user_config_path
from pydantic import ValidationError

from speakeasyd.config.error_messages import build_error, find_nearest_origin
from speakeasyd.config.settings import Settings
from speakeasyd.errors import ConfigError

FILE_NAME = "speakeasyd.toml"
PREFIX = "SPEAKEASYD_"
FILE_VARIABLE = PREFIX + "CONFIG"

Values = Mapping[str, Any]
"""Keys and values as parsed from TOML, with nested tables."""


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    settings: Settings
    file: Path | None  # the file that was read
    origins: Mapping[str, str] = field(default_factory=dict)  # origin by dotted key, for messages

    def find_origin(self, dotted: str) -> str | None:
        """Return the origin of the key or of its table; None if it has its default."""
        return find_nearest_origin(self.origins, tuple(dotted.split(".")))


def load_configuration(
    file: Path | None = None,
    *,
    flags: Values | None = None,
    environ: Mapping[str, str] = os.environ,
) -> LoadedSettings:
    """Load the settings. Later sources take precedence: defaults, the file, the environment, the flags.

    `file`: the file to read, else the first of `list_candidates` that exists. Relative paths are
    relative to its folder. Raises ConfigError with all wrong settings.
    """
    return combine_sources(find_file(file, environ), flags=flags or {}, environ=environ)


def combine_sources(
    found: Path | None, *, flags: Values, environ: Mapping[str, str]
) -> LoadedSettings:
    """Do the same as `load_configuration` with a given file, or none."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in [
        (str(found), _read_file(found)),
        *_read_environment(environ),
        ("the command line", flags),
    ]:
        _merge_values(values, layer)
        origins |= {key: origin for key, _ in _flatten_values(layer)}
    try:
        base = found.parent.absolute() if found else Path.cwd()
        settings = Settings.model_validate(values, context={"base": base})
    except ValidationError as error:
        raise build_error(error, origins, default=str(found or "the settings")) from error
    return LoadedSettings(settings, found, origins)


def find_file(file: Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the configuration file, if any. Raises ConfigError if a given file does not exist."""
    named = file or (
        Path(environ[FILE_VARIABLE]).expanduser() if environ.get(FILE_VARIABLE) else None
    )
    if named and not is_there(named):
        source = "" if file else f" (given by {FILE_VARIABLE})"
        raise ConfigError(
            f"there is no file {named}{source}",
            hint="`speakeasyd config init` writes one with all keys explained.",
        )
    if named:
        return named
    user_file, machine_file = list_candidates()
    # HOME may belong to another user, as with `runuser`; this user may not look there
    with suppress(ConfigError):
        if is_there(user_file):
            return user_file
    return machine_file if is_there(machine_file) else None


def list_candidates() -> tuple[Path, Path]:
    """Return the default locations of the file: the user's, then the machine's; never the current folder."""
    site = (
        Path("/etc/speakeasyd")
        if sys.platform == "linux"
        else site_config_path("speakeasyd", appauthor=False)
    )
    return user_config_path("speakeasyd", appauthor=False) / FILE_NAME, site / FILE_NAME


def is_there(file: Path) -> bool:
    """Whether it is a regular file. Raises ConfigError where this user may not look."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> ConfigError:
    hint = ""
    if isinstance(error, PermissionError):
        hint = (
            f"Do it as {_describe_readers(file)}, or write a configuration of your own: "
            "speakeasyd config init"
        )
    return ConfigError(f"cannot read {file}: {error.strerror}", hint=hint)


def _describe_readers(file: Path) -> str:
    """Who may read it, as the first place tells that this user may look at."""
    for place in (file, *file.parents):
        try:
            return f"{place.owner()}, or as a member of the group {place.group()}"
        except (OSError, KeyError, NotImplementedError):
            continue
    return "its owner"


def _read_file(file: Path | None) -> Values:
    if file is None:
        return {}
    try:
        return tomllib.loads(
            file.read_text(encoding="utf-8-sig")
        )  # Notepad writes a byte order mark
    except tomllib.TOMLDecodeError as error:
        hint = (
            "Write Windows paths in single quotes: 'C:\\Audio'."
            if "\\" in str(error) or "hex" in str(error)
            else ""
        )
        raise ConfigError(f"{file} is not TOML: {error}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not text in UTF-8: {error.reason} at byte {error.start}",
            hint="Save it again as UTF-8.",
        ) from error
    except OSError as error:
        raise _unreadable(file, error) from error


def _read_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Values]]:
    """Yield one layer per variable: `SPEAKEASYD_WATCH__SETTLE_S=5` is `settle_s = 5` in `[watch]`."""
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() != FILE_VARIABLE:
            *tables, key = name[len(PREFIX) :].lower().split("__")
            layer: dict[str, Any] = {key: _parse_value(name, environ[name])}
            for table in reversed(tables):
                layer = {table: layer}
            yield f"the environment variable {name}", layer


def _parse_value(name: str, text: str) -> object:
    """Parse lists and tables as TOML; other values stay text, which the settings convert."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"the environment variable {name} is not a list or table in TOML: {error}",
            hint='Write a list as ["a", "b"], and a table as { key = "value" }.',
        ) from error


def _merge_values(below: dict[str, Any], above: Values) -> None:
    """Merge tables, and replace all other values."""
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _merge_values(below[key], value)
        else:
            below[key] = dict(value) if isinstance(value, Mapping) else value


def _flatten_values(values: Values, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted keys of all values that are not tables; an array of tables counts as one key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten_values(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
