"""`speakeasyd run`"""

from pathlib import Path

from speakeasyd import daemon, logs
from speakeasyd.cli import parameters as given
from speakeasyd.cli.places import prepare


@given.with_flags
def command(config: Path | None, flags: given.Flags) -> int:
    """Watch the inboxes and transcribe what comes, until stopped.

    Ctrl-C or a termination signal finishes the chunks in flight and leaves; a second one leaves at once. Nothing is
    lost either way.
    """
    settings = given.settings(config, flags)
    prepare(settings, strict=flags.inbox is not None)
    logs.set_up(settings.log)
    return daemon.main(settings, on_event=logs.Narrator(), read_again=lambda: given.settings(config, flags))
