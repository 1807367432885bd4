"""The inboxes have to be there before there is anything to do."""

from speakeasyd.config import Settings
from speakeasyd.errors import StartError


def prepare_inboxes(settings: Settings, *, strict: bool) -> None:
    """Make the default inbox. `strict`: raises StartError where another is missing; else the daemon waits for it."""
    for inbox in settings.inboxes:
        if inbox.is_default:
            inbox.path.mkdir(parents=True, exist_ok=True)
        elif strict and not inbox.path.is_dir():
            raise StartError(
                f"there is no inbox {inbox.path}",
                hint="Create the folder, mount its disk, or name another: --inbox DIR",
            )
