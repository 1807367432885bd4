"""A folder of the daemon: created once, swept, and never created again without an error."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from speakeasyd.durable import TEMPORARY, make_folders, to_long_path
from speakeasyd.errors import FileFault, OutboxUnavailable
from speakeasyd.mounts import find_mount_point
from speakeasyd.outbox.os_errors import translate_os_errors
from speakeasyd.safe_open import FolderHandle, walk_folders


class ManagedFolder:
    """Where files are written, and nowhere else. The root may be a link; nothing below it leads out."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._mount: Path | None = None  # of the filesystem it was on when it was made ready

    def prepare_folder(self) -> None:
        """Create the folder if need be, and remove what a crash has left. Raises OutboxUnavailable."""
        try:
            with translate_os_errors(self.path):
                make_folders(self.path)
                self.path = Path(os.path.realpath(self.path))
                _remove_drafts(self._find_mount_folder())
                self._mount = find_mount_point(self.path)
        except FileFault as fault:  # no one file is at fault here, but the folder
            hint = "Name another folder, or move away what is there; the queue resumes by itself."
            raise OutboxUnavailable(str(fault), hint=hint) from fault

    def require_folder(self) -> None:
        """Raises OutboxUnavailable if the folder is gone, or the filesystem that it was on is no longer mounted."""
        if self._mount is None:
            self.prepare_folder()
        with translate_os_errors(self.path):
            if not self.path.is_dir() or find_mount_point(self.path) != self._mount:
                raise FileNotFoundError(errno.ENOENT, "it is gone, or no longer mounted")

    def open_folder(self, relative: str = "", *, create: bool = False) -> FolderHandle:
        """Open a folder in it, '/' between parts. Raises LinkRefused or another OSError."""
        return FolderHandle.open(self._find_mount_folder(), relative, create=create)

    def _find_mount_folder(self) -> Path:
        return Path(to_long_path(str(self.path)))


def _remove_drafts(root: Path) -> None:
    """Remove the temporary files below a folder that were left over by a crash."""
    for folder, names in walk_folders(root):
        for name in filter(TEMPORARY.fullmatch, names):
            with suppress(FileNotFoundError):
                folder.remove_file(name)
