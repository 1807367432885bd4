"""The settings, as models of the configuration file's tables. Immutable; contradictory settings are refused."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from platformdirs import user_documents_path
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
from speakeasyd.setting_sources import default_state_folder, resolve_path


def _resolve_path(path: Path, info: ValidationInfo) -> Path:
    """Return the absolute path. A relative one is relative to `base` of the validation's context."""
    return resolve_path(path, base=(info.context or {}).get("base") or Path.cwd())


def _check_options(changes: dict[str, object]) -> dict[str, object]:
    """Validate the options of a preset. Returns those that are set."""
    return Options.model_validate(changes).model_dump(exclude_unset=True)


def _check_span(text: str) -> str:
    work_hours.parse_window(text)
    return text


Folder = Annotated[Path, AfterValidator(_resolve_path)]
PresetName = Annotated[str, Field(pattern=r"^[^\\/:*?\"<>|.][^\\/:*?\"<>|]*$")]
"""The name of a folder in the inbox, too."""
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
    """A table of the file. The docstring of a key is its description in `speakeasyd.toml` and the docs."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


class InboxSettings(SettingsTable):
    """A watched folder and the folder of its transcripts. Repeat the table for more inboxes."""

    name: str = Field("inbox", pattern=r"^[\w-]+$")
    """The name of the inbox in the ledger: letters, digits, `-` and `_`. Do not change it later."""
    path: Folder = Field(
        default_factory=lambda: user_documents_path() / "speakeasyd" / "inbox",
        examples=["~/Documents/speakeasyd/inbox"],
    )
    """The watched folder for audio and video files, with all sub-folders."""
    outbox: Folder = Field(
        default_factory=lambda: user_documents_path() / "speakeasyd" / "outbox",
        examples=["~/Documents/speakeasyd/outbox"],
    )
    """The folder for the transcripts, with the same sub-folders."""
    preset: str | None = Field(None, examples=["interviews"])
    """The preset of files that are in no sub-folder named like a preset."""
    sources: Literal["keep", "archive", "delete"] = "keep"
    """What to do with a source after its transcript is written: `keep` it, move it to `archive`, or `delete` it."""
    archive: Folder | None = Field(None, examples=["~/Documents/speakeasyd/archive"])
    """The folder for finished sources with `sources = "archive"`."""
    failed: Folder | None = Field(None, examples=["~/Documents/speakeasyd/failed"])
    """The folder for sources of failed jobs, with a note of the reason. If not set, they stay in the inbox."""

    @model_validator(mode="after")
    def _require_targets(self) -> Self:
        if self.sources == "archive" and self.archive is None:
            raise ValueError(
                'sources = "archive" needs the key archive: the folder to move sources to'
            )
        return self

    @property
    def is_default(self) -> bool:
        """Whether the folder is the default one.

        Only that one is created: another may be a disk that is not mounted yet.
        """
        return self.path == InboxSettings().path

    @property
    def targets(self) -> dict[str, Path]:
        """The folders that files are written or moved to, by key."""
        folders = {"outbox": self.outbox, "archive": self.archive, "failed": self.failed}
        return {key: folder for key, folder in folders.items() if folder}


class WatchSettings(SettingsTable):
    """When a file counts as complete, and which files are accepted."""

    settle_s: float = Field(2.0, ge=0, le=3600)
    """Seconds without a change of size or times until a file counts as complete; use more for slow uploads."""
    rescan_s: float = Field(300.0, ge=1)
    """Seconds between two scans of the whole inbox; file system events only shorten the wait."""
    poll_s: float = Field(5.0, ge=0.5)
    """Seconds between two scans if the filesystem sends no events."""
    poll: Literal["auto", "always", "never"] = "auto"
    """Whether to scan every `poll_s` seconds: `auto` on filesystems that need it, `always`, or `never`."""
    empty_s: float = Field(30.0, ge=0)
    """Seconds after which a file of zero bytes fails."""
    incomplete_s: float = Field(60.0, ge=0)
    """Seconds to wait for the rest of a file that ends early before it completes or fails; `once` does not wait."""
    incomplete_max_s: float = Field(600.0, ge=0)
    """Maximum of this wait in seconds: it doubles each time that the file has grown."""
    extensions: tuple[str, ...] = tuple(_MEDIA.split())
    """File name extensions that are accepted, without the dot."""
    unknown: Literal["ignore", "try"] = "ignore"
    """Files with other extensions: `ignore` them, or `try` them and fail those that are not media."""
    ignore: tuple[str, ...] = _NOISE
    """Shell patterns of the names of files and folders that are ignored."""
    duplicates: Literal["reuse", "skip", "transcribe"] = "reuse"
    """A file with the same bytes as another: `reuse` the transcript, `skip` the file, or `transcribe` it again."""


class WorkerSettings(SettingsTable):
    """The devices and worker processes of the transcription."""

    pool: Literal["local", "ray"] = "local"
    """Where the workers are: `local`, on this machine, or `ray`, on the cluster of the table `[cluster]`."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:\d+)$")] = "auto"
    """`auto`, `cpu`, `cuda` for every GPU, or one such as `cuda:0`. With `auto`, an unusable GPU is reported."""
    compute_type: str = "auto"
    """Precision in CTranslate2's terms: `auto`, `int8`, `float16`, `int8_float16`, `float32`."""
    replicas: int = Field(0, ge=0)
    """Calls of the model that run in parallel in a worker; 0: one for each CPU core, or 2 on a GPU."""
    batch_size: int = Field(0, ge=0)
    """Chunks of 30 s in one batch, or more of shorter chunks; 0: as many as fit the device."""
    idle_unload_s: float = Field(600.0, ge=0)
    """Seconds without work after which the worker is ended with its model, until there is work; 0: never."""
    offline: bool = False
    """Never contact the Hugging Face hub: use only models that are on this machine."""
    max_hours: float = Field(24.0, gt=0)
    """Maximum length of the audio, in hours; longer files fail."""


class ClusterSettings(SettingsTable):
    """The Ray cluster for `workers.pool = "ray"`; needs `pip install 'speakeasyd[cluster]'`. See docs/cluster.md."""

    address: Annotated[str, Field(pattern=r"^(auto|[^\s:/]+:\d+|\[[0-9a-fA-F:]+\]:\d+)$")] = "auto"
    """The head's `host:port`, or `auto` for the cluster that this machine belongs to. Run `ray start` here first."""
    actors: int = Field(0, ge=0)
    """Number of actors, one for each worker; 0: as many as the machines of the cluster have room for."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """What an actor takes, as in `{ GPU = 1 }` or `{ CPU = 4 }`; empty: a GPU, or else all CPUs of a machine."""
    folders: dict[str, str] = Field(default_factory=dict)
    """The path of an inbox on the other machines, if they share a disk: `{ inbox = "/mnt/inbox" }`; others are sent."""
    state: str = ""
    """The folder of models and logs on each machine; empty: the state folder of a user there."""
    insecure: bool = False
    """Use a cluster of several machines even without Ray's token authentication: everyone in the network can use it."""


class RecoverySettings(SettingsTable):
    """Retries and recovery after faults."""

    max_attempts: int = Field(5, ge=1)
    """Maximum attempts at one job; deaths of workers that it did not cause are not counted."""
    retry_s: float = Field(5.0, ge=0)
    """Seconds before the first retry; doubles each time, with jitter."""
    retry_max_s: float = Field(900.0, ge=1)
    """Maximum of this wait, in seconds."""
    stall_s: float = Field(120.0, ge=5)
    """Seconds without progress until a worker is killed or a job is taken back; longer while a model loads."""
    cpu_fallback: bool = True
    """Run a chunk on the CPU after a GPU failed on it twice."""
    on_poison: Literal["fail", "gap"] = "gap"
    """A chunk that cannot be transcribed (poison chunk): `fail` the job, or complete it with a marked `gap`."""
    cpu_stand_in: bool = False
    """Use the CPU for all work while no GPU can be used; otherwise the queue waits for a GPU."""
    recycle_hours: float = Field(24.0, ge=0)
    """Hours of audio after which a worker is replaced, between two files; 0: never."""
    recycle_growth_mb: int = Field(2048, ge=0)
    """Growth of a worker's memory, in MB, after which it is replaced; 0: never."""
    stop_grace_s: float = Field(20.0, ge=0)
    """Seconds to finish the chunks in flight at a stop."""


class LedgerSettings(SettingsTable):
    """Retention of data in the ledger, and backups."""

    keep_days: int = Field(0, ge=0)
    """Days after which ended jobs are removed from the ledger; 0: never."""
    keep_event_days: int = Field(30, ge=1)
    """Days after which events (the history of changes) are removed."""
    backup_hours: int = Field(24, ge=0)
    """Hours between backups of the ledger, made in the folder `backups` beside it; 0: no backups."""
    backup_keep: int = Field(3, ge=1)
    """Number of backups to keep. None is made that would leave too little free space on the disk."""


def mask_url(url: str) -> str:
    """Return an address without its login, path and query, which may be secrets."""
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
    """A program that receives events over HTTP."""

    url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    """The URL of the POST requests: it begins with `http://` or `https://`."""
    secret: SecretStr | None = None
    """The key that messages are signed with, so that the receiver can verify the sender."""
    events: tuple[NotificationKind, ...] = USUAL_NOTIFICATIONS
    """The events to send; `job.completed` is allowed too."""

    @field_serializer("url", when_used="json")
    def _mask_url(self, url: str) -> str:
        return mask_url(url)


class NotifySettings(SettingsTable):
    """Notifications. docs/notifications.md has examples."""

    webhooks: tuple[WebhookSettings, ...] = ()
    """Programs that receive events over HTTP, each `{ url, secret, events }`; retried until they answer."""
    apprise: tuple[SecretStr, ...] = ()
    """Addresses for apprise, such as `mailto://` or `ntfy://`; needs `pip install 'speakeasyd[notify]'`."""
    events: tuple[NotificationKind, ...] = USUAL_NOTIFICATIONS
    """The events for apprise; `job.completed` is allowed too."""
    retry_s: float = Field(10.0, gt=0)
    """Seconds before the first retry of a message; doubles each time, with jitter."""
    retry_max_s: float = Field(3600.0, ge=1)
    """Maximum of this wait, in seconds."""
    give_up_hours: float = Field(48.0, ge=0)
    """Hours after which an undelivered message fails."""
    hook: Annotated[tuple[str, ...], AfterValidator(check_command)] = ()
    """A command to run after each transcript, as a list of arguments, without a shell: `["mail-it", "{txt}"]`."""
    hook_timeout_s: float = Field(300.0, gt=0)
    """Seconds after which the command is killed, with all processes that it started."""
    hook_environment: tuple[str, ...] = ()
    """More environment variables for the command, in addition to `PATH`, `HOME` and similar ones: `["API_KEY"]`."""

    @model_validator(mode="after")
    def _require_distinct_addresses(self) -> Self:
        urls = [webhook.url for webhook in self.webhooks]
        if doubled := {url for url in urls if urls.count(url) > 1}:
            masked = mask_url(min(doubled))
            raise ValueError(f"two webhooks have the url {masked!r}; give one all the events")
        return self


class PoliteSettings(SettingsTable):
    """When to leave the machine to other programs. Work pauses within seconds, and resumes where it stopped."""

    hours: tuple[Annotated[str, AfterValidator(_check_span)], ...] = ()
    """Working hours, local time: `["22:00-07:00", "sat,sun 00:00-24:00"]`; empty: always."""
    memory_mb: int = Field(0, ge=0)
    """Pause and unload the models while less memory than this is available, in MB; 0: never."""
    vram_mb: int = Field(0, ge=0)
    """Pause and unload the models while a GPU has less memory than this for speakeasyd, in MB; 0: never."""


class ServerSettings(SettingsTable):
    """The page, the API and the metrics; needs `pip install 'speakeasyd[server]'`. docs/server.md has examples."""

    enabled: bool = True
    """Start the server if its libraries are installed."""
    host: str = Field("127.0.0.1", min_length=1)
    """The address to listen on. Addresses that other machines can reach need a `token`."""
    port: int = Field(8642, ge=0, le=65535)
    """The port to listen on; 0: any free port."""
    token: Annotated[SecretStr, Field(min_length=16)] | None = Field(
        None, examples=["a long random text"]
    )
    """The secret of clients, at least 16 characters: `Authorization: Bearer ...`; the page asks for it."""
    hosts: tuple[str, ...] = ()
    """Other host names that clients may use for this machine, such as that of a reverse proxy."""
    origins: tuple[Annotated[str, AfterValidator(_check_origin)], ...] = ()
    """Origins of other pages and desktop programs that may use the API: `["app://obsidian.md"]`."""
    inbox: str | None = Field(None, examples=["inbox"])
    """The inbox for uploads and recordings from the page; if not set, the first one."""
    upload_mb: int = Field(4096, ge=1)
    """Maximum size of an upload, in MB for one request."""

    @model_validator(mode="after")
    def _require_token_for_network(self) -> Self:
        if self.enabled and self.token is None and self.host not in LOOPBACK:
            raise ValueError(
                f"host = {self.host!r} can be reached from other machines and needs the key token"
            )
        return self


class LogSettings(SettingsTable):
    """The log on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged; `debug` includes every chunk."""
    format: Literal["auto", "human", "json"] = "auto"
    """`auto`: `human` on a terminal, otherwise JSON lines."""


class Settings(SettingsTable):
    """All settings. `load_configuration` creates them; the rest of the program only reads them."""

    state: Folder = Field(
        default_factory=default_state_folder,
        examples=["~/.local/share/speakeasyd"],
    )
    """The folder of the ledger, its lock and downloaded models. It must be on a local disk."""
    inboxes: tuple[InboxSettings, ...] = Field(default_factory=lambda: (InboxSettings(),))
    options: Options = Options()
    """The options of every job, unless a preset or a sidecar changes them."""
    presets: dict[PresetName, Preset] = Field(default_factory=dict)
    """Named sets of options. A file in the folder `NAME` of an inbox gets the preset `NAME`."""
    watch: WatchSettings = WatchSettings()
    workers: WorkerSettings = WorkerSettings()
    cluster: ClusterSettings = ClusterSettings()
    recovery: RecoverySettings = RecoverySettings()
    ledger: LedgerSettings = LedgerSettings()
    notify: NotifySettings = NotifySettings()
    polite: PoliteSettings = PoliteSettings()
    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()

    @property
    def upload_inbox(self) -> InboxSettings:
        """The inbox for uploads and recordings from the page."""
        return next(inbox for inbox in self.inboxes if self.server.inbox in {None, inbox.name})

    def list_models(self) -> list[str]:
        """Return the models that clients may choose: the configured ones, and those for everyone."""
        of_presets = [str(preset["model"]) for preset in self.presets.values() if "model" in preset]
        return list(dict.fromkeys(["auto", "bundled", self.options.model, *of_presets]))

    @model_validator(mode="after")
    def _require_distinct_names(self) -> Self:
        names = [inbox.name for inbox in self.inboxes]
        if not names:
            raise ValueError("inboxes is empty; at least one [[inboxes]] is required")
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two inboxes are named {min(doubled)!r}; names must differ")
        for inbox in self.inboxes:
            if inbox.preset is not None and inbox.preset not in self.presets:
                known = ", ".join(sorted(self.presets)) or "none"
                raise ValueError(
                    f"inbox {inbox.name!r} has the preset {inbox.preset!r}; known presets: {known}"
                )
        return self

    @model_validator(mode="after")
    def _require_known_shared_folders(self) -> Self:
        names = [inbox.name for inbox in self.inboxes]
        if unknown := sorted(self.cluster.folders.keys() - set(names)):
            raise ValueError(
                f"cluster.folders names {unknown[0]!r}; known inboxes: {', '.join(names)}"
            )
        return self

    @model_validator(mode="after")
    def _require_upload_inbox(self) -> Self:
        names = [inbox.name for inbox in self.inboxes]
        if self.server.inbox is not None and self.server.inbox not in names:
            raise ValueError(
                f"server.inbox is {self.server.inbox!r}; known inboxes: {', '.join(names)}"
            )
        return self

    @model_validator(mode="after")
    def _require_separate_folders(self) -> Self:
        """Refuse inboxes inside each other, and an inbox that is also an outbox, archive or failed folder.

        Such folders may be below an inbox, which ignores them.
        """
        for inbox in self.inboxes:
            root = inbox.path.resolve()
            for other in self.inboxes:
                if other is not inbox and other.path.resolve().is_relative_to(root):
                    raise ValueError(
                        f"inbox {other.name!r} ({other.path}) is inside inbox {inbox.name!r} ({inbox.path})"
                    )
                for key, folder in other.targets.items():
                    if folder.resolve() == root:
                        raise ValueError(
                            f"{key} of inbox {other.name!r} is inbox {inbox.name!r}: {folder}"
                        )
        return self
