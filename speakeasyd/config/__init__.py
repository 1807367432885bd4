"""Settings: one TOML file, environment variables, flags; checked once, then read-only."""

from speakeasyd.config.changes import Changes, applied, reloadable
from speakeasyd.config.loading import Loaded, load
from speakeasyd.config.settings import (
    InboxSettings,
    LedgerSettings,
    LogSettings,
    NotifySettings,
    PoliteSettings,
    RecoverySettings,
    ServerSettings,
    Settings,
    Table,
    WatchSettings,
    WebhookSettings,
    WorkerSettings,
)

__all__ = [
    "Changes",
    "InboxSettings",
    "LedgerSettings",
    "Loaded",
    "LogSettings",
    "NotifySettings",
    "PoliteSettings",
    "RecoverySettings",
    "ServerSettings",
    "Settings",
    "Table",
    "WatchSettings",
    "WebhookSettings",
    "WorkerSettings",
    "applied",
    "load",
    "reloadable",
]
