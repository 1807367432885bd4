"""What can be set, as tables of the configuration file. Read-only once made; what contradicts itself is never made."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from platformdirs import user_data_path, user_documents_path
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_serializer,
    model_validator,
)

from speakeasyd.domain import work_hours
from speakeasyd.domain.notifications import USUAL_NOTIFICATIONS, NotificationKind, check_command
from speakeasyd.domain.options import Options

_VARIABLE = re.compile(r"\$(?:{(\w+)}|([A-Za-z_]\w*))")


def _resolve_path(path: Path, info: ValidationInfo) -> Path:
    """Absolute, with `~` and environment variables filled in. The validation's context says what it is relative to."""
    for braced, plain in _VARIABLE.findall(str(path)):
        if (braced or plain) not in os.environ:
            raise ValueError(f"the environment variable {braced or plain} is not set")
    base = (info.context or {}).get("base") or Path.cwd()
    return Path(os.path.normpath(base / Path(os.path.expandvars(path)).expanduser()))


def _check_options(changes: dict[str, object]) -> dict[str, object]:
    """Those options that differ, checked by themselves: all others have defaults."""
    return Options.model_validate(changes).model_dump(exclude_unset=True)


def _check_span(text: str) -> str:
    work_hours.parse_window(text)
    return text


Folder = Annotated[Path, AfterValidator(_resolve_path)]
PresetName = Annotated[str, Field(pattern=r"^[^\\/:*?\"<>|.][^\\/:*?\"<>|]*$")]
"""Also the name of a folder in the inbox."""
Preset = Annotated[dict[str, object], AfterValidator(_check_options)]


_MEDIA = """
    3g2 3ga 3gp 3gp2 3gpp 3gpp2 aac ac3 adts aif aifc aiff alac amr ape asf au avi awb bwf caf divx ds2 dsf dss dts eac3
    f4a f4b f4v flac flv gsm m1a m2a m2t m2ts m4a m4b m4p m4r m4v mka mkv mov mp1 mp2 mp3 mp4 mpa mpc mpe mpeg mpg mpga
    mts mxf oga ogg ogv ogx oma opus qcp qt qta ra rf64 rm rmvb shn sln snd sph spx tak tod tp trp ts tta vob voc vro
    w64 wav wave weba webm wma wmv wtv wv
"""
HIDDEN = "**********"  # what is shown in place of a secret
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_NOISE = (
    *(
        ".*",
        "*~",
        "~*",
        "*.part",
        "*.filepart",
        "*.partial",
        "*.crdownload",
        "*.download",
        "*.tmp",
        "*.temp",
    ),
    *(
        "@eaDir",
        "Thumbs.db",
        "desktop.ini",
        "lost+found",
        "System Volume Information",
        "$RECYCLE.BIN",
        "RECYCLER",
    ),
    *("#recycle", "@Recycle", "#snapshot", "@Recently-Snapshot", "@tmp", "@SynoResource"),
    *("Temporary Items", "Network Trash Folder"),
)


def _check_origin(text: str) -> str:
    scheme, separator, host = text.lower().rstrip("/").partition("://")
    if not scheme or not separator or not host or "/" in host or "*" in host:
        raise ValueError(
            f"an origin is a scheme and a name, such as 'app://obsidian.md', not {text!r}"
        )
    return f"{scheme}://{host}"


class SettingsTable(BaseModel):
    """Each key has its default and, below it, one line of why: also the words of `speakeasyd.toml` and of the docs."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True
    )


class InboxSettings(SettingsTable):
    """A watched folder and where its transcripts go. Repeat the table for more of them."""

    name: str = Field("inbox", pattern=r"^[\w-]+$")
    """Letters, digits, `-` and `_`: what the ledger calls this inbox. Do not change it later."""
    path: Folder = Field(
        default_factory=lambda: user_documents_path() / "speakeasyd" / "inbox",
        examples=["~/Documents/speakeasyd/inbox"],
    )
    """The folder to drop audio and video into, sub-folders included."""
    outbox: Folder = Field(
        default_factory=lambda: user_documents_path() / "speakeasyd" / "outbox",
        examples=["~/Documents/speakeasyd/outbox"],
    )
    """The folder that transcripts are written to, with the same sub-folders."""
    preset: str | None = Field(None, examples=["interviews"])
    """The preset of files that lie in no sub-folder named like a preset."""
    sources: Literal["keep", "archive", "delete"] = "keep"
    """What becomes of a source once its transcript is durable: `keep` it, move it to `archive`, or `delete` it."""
    archive: Folder | None = Field(None, examples=["~/Documents/speakeasyd/archive"])
    """The folder that finished sources go to with `sources = "archive"`."""
    failed: Folder | None = Field(None, examples=["~/Documents/speakeasyd/failed"])
    """The folder that sources of failed jobs are moved to, with a note of why; they stay where they are if not set."""

    @model_validator(mode="after")
    def _require_targets(self) -> Self:
        if self.sources == "archive" and self.archive is None:
            raise ValueError('sources = "archive" needs the key archive: a folder to move them to')
        return self

    @property
    def is_default(self) -> bool:
        """Whether its folder is the default. Only then is it made: a chosen one may be a disk yet to be mounted."""
        return self.path == InboxSettings().path

    @property
    def targets(self) -> dict[str, Path]:
        """The folders that files are put into, by key."""
        folders = {"outbox": self.outbox, "archive": self.archive, "failed": self.failed}
        return {key: folder for key, folder in folders.items() if folder}


class WatchSettings(SettingsTable):
    """When a file counts as complete, and which files count at all."""

    settle_s: float = Field(2.0, ge=0, le=3600)
    """Seconds that size and times must be still before a file counts as complete; more for slow uploads."""
    rescan_s: float = Field(300.0, ge=1)
    """Seconds between two scans of the whole inbox; events only make things quicker."""
    poll_s: float = Field(5.0, ge=0.5)
    """Seconds between two scans where the filesystem gives no events."""
    poll: Literal["auto", "always", "never"] = "auto"
    """Scan every `poll_s` seconds: where the filesystem is known to need it, `always`, or `never`."""
    empty_s: float = Field(30.0, ge=0)
    """Seconds after which a file that stays at zero bytes is given up."""
    incomplete_s: float = Field(60.0, ge=0)
    """Seconds that a file which ends early waits for its rest before it is done or fails; `once` does not wait."""
    incomplete_max_s: float = Field(600.0, ge=0)
    """Seconds of the longest such wait: it doubles each time that the file has gone on."""
    extensions: tuple[str, ...] = tuple(_MEDIA.split())
    """Endings of the names that are taken, without the dot."""
    unknown: Literal["ignore", "try"] = "ignore"
    """A file whose ending is not listed: `ignore` it, or `try` it and fail it if it is not media."""
    ignore: tuple[str, ...] = _NOISE
    """Shell patterns of names, of files and of folders, that are never looked at."""
    duplicates: Literal["reuse", "skip", "transcribe"] = "reuse"
    """The same bytes under another path: `reuse` the transcript, `skip` the file, or `transcribe` it again."""


class WorkerSettings(SettingsTable):
    """What the transcription runs on."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:\d+)$")] = "auto"
    """`auto`, `cpu`, `cuda` for every GPU, or one such as `cuda:0`. `auto` says so if a GPU cannot be used."""
    compute_type: str = "auto"
    """Precision, as CTranslate2 names it: `auto`, `int8`, `float16`, `int8_float16`, `float32`."""
    replicas: int = Field(0, ge=0)
    """Models that compute side by side in a worker; 0: as many as fit the device."""
    batch_size: int = Field(0, ge=0)
    """Chunks of 30 s in one call, or as many more as are shorter; 0: as many as fit the device."""
    idle_unload_s: float = Field(600.0, ge=0)
    """Seconds without work after which the model is freed; 0 keeps it for ever."""
    offline: bool = False
    """Never ask the Hugging Face hub: only what is already there."""
    max_hours: float = Field(24.0, gt=0)
    """Longer audio is refused."""


class RecoverySettings(SettingsTable):
    """How patient to be when something fails."""

    max_attempts: int = Field(5, ge=1)
    """Attempts at one job, deaths of workers that were not its fault aside."""
    retry_s: float = Field(5.0, ge=0)
    """Seconds of the first wait before a retry; doubles each time, with jitter."""
    retry_max_s: float = Field(900.0, ge=1)
    """Seconds of the longest such wait."""
    stall_s: float = Field(120.0, ge=5)
    """Seconds without progress until a worker is killed or a job taken back; longer while a model loads."""
    cpu_fallback: bool = True
    """Let the CPU take a chunk that a GPU has failed on twice."""
    on_poison: Literal["fail", "gap"] = "gap"
    """A chunk that nothing can transcribe: `fail` the job, or complete it with a marked `gap`."""
    cpu_stand_in: bool = False
    """Let the CPU do all the work while no GPU can; else the queue waits for the GPU."""
    recycle_hours: float = Field(24.0, ge=0)
    """Hours of audio after which a worker is replaced by a fresh one, between two files; 0 never."""
    recycle_growth_mb: int = Field(2048, ge=0)
    """Growth of a worker's memory, in MB, after which it is replaced; 0 never."""
    stop_grace_s: float = Field(20.0, ge=0)
    """Seconds to finish the chunks in flight when asked to stop."""


class LedgerSettings(SettingsTable):
    """How long the ledger remembers, and copies of it."""

    keep_days: int = Field(0, ge=0)
    """Days after which ended jobs are removed from the ledger; 0 keeps them for ever."""
    keep_event_days: int = Field(30, ge=1)
    """Days after which events, the history of each change, are removed."""
    backup_hours: int = Field(24, ge=0)
    """Hours between copies of the ledger, made in the folder `backups` beside it; 0 makes none."""
    backup_keep: int = Field(3, ge=1)
    """Copies that are kept; none is made that would leave too little room on the disk."""


def mask_url(url: str) -> str:
    """Return an address for people: its login, path and query may be secrets, and are left out."""
    try:
        address = urlsplit(url)
    except ValueError:  # such as a bracket that is not closed
        return HIDDEN
    host = address.netloc.rpartition("@")[2]
    if not address.scheme or not host:
        return HIDDEN
    is_plain = f"{address.scheme}://{host}" == url.rstrip("/")
    return url if is_plain else f"{address.scheme}://{host}/{HIDDEN}"


class WebhookSettings(SettingsTable):
    """A program that is told over HTTP."""

    url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    """Where to post to: an address that begins with `http://` or `https://`."""
    secret: SecretStr | None = None
    """What messages are signed with, so that the receiver knows whom they are from."""
    events: tuple[NotificationKind, ...] = USUAL_NOTIFICATIONS
    """What it is told of; `job.completed` besides."""

    @field_serializer("url", when_used="json")
    def _mask_url(self, url: str) -> str:
        return mask_url(url)


class NotifySettings(SettingsTable):
    """Who is told of what happens. docs/notifications.md has examples."""

    webhooks: tuple[WebhookSettings, ...] = ()
    """Programs that are told over HTTP, each `{ url, secret, events }`; tried again until they answer."""
    apprise: tuple[SecretStr, ...] = ()
    """Services as apprise names them, such as `mailto://` or `ntfy://`; it takes `pip install 'speakeasyd[notify]'`."""
    events: tuple[NotificationKind, ...] = USUAL_NOTIFICATIONS
    """What apprise tells of; `job.completed` besides."""
    retry_s: float = Field(10.0, gt=0)
    """Seconds of the first wait before a message is tried again; doubles each time, with jitter."""
    retry_max_s: float = Field(3600.0, ge=1)
    """Seconds of the longest such wait."""
    give_up_hours: float = Field(48.0, ge=0)
    """Hours after which a message that nobody takes is given up."""
    hook: Annotated[tuple[str, ...], AfterValidator(check_command)] = ()
    """A command to run after each transcript, as a list of its words: `["mail-it", "{txt}"]`. No shell reads it."""
    hook_timeout_s: float = Field(300.0, gt=0)
    """Seconds after which that command is killed, with all that it started."""
    hook_environment: tuple[str, ...] = ()
    """Environment variables that the command gets besides `PATH`, `HOME`, the language and the like: `["API_KEY"]`."""

    @model_validator(mode="after")
    def _require_distinct_addresses(self) -> Self:
        urls = [webhook.url for webhook in self.webhooks]
        if doubled := {url for url in urls if urls.count(url) > 1}:
            masked = mask_url(min(doubled))
            raise ValueError(f"two webhooks have the url {masked!r}; give one all the events")
        return self


class PoliteSettings(SettingsTable):
    """When to leave the machine to others. Work stops within a few seconds, and goes on by itself where it was."""

    hours: tuple[Annotated[str, AfterValidator(_check_span)], ...] = ()
    """When to work, local time: `["22:00-07:00", "sat,sun 00:00-24:00"]`; empty is always."""
    memory_mb: int = Field(0, ge=0)
    """Pause while less memory than this is available, in MB, and free the models; 0 never."""
    vram_mb: int = Field(0, ge=0)
    """Pause while other programs leave a GPU less memory than this, in MB, and free the models; 0 never."""


class ServerSettings(SettingsTable):
    """The page, the API and the metrics; it takes `pip install 'speakeasyd[server]'`. docs/server.md has examples."""

    enabled: bool = True
    """Serve where the libraries are installed."""
    host: str = Field("127.0.0.1", min_length=1)
    """The address to listen at. Any but this machine's own demands a `token`."""
    port: int = Field(8642, ge=0, le=65535)
    """The port to listen at; 0 takes any that is free."""
    token: Annotated[SecretStr, Field(min_length=16)] | None = Field(
        None, examples=["a long random text"]
    )
    """What clients must know, at least 16 characters: `Authorization: Bearer ...`; the page asks for it."""
    hosts: tuple[str, ...] = ()
    """Further names by which clients may call this machine, such as those of a reverse proxy."""
    origins: tuple[Annotated[str, AfterValidator(_check_origin)], ...] = ()
    """Pages and desktop programs of other origins that may use the API: `["app://obsidian.md"]`."""
    inbox: str | None = Field(None, examples=["inbox"])
    """The name of the inbox that uploads and recordings from the page go to; the first, if not set."""
    upload_mb: int = Field(4096, ge=1)
    """Larger uploads are refused, in MB for one request."""

    @model_validator(mode="after")
    def _require_token_for_network(self) -> Self:
        if self.enabled and self.token is None and self.host not in LOOPBACK:
            raise ValueError(
                f"host = {self.host!r} can be reached from elsewhere, and needs the key token: a secret"
            )
        return self


class LogSettings(SettingsTable):
    """What the daemon says on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug` tells of every chunk."""
    format: Literal["auto", "human", "json"] = "auto"
    """`auto`: human on a terminal, JSON lines elsewhere."""


class Settings(SettingsTable):
    """Everything that can be set. `load` makes one; the rest of the program only reads it."""

    state: Folder = Field(
        default_factory=lambda: user_data_path("speakeasyd", appauthor=False),
        examples=["~/.local/share/speakeasyd"],
    )
    """Folder of the ledger, its lock and downloaded models. Not on a network filesystem."""
    inboxes: tuple[InboxSettings, ...] = Field(default_factory=lambda: (InboxSettings(),))
    options: Options = Options()
    """Options of every job, unless a preset or a sidecar says otherwise."""
    presets: dict[PresetName, Preset] = Field(default_factory=dict)
    """Named sets of options that differ. A file in a folder `NAME` of an inbox takes the preset `NAME`."""
    watch: WatchSettings = WatchSettings()
    workers: WorkerSettings = WorkerSettings()
    recovery: RecoverySettings = RecoverySettings()
    ledger: LedgerSettings = LedgerSettings()
    notify: NotifySettings = NotifySettings()
    polite: PoliteSettings = PoliteSettings()
    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()

    @property
    def upload_inbox(self) -> InboxSettings:
        """Where uploads and recordings from the page go."""
        return next(inbox for inbox in self.inboxes if self.server.inbox in {None, inbox.name})

    @model_validator(mode="after")
    def _require_distinct_names(self) -> Self:
        names = [inbox.name for inbox in self.inboxes]
        if not names:
            raise ValueError("inboxes is empty; there must be one, [[inboxes]]")
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two inboxes are named {min(doubled)!r}; give each a name of its own")
        for inbox in self.inboxes:
            if inbox.preset is not None and inbox.preset not in self.presets:
                known = ", ".join(sorted(self.presets)) or "none"
                raise ValueError(
                    f"inbox {inbox.name!r} takes the preset {inbox.preset!r}; there is {known}"
                )
        return self

    @model_validator(mode="after")
    def _require_upload_inbox(self) -> Self:
        names = [inbox.name for inbox in self.inboxes]
        if self.server.inbox is not None and self.server.inbox not in names:
            raise ValueError(f"server.inbox is {self.server.inbox!r}; there is {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _require_separate_folders(self) -> Self:
        """An outbox may lie below an inbox, which leaves it out; it may not be one: transcripts are not arrivals."""
        for inbox in self.inboxes:
            root = inbox.path.resolve()
            for other in self.inboxes:
                if other is not inbox and other.path.resolve().is_relative_to(root):
                    raise ValueError(
                        f"inbox {other.name!r} ({other.path}) lies in inbox {inbox.name!r} ({inbox.path})"
                    )
                for key, folder in other.targets.items():
                    if folder.resolve() == root:
                        raise ValueError(
                            f"{key} of inbox {other.name!r} is inbox {inbox.name!r}: {folder}"
                        )
        return self
