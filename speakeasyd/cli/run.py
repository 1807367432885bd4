"""`speakeasyd run`"""

from pathlib import Path

from speakeasyd import daemon, logs
from speakeasyd.cli import parameters as given


@given.with_flags
def command(config: Path | None, flags: given.Flags) -> int:
    """Watch the inboxes and transcribe what comes, until stopped.

    Ctrl-C or a termination signal finishes the chunks in flight and leaves; a second one leaves at once. Nothing is
    lost either way.
    """
    settings = given.settings(config, flags)
    logs.set_up(settings.log)
    return daemon.main(settings, on_event=logs.Narrator())
