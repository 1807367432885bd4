"""`speakeasyd run`"""

import logging
from pathlib import Path

from speakeasyd import __version__, daemon, logs
from speakeasyd.cli import parameters as given
from speakeasyd.cli.places import prepare

log = logging.getLogger(__name__)


@given.with_flags
def command(config: Path | None, flags: given.Flags) -> int:
    """Watch the inboxes and transcribe what comes, until stopped.

    Ctrl-C or a termination signal finishes the chunks in flight and leaves; a second one leaves at once. Nothing is
    lost either way.
    """
    loaded = given.loaded(config, flags)
    settings = loaded.settings
    prepare(settings, strict=flags.inbox is not None)
    logs.set_up(settings.log)
    log.info(
        "speakeasyd %s starts; configuration: %s; inboxes: %s; model: %s; device: %s",
        __version__,
        loaded.file or "no file, the defaults",
        given.words([inbox.path for inbox in settings.inboxes]),
        settings.options.model,
        settings.workers.device,
    )
    status = daemon.main(settings, on_event=logs.Narrator(), read_again=lambda: given.settings(config, flags))
    log.info("speakeasyd %s has stopped", __version__)
    return status
