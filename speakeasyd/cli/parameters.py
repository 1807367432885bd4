"""Options that several commands share, and the settings that they make."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from speakeasyd.config import LoadedSettings, Settings, load_configuration
from speakeasyd.config.loading import combine_sources
from speakeasyd.domain.formats import FORMATS
from speakeasyd.errors import ConfigError

_FOLDER = {
    "file_okay": False,
    "resolve_path": True,
    "readable": False,
}  # whether it can be read is said elsewhere

Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Use this configuration file.", resolve_path=True, readable=False
    ),
]
Inbox = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Watch this folder only.", **_FOLDER)
]
Outbox = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write transcripts to this folder.", **_FOLDER)
]
State = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The folder of the ledger.", **_FOLDER)
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR", help="`auto`, `bundled`, a size, a Hugging Face id, or a folder."
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="auto|cpu|cuda|cuda:N", help="The device that transcribes.")
]
Settle = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="How long a file must be unchanged.")
]
Language = Annotated[
    str | None, typer.Option(metavar="auto|CODE", help="The spoken language, such as `en`.")
]
Languages = Annotated[
    str | None,
    typer.Option(metavar="CODE,CODE,...", help="The languages to choose from, such as `en,de`."),
]
Audio = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N|LANGUAGE|all",
        help="Which audio tracks, such as `2`, `deu` or `eng,jpn`.",
    ),
]
Speakers = Annotated[
    str | None,
    typer.Option(metavar="off|auto|N", help="Tell speakers apart; a number says how many."),
]
Task = Annotated[
    str | None, typer.Option(metavar="transcribe|translate", help="`translate` gives English text.")
]
Formats = Annotated[
    str | None,
    typer.Option(metavar="txt,srt,...", help=f"The formats to write: {', '.join(FORMATS)}."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
ByLine = Annotated[bool, typer.Option("--line", help="Print each field on its own line, in full.")]
JobIds = Annotated[
    list[int],
    typer.Argument(metavar="JOB...", help="Job numbers, as `speakeasyd jobs` shows them."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line says; None leaves it to the configuration."""

    inbox: Inbox = None
    outbox: Outbox = None
    state: State = None
    model: Model = None
    device: Device = None
    settle: Settle = None
    language: Language = None
    languages: Languages = None
    audio: Audio = None
    speakers: Speakers = None
    task: Task = None
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
        told = {
            name: {key: value for key, value in table.items() if value is not None}
            for name, table in tables.items()
        }
        return told | ({"state": str(self.state)} if self.state else {})


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


def with_flags(command: Callable[[Path | None, Flags], int]) -> Callable[..., int]:
    """Gives a command that takes `Flags` one option for each of their fields, besides `--config`."""

    def with_options(config: Path | None = None, **options: Any) -> int:
        return command(config, Flags(**options))

    kinds = {"config": Config} | get_type_hints(Flags, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, keyword, default=None, annotation=kind)
        for name, kind in kinds.items()
    ]
    vars(with_options).update(__signature__=inspect.Signature(options))
    with_options.__annotations__ = kinds
    with_options.__doc__ = command.__doc__
    return with_options


def format_list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
