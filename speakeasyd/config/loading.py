"""Loads `Settings` from the file, the environment and the flags, with the origin of each value."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from speakeasyd.config.error_messages import build_error, find_nearest_origin
from speakeasyd.config.settings import Settings
from speakeasyd.setting_sources import (
    Values,
    find_base,
    find_file,
    flatten_values,
    merge_values,
    read_layers,
)


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
    for origin, layer in read_layers(found, flags=flags, environ=environ):
        merge_values(values, layer)
        origins |= {key: origin for key, _ in flatten_values(layer)}
    try:
        settings = Settings.model_validate(values, context={"base": find_base(found)})
    except ValidationError as error:
        raise build_error(error, origins, default=str(found or "the settings")) from error
    return LoadedSettings(settings, found, origins)
