"""`speakeasyd pause`"""

from speakeasyd.cli import parameters as given
from speakeasyd.cli.changing import wish


def command(config: given.Config = None, state: given.State = None) -> int:
    """Let the running daemon finish the chunks in flight and rest until `speakeasyd resume`, also across restarts."""
    wish(given.settings(config, given.Flags(state=state)).state, "pause")
    return 0
