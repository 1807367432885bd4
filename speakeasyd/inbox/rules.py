"""Which names in an inbox are looked at, and why the others are not."""

import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from pathlib import Path
from typing import Self

from speakeasyd.config import InboxSettings, Settings, WatchSettings
from speakeasyd.domain.presets import SIDECAR_ENDING


class InboxRules:
    """The rules of one inbox. `excluded`: folders below it that are not for arrivals, and what they are."""

    def __init__(
        self, watch: WatchSettings, *, excluded: Mapping[bytes, str] | None = None
    ) -> None:
        self._patterns = watch.ignore
        self._ignored = re.compile(
            "|".join(translate(p) for p in watch.ignore) or r"\b\B", re.IGNORECASE
        )
        self._extensions = frozenset(
            extension.lower().lstrip(".") for extension in watch.extensions
        )
        self._tries_unknown = watch.unknown == "try"
        self._excluded = excluded or {}

    @classmethod
    def for_inbox(cls, settings: Settings, inbox: InboxSettings) -> Self:
        """Leaves out what lies in the inbox but is not for it: outboxes, archives, failed folders."""
        others: list[tuple[Path | None, str]] = []
        for owner in settings.inboxes:
            others += [
                (owner.outbox, "an outbox"),
                (owner.archive, "an archive"),
                (owner.failed, "a failed folder"),
            ]
        return cls(settings.watch, excluded=dict(_list_folders_below(inbox.path, others)))

    def why_ignored(self, path: bytes) -> str | None:
        """Why the file at `path` (relative to the inbox, '/' between parts) is not looked at; None if it is."""
        folder, _, name = path.rpartition(b"/")
        return self.why_folder_ignored(folder) or self.why_name_ignored(os.fsdecode(name))

    def why_folder_ignored(self, path: bytes) -> str | None:
        """The same for a folder, b"" being the inbox itself."""
        for excluded, what in self._excluded.items():
            if path == excluded or path.startswith(excluded + b"/"):
                return f"{_format_name(os.fsdecode(excluded))} is {what}"
        names = os.fsdecode(path).split("/") if path else []
        return next(filter(None, map(self._why_pattern, names)), None)

    def why_name_ignored(self, name: str) -> str | None:
        """The same for the name of a file in a folder that is looked at."""
        if reason := self._why_pattern(name):
            return reason
        extension = _find_extension(name)
        if f".{extension}" == SIDECAR_ENDING and extension not in self._extensions:
            return "it is a sidecar: options for the audio file of the same name without .toml"
        if not self.has_other_extension(name):
            return None
        if not extension:
            return "its name has no extension; watch.unknown = 'try' would try it"
        shown = _format_name(f".{extension}")
        return f"its extension {shown} is not among watch.extensions; watch.unknown = 'try' would try it"

    def has_other_extension(self, name: str) -> bool:
        """Whether a file of this name is left out for its extension alone: a person may have meant it to be taken."""
        extension = _find_extension(name)
        return not (
            self._tries_unknown
            or extension in self._extensions
            or f".{extension}" == SIDECAR_ENDING
            or self._ignored.match(name)
        )

    def _why_pattern(self, name: str) -> str | None:
        if not self._ignored.match(name):
            return None
        pattern = next(p for p in self._patterns if re.match(translate(p), name, re.IGNORECASE))
        return f"{_format_name(name)} matches the pattern {pattern!r} of watch.ignore"


def _find_extension(name: str) -> str:
    """In small letters, without the dot."""
    stem, _, extension = name.rpartition(".")
    return extension.lower() if stem else ""


def _list_folders_below(
    root: Path, folders: Iterable[tuple[Path | None, str]]
) -> Iterable[tuple[bytes, str]]:
    """Those strictly below `root`, relative to it."""
    top = root.resolve()
    for folder, what in folders:
        place = folder.resolve() if folder else top
        if place != top and place.is_relative_to(top):
            yield os.fsencode(place.relative_to(top).as_posix()), what


def _format_name(name: str) -> str:
    return repr(os.fsencode(name).decode("utf-8", "backslashreplace"))
