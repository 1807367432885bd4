"""The inboxes have to be there before there is anything to do."""

import stat
from pathlib import Path

from speakeasyd.config import Settings
from speakeasyd.errors import StartError


def prepare_inboxes(settings: Settings, *, strict: bool) -> None:
    """Make the default inbox. `strict`: raises StartError where another is missing; else the daemon waits for it."""
    for inbox in settings.inboxes:
        if inbox.is_default:
            inbox.path.mkdir(parents=True, exist_ok=True)
        elif strict:
            _require_folder(inbox.path)


def _require_folder(folder: Path) -> None:
    try:
        if stat.S_ISDIR(folder.stat().st_mode):
            return
        what = f"the inbox {folder} is not a folder"
    except (FileNotFoundError, NotADirectoryError):
        what = f"there is no inbox {folder}"
    except OSError as error:
        hint = "Let this user read the folder and those above it."
        raise StartError(f"the inbox {folder}: {error.strerror}", hint=hint) from error
    raise StartError(what, hint="Create the folder, mount its disk, or name another: --inbox DIR")
