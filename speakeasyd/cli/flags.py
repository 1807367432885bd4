"""Options that change settings, and the settings that they make."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from speakeasyd.cli import parameters as given
from speakeasyd.config import LoadedSettings, Settings, load_configuration
from speakeasyd.config.loading import combine_sources
from speakeasyd.domain.formats import FORMATS
from speakeasyd.errors import ConfigError
from speakeasyd.workers.spawn import SpawnedWorker

Formats = Annotated[
    str | None,
    typer.Option(metavar="txt,srt,...", help=f"The formats to write: {', '.join(FORMATS)}."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line says; None leaves it to the configuration."""

    inbox: given.Inbox = None
    outbox: given.Outbox = None
    state: given.State = None
    model: given.Model = None
    device: given.Device = None
    settle: given.Settle = None
    language: given.Language = None
    languages: given.Languages = None
    audio: given.Audio = None
    speakers: given.Speakers = None
    task: given.Task = None
    formats: Formats = None

    def to_settings(self) -> dict[str, Any]:
        """As the configuration file would say it, the inboxes aside."""
        formats = _split_codes(self.formats)
        languages = _split_codes(self.languages)
        tables: dict[str, dict[str, object]] = {
            "options": {
                "model": _resolve_model(self.model),
                "language": self.language,
                "languages": languages,
                "audio": self.audio,
                "speakers": self.speakers,
                "task": self.task,
                "formats": formats,
            },
            "watch": {"settle_s": self.settle},
            "workers": {"device": self.device},
        }
        values = {
            name: {key: value for key, value in table.items() if value is not None}
            for name, table in tables.items()
        }
        return values | ({"state": str(self.state)} if self.state else {})


def load_settings(config: Path | None, flags: Flags = Flags()) -> Settings:
    return load_with_flags(config, flags).settings


def load_with_flags(config: Path | None, flags: Flags = Flags()) -> LoadedSettings:
    """The configuration with the flags on top. `--inbox` leaves one inbox: the first, in another place."""
    values = flags.to_settings()
    if flags.inbox or flags.outbox:
        values["inboxes"] = [_only_inbox(load_configuration(config, flags=values).settings, flags)]
    return load_configuration(config, flags=values)


def settings_from_flags(flags: Flags) -> Settings:
    """As if there were no configuration at all. `flags` must name the inbox and the outbox."""
    inbox = {"path": flags.inbox, "outbox": flags.outbox}
    return combine_sources(
        None, flags=flags.to_settings() | {"inboxes": [inbox]}, environ={}
    ).settings


def _only_inbox(configured: Settings, flags: Flags) -> dict[str, object]:
    if len(configured.inboxes) > 1 and not flags.inbox:
        raise ConfigError(
            "--outbox alone is not enough: there are several inboxes", hint="Give --inbox as well."
        )
    first = configured.inboxes[0].model_dump(exclude_none=True)
    places = {"path": flags.inbox, "outbox": flags.outbox}
    return first | {key: folder for key, folder in places.items() if folder}


def _split_codes(words: str | None) -> list[str] | None:
    return words.replace(",", " ").split() if words else None


def _resolve_model(name: str | None) -> str | None:
    """A folder is meant from where the command is given."""
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def with_flags(
    command: Callable[[Path | None, Flags, SpawnedWorker | None], int],
) -> Callable[..., int]:
    """Gives a command that takes `Flags` one option for each of their fields, besides `--config`.

    The command also gets the prestarted worker; see `speakeasyd/__main__.py`.
    """

    def with_options(context: typer.Context, config: Path | None = None, **options: Any) -> int:
        return command(config, Flags(**options), context.obj)

    kinds = {"context": typer.Context, "config": given.Config} | get_type_hints(
        Flags, include_extras=True
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, keyword, default=None, annotation=kind)
        for name, kind in kinds.items()
    ]
    vars(with_options).update(__signature__=inspect.Signature(options))
    with_options.__annotations__ = kinds
    with_options.__doc__ = command.__doc__
    return with_options
