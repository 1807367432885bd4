"""Decides which changes of the configuration apply to a running daemon."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from speakeasyd.config.settings import Settings

LIVE = ("options", "presets", "watch", "ledger", "notify", "polite", "log.level")
"""The keys and tables that need no restart. Jobs keep the options that they were created with."""


@dataclass(frozen=True, slots=True)
class SettingsChanges:
    """Dotted keys."""

    now: tuple[str, ...]
    restart: tuple[str, ...]


def compare_settings(old: Settings, new: Settings) -> SettingsChanges:
    """Return which changed keys take effect now, and which need a restart."""
    before, after = dict(_flatten_keys(old.model_dump())), dict(_flatten_keys(new.model_dump()))
    changed = sorted(
        key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
    )
    now = tuple(key for key in changed if _is_live(key))
    return SettingsChanges(now=now, restart=tuple(key for key in changed if key not in now))


def apply_live_changes(old: Settings, new: Settings) -> Settings:
    """Return `old` with those changes of `new` that take effect now."""
    log = old.log.model_copy(update={"level": new.log.level})
    live = {name: getattr(new, name) for name in LIVE if "." not in name}
    return old.model_copy(update=live | {"log": log})


def _is_live(key: str) -> bool:
    return any(key == live or key.startswith(live + ".") for live in LIVE)


def _flatten_keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten_keys(value, f"{prefix}{key}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], Mapping):
            yield from _flatten_keys(
                {str(number): item for number, item in enumerate(value)}, f"{prefix}{key}."
            )
        else:
            yield prefix + key, value
