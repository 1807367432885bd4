"""Artifacts into the outbox: each is there as a whole or not at all."""

import errno
import hashlib
import stat
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress

from speakeasyd.durable import sync_file
from speakeasyd.outbox.managed_folder import ManagedFolder
from speakeasyd.outbox.os_errors import translate_os_errors
from speakeasyd.safe_open import FolderHandle, LinkRefused

TRIAL = 64 * 1024  # bytes: more than a disk that is full has left


class Outbox(ManagedFolder):
    """Paths are relative to the outbox, '/' between parts.

    Every verb raises OutboxUnavailable while the outbox is full or away, and FileFault for a name it will not take.
    """

    def hash_existing(self, path: str) -> str | None:
        """The SHA-256 of the file there; None if the name is free, "" if it is taken by what cannot be read."""
        above, name = _split_name(path)
        with translate_os_errors(self.path):
            try:
                folder = self.open_folder(above)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with folder:
                return _hash_file(folder, name)

    def write_files(
        self, files: Mapping[str, bytes], *, replacing: Mapping[str, frozenset[str]] = {}
    ) -> None:
        """Write files, to appear in this order. A name that has the same bytes already is left alone.

        `replacing`: hashes, by path, of files that may be replaced; any other file in the way is somebody else's.
        """
        self.require_folder()
        folders: dict[str, FolderHandle] = {}
        with translate_os_errors(self.path), ExitStack() as stack:
            drafts = []
            for path, data in files.items():
                above, name = _split_name(path)
                if above not in folders:
                    opened = self.open_folder(above, create=True)
                    folders[above] = stack.enter_context(opened)
                folder = folders[above]
                if _has_content(folder, path, data, replacing):
                    continue
                draft, file = stack.enter_context(folder.draft())
                file.write(data)
                sync_file(file)
                file.close()
                drafts.append((folder, draft, name, path))
            for folder, draft, name, path in drafts:
                # a person may have come in between
                _has_content(folder, path, files[path], replacing)
                folder.replace_to(draft, folder, name)
            for folder in folders.values():
                folder.sync()
                if not folder.is_at_its_path():
                    raise LinkRefused(folder.path)

    def probe_writable(self) -> None:
        """Write a file of no use, and remove it again. Raises OutboxUnavailable."""
        self.require_folder()
        with (
            translate_os_errors(self.path),
            self.open_folder() as folder,
            folder.draft() as (_, file),
        ):
            file.write(bytes(TRIAL))
            sync_file(file)

    def remove_file(self, path: str, *, hashes: Collection[str]) -> bool:
        """Remove a file of ours, unless somebody has changed it since. Returns whether nothing is there any more."""
        self.require_folder()
        above, name = _split_name(path)
        with translate_os_errors(self.path):
            try:
                folder = self.open_folder(above)
            except (FileNotFoundError, NotADirectoryError):
                return True
            with folder:
                found = _hash_file(folder, name)
                if found in hashes:
                    with suppress(FileNotFoundError):
                        folder.remove_file(name)
                    folder.sync()
                return found is None or found in hashes


def _split_name(path: str) -> tuple[str, str]:
    """The folder and the name of a path."""
    above, _, name = path.rpartition("/")
    return above, name


def _hash_file(folder: FolderHandle, name: str) -> str | None:
    try:
        state = folder.stat(name)
        if not stat.S_ISREG(state.st_mode):
            return ""
        with folder.open_file(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except PermissionError:
        return ""


def _has_content(
    folder: FolderHandle, path: str, data: bytes, replacing: Mapping[str, frozenset[str]]
) -> bool:
    found = _hash_file(folder, _split_name(path)[1])
    wanted = hashlib.sha256(data).hexdigest()
    if found not in {None, wanted, *replacing.get(path, frozenset())}:
        raise FileExistsError(errno.EEXIST, f"{path} was put there by somebody else just now")
    return found == wanted
