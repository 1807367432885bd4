"""Where the settings come from: the file, environment variables and flags, before they are checked.

It imports no more than it needs, so that commands that only need the ledger start quickly.
"""

import os
import re
import stat
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import site_config_path, user_config_path, user_data_path

from speakeasyd.errors import ConfigError

FILE_NAME = "speakeasyd.toml"
PREFIX = "SPEAKEASYD_"
FILE_VARIABLE = PREFIX + "CONFIG"

_VARIABLE = re.compile(r"\$(?:{(\w+)}|([A-Za-z_]\w*))")

Values = Mapping[str, Any]
"""Keys and values as parsed from TOML, with nested tables."""


def find_state_folder(
    file: Path | None = None,
    *,
    flag: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Path | None:
    """Return `Settings.state` if no other setting is given, which would have to be checked.

    `flag`: given on the command line. Raises ConfigError.
    """
    found = find_file(file, environ)
    flags = {"state": str(flag)} if flag else {}
    values: dict[str, Any] = {}
    for _, layer in read_layers(found, flags=flags, environ=environ):
        merge_values(values, layer)
    state = values.pop("state", None) or default_state_folder()
    if values or not isinstance(state, str | Path):
        return None
    with suppress(ValueError):
        return resolve_path(Path(state), base=find_base(found))
    return None


def default_state_folder() -> Path:
    return user_data_path("speakeasyd", appauthor=False)


def resolve_path(path: Path, *, base: Path) -> Path:
    """Return the absolute path, with `~` and environment variables expanded.

    A relative path is relative to `base`. Raises ValueError for a variable that is not set.
    """
    for braced, plain in _VARIABLE.findall(str(path)):
        if (braced or plain) not in os.environ:
            raise ValueError(f"the environment variable {braced or plain} is not set")
    return Path(os.path.normpath(base / Path(os.path.expandvars(path)).expanduser()))


def find_base(file: Path | None) -> Path:
    """Return the folder that relative paths in the settings are relative to."""
    return file.parent.absolute() if file else Path.cwd()


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
        raise _explain_unreadable(file, error) from error


def _explain_unreadable(file: Path, error: OSError) -> ConfigError:
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


def read_layers(
    found: Path | None, *, flags: Values, environ: Mapping[str, str]
) -> Iterator[tuple[str, Values]]:
    """Yield the origin and the values of each source; later ones take precedence."""
    yield str(found), _read_file(found)
    yield from _read_environment(environ)
    yield "the command line", flags


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
        raise _explain_unreadable(file, error) from error


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


def merge_values(below: dict[str, Any], above: Values) -> None:
    """Merge tables, and replace all other values."""
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            merge_values(below[key], value)
        else:
            below[key] = dict(value) if isinstance(value, Mapping) else value


def flatten_values(values: Values, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted keys of all values that are not tables; an array of tables counts as one key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten_values(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
