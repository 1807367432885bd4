"""`speakeasyd pause`"""

from speakeasyd.cli import parameters as given
from speakeasyd.cli.ledger_changes import send_request
from speakeasyd.cli.output import print_text
from speakeasyd.domain.event_payloads import PauseRequested


def command(config: given.Config = None, state: given.State = None) -> int:
    """Pause all work after the chunks in flight, until `speakeasyd resume`, also across restarts."""
    send_request(given.find_state_folder(config, state), PauseRequested())
    print_text(
        "asked to pause: chunks in progress are finished first; it lasts until `speakeasyd resume`"
    )
    return 0
