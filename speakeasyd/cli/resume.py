"""`speakeasyd resume`"""

from speakeasyd.cli import parameters as given
from speakeasyd.cli.changing import wish


def command(config: given.Config = None, state: given.State = None) -> int:
    """Let a daemon that was paused by a person go on."""
    wish(given.settings(config, given.Flags(state=state)).state, "resume")
    return 0
