"""A folder of ours: created once, swept, and from then on either there or away, never silently made anew."""

import errno
import os
from pathlib import Path

from speakeasyd.durable import make_folders, remove_drafts, to_long_path
from speakeasyd.errors import ErrorCode, FileFault, OutboxUnavailable
from speakeasyd.mounts import find_mount_point
from speakeasyd.outbox.os_errors import translate_os_errors


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
                remove_drafts(self._find_mount_folder())
                self._mount = find_mount_point(self.path)
        except FileFault as fault:  # no one file is at fault here, but the folder
            hint = "Name another folder, or move away what is there; the queue goes on by itself."
            raise OutboxUnavailable(str(fault), hint=hint) from fault

    def require_folder(self) -> None:
        """Raises OutboxUnavailable if the folder is gone, or the filesystem that it was on is no longer mounted."""
        if self._mount is None:
            self.prepare_folder()
        with translate_os_errors(self.path):
            if not self.path.is_dir() or find_mount_point(self.path) != self._mount:
                raise FileNotFoundError(errno.ENOENT, "it is gone, or no longer mounted")

    def resolve_path(self, relative: str) -> Path:
        """The file of that name, '/' between parts. Raises FileFault when that would be outside."""
        path = self._find_mount_folder().joinpath(*relative.split("/"))
        real = Path(os.path.realpath(path.parent))
        if ".." in path.parts or not real.is_relative_to(
            os.path.realpath(self._find_mount_folder())
        ):
            raise FileFault(
                ErrorCode.OUTPUT_REFUSED,
                f"{relative} would be outside of {self.path}",
                hint="A folder there is a link to elsewhere: remove the link, or change the naming template.",
            )
        return path

    def _find_mount_folder(self) -> Path:
        return Path(to_long_path(str(self.path)))
