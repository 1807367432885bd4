"""`speakeasyd run`"""

import logging
from pathlib import Path

from speakeasyd import __version__, logs
from speakeasyd.cli import parameters as given
from speakeasyd.cli.flags import Flags, load_settings, load_with_flags, with_flags
from speakeasyd.cli.inbox_folders import prepare_inboxes
from speakeasyd.config import LoadedSettings, Settings
from speakeasyd.launch import run_daemon
from speakeasyd.workers.spawn import SpawnedWorker

log = logging.getLogger(__name__)


@with_flags
def command(config: Path | None, flags: Flags, prestarted: SpawnedWorker | None) -> int:
    """Watch the inboxes and transcribe new files, until stopped.

    Ctrl-C or a termination signal finishes the chunks in flight and leaves; a second one leaves at once. Nothing is
    lost either way.
    """
    loaded = load_with_flags(config, flags)
    settings = loaded.settings
    prepare_inboxes(settings, strict=flags.inbox is not None)
    logs.configure_logging(settings.log)
    log_start(loaded)
    log_folders(settings)
    status = run_daemon(
        settings,
        prestarted=prestarted,
        on_event=logs.EventLogger(),
        reload_settings=lambda: load_settings(config, flags),
    )
    log_stop()
    return status


def log_start(loaded: LoadedSettings) -> None:
    settings = loaded.settings
    log.info(
        "speakeasyd %s starts; configuration: %s; inboxes: %s; model: %s; device: %s",
        __version__,
        loaded.file or "no file, the defaults",
        given.format_list([inbox.path for inbox in settings.inboxes]),
        settings.options.model,
        settings.workers.device,
    )


def log_folders(settings: Settings) -> None:
    for inbox in settings.inboxes:
        log.info(
            "put audio or video into %s; its transcript is written to %s", inbox.path, inbox.outbox
        )


def log_stop() -> None:
    log.info("speakeasyd %s has stopped", __version__)
