"""Chooses the options of a file. Pure.

In rising precedence: the defaults, the inbox's preset, the preset named like the file's folder, the
file's sidecar. A sidecar can name another preset with the key `preset`.
"""

import codecs
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import ValidationError

from speakeasyd.domain.options import Options
from speakeasyd.domain.wrong_values import explain_value
from speakeasyd.errors import ErrorCode, FileFault

SIDECAR_ENDING = ".toml"
SIDECAR_BYTES = 64 * 1024  # bytes of a sidecar, at most; it normally has a few lines

Changes = Mapping[str, object]  # changed options by name


@dataclass(frozen=True, slots=True)
class ChosenOptions:
    """The options of one file, and the name of the preset to show with it."""

    options: Options
    preset: str | None


class Presets:
    """Chooses options for the files of one inbox. The presets were validated with the settings."""

    def __init__(
        self, *, defaults: Options, presets: Mapping[str, Changes], inbox_preset: str | None = None
    ) -> None:
        base = _apply_changes(defaults, presets[inbox_preset]) if inbox_preset else defaults
        self._without_folder = ChosenOptions(base, inbox_preset)
        self._by_folder = {
            _normalize_name(name): ChosenOptions(_apply_changes(base, changes), name)
            for name, changes in presets.items()
        }

    def choose_options(self, folder: str, sidecar: Changes | None = None) -> ChosenOptions:
        """Return the options of a file with this sidecar.

        `folder`: the first part of the file's path below the inbox, "" if it lies in the inbox
        itself. Raises FileFault (`bad_sidecar`) if the sidecar has an unknown preset or option, or
        a wrong value.
        """
        choice = self._by_folder.get(_normalize_name(folder), self._without_folder)
        changes = dict(sidecar or {})
        if name := changes.pop("preset", None):
            choice = self._find_preset(str(name))
        if not changes:
            return choice
        try:
            return ChosenOptions(_apply_changes(choice.options, changes), choice.preset)
        except ValidationError as error:
            raise sidecar_error(explain_options_error(error)) from error

    def _find_preset(self, name: str) -> ChosenOptions:
        if choice := self._by_folder.get(_normalize_name(name)):
            return choice
        known = ", ".join(sorted(self._by_folder)) or "none"
        raise sidecar_error(f"there is no preset {name[:80]!r}; there is {known}")


def parse_sidecar(data: bytes) -> Changes:
    """Parse the TOML of a sidecar. Raises FileFault (`bad_sidecar`) if it is not TOML in UTF-8."""
    has_mark = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if has_mark or data.count(0) > max(
        1, len(data) // 3
    ):  # every other byte of English in UTF-16 is 0
        raise sidecar_error("it is UTF-16; save it as UTF-8")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise sidecar_error("it is not text in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise sidecar_error(f"it is not TOML: {error}") from error
    except RecursionError as error:
        raise sidecar_error("it is nested too deep") from error


def sidecar_error(what: str) -> FileFault:
    """Return the error (`bad_sidecar`) of a sidecar; `what` is the message for users."""
    return FileFault(
        ErrorCode.BAD_SIDECAR,
        f"the sidecar beside the file cannot be used: {what}",
        hint="Correct it, then touch the audio file or drop it again.",
    )


def explain_options_error(error: ValidationError) -> str:
    """Return a message about the first error: the key and what is allowed."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return explain_value(key, first, shown=f"{first['input']!r:.80}")
    close = get_close_matches(key, Options.model_fields, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown key {key[:80]!r}; {guess}Allowed: preset, {', '.join(Options.model_fields)}"


def _apply_changes(base: Options, changes: Changes) -> Options:
    return Options.model_validate({**base.model_dump(), **changes})


def _normalize_name(name: str) -> str:
    """Return the name in Unicode form NFC; macOS writes the same visible name in another form."""
    return unicodedata.normalize("NFC", name)
