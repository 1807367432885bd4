"""Settings: one TOML file, environment variables, flags; checked once, then read-only."""

from speakeasyd.config.changes import SettingsChanges, apply_live_changes, compare_settings
from speakeasyd.config.loading import LoadedSettings, load_configuration
from speakeasyd.config.settings import (
    ClusterSettings,
    InboxSettings,
    LedgerSettings,
    LogSettings,
    NotifySettings,
    PoliteSettings,
    RecoverySettings,
    ServerSettings,
    Settings,
    SettingsTable,
    WatchSettings,
    WebhookSettings,
    WorkerSettings,
)

__all__ = [
    "ClusterSettings",
    "InboxSettings",
    "LedgerSettings",
    "LoadedSettings",
    "LogSettings",
    "NotifySettings",
    "PoliteSettings",
    "RecoverySettings",
    "ServerSettings",
    "Settings",
    "SettingsChanges",
    "SettingsTable",
    "WatchSettings",
    "WebhookSettings",
    "WorkerSettings",
    "apply_live_changes",
    "compare_settings",
    "load_configuration",
]
