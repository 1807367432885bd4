"""The inboxes have to be there before there is anything to do."""

from speakeasyd.config import InboxSettings, Settings
from speakeasyd.errors import StartError


def prepare(settings: Settings, *, strict: bool) -> None:
    """Make the default inbox. One that somebody has chosen is never made: it may be a disk that is not mounted yet.

    `strict`: raises StartError where one is missing; else the daemon waits for it.
    """
    default = InboxSettings().path
    for inbox in settings.inboxes:
        if inbox.path == default:
            inbox.path.mkdir(parents=True, exist_ok=True)
        elif strict and not inbox.path.is_dir():
            raise StartError(
                f"there is no inbox {inbox.path}",
                hint="Create the folder, mount its disk, or name another: --inbox DIR",
            )
