"""`speakeasyd resume`"""

from speakeasyd.cli import parameters as given
from speakeasyd.cli.ledger_changes import send_request
from speakeasyd.cli.output import print_text
from speakeasyd.domain.event_payloads import ResumeRequested


def command(config: given.Config = None, state: given.State = None) -> int:
    """Resume work after `speakeasyd pause`."""
    send_request(given.find_state_folder(config, state), ResumeRequested())
    print_text("asked to resume")
    return 0
