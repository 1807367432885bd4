"""`speakeasyd resume`"""

from speakeasyd.cli import parameters as given
from speakeasyd.cli.ledger_changes import send_request


def command(config: given.Config = None, state: given.State = None) -> int:
    """Let a daemon that was paused by a person go on."""
    send_request(given.load_settings(config, given.Flags(state=state)).state, "resume")
    return 0
