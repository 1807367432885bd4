"""Artifacts into the outbox: each is there as a whole or not at all."""

import errno
import hashlib
import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack

from speakeasyd.durable import create_draft, is_regular_file, make_folders, sync_file, sync_folder
from speakeasyd.outbox.managed_folder import ManagedFolder
from speakeasyd.outbox.os_errors import translate_os_errors

TRIAL = 64 * 1024  # bytes: more than a disk that is full has left


class Outbox(ManagedFolder):
    """Paths are relative to the outbox, '/' between parts.

    Every verb raises OutboxUnavailable while the outbox is full or away, and FileFault for a name it will not take.
    """

    def hash_existing(self, path: str) -> str | None:
        """The SHA-256 of the file there; None if the name is free, "" if it is taken by what cannot be read."""
        with translate_os_errors(self.path):
            target = self.resolve_path(path)
            if not is_regular_file(target):
                return "" if os.path.lexists(target) else None
            try:
                with target.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except PermissionError:
                return ""

    def write_files(
        self, files: Mapping[str, bytes], *, replacing: Mapping[str, frozenset[str]] = {}
    ) -> None:
        """Write files of one folder, to appear in this order. A name that has the same bytes already is left alone.

        `replacing`: hashes, by path, of files that may be replaced; any other file in the way is somebody else's.
        """
        self.require_folder()
        new = {
            path: data
            for path, data in files.items()
            if not self._has_content(path, data, replacing)
        }
        folder = self.resolve_path(next(iter(files))).parent
        with translate_os_errors(self.path), ExitStack() as stack:
            make_folders(folder)
            drafts = []
            for path, data in new.items():
                name, file = stack.enter_context(create_draft(folder))
                file.write(data)
                sync_file(file)
                file.close()
                drafts.append((name, path))
            for name, path in drafts:
                self._has_content(path, new[path], replacing)  # a person may have come in between
                name.replace(self.resolve_path(path))
            sync_folder(folder)

    def _has_content(self, path: str, data: bytes, replacing: Mapping[str, frozenset[str]]) -> bool:
        with translate_os_errors(self.path):
            there = self.hash_existing(path)
            wanted = hashlib.sha256(data).hexdigest()
            if there not in {None, wanted, *replacing.get(path, frozenset())}:
                raise FileExistsError(
                    errno.EEXIST, f"{path} was put there by somebody else just now"
                )
            return there == wanted

    def probe_writable(self) -> None:
        """Write a file of no use, and remove it again. Raises OutboxUnavailable."""
        self.require_folder()
        with translate_os_errors(self.path), create_draft(self.path) as (_, file):
            file.write(bytes(TRIAL))
            sync_file(file)

    def remove_file(self, path: str, *, hashes: Collection[str]) -> bool:
        """Remove a file of ours, unless somebody has changed it since. Returns whether nothing is there any more."""
        self.require_folder()
        there = self.hash_existing(path)
        if there in hashes:
            with translate_os_errors(self.path):
                target = self.resolve_path(path)
                target.unlink(missing_ok=True)
                sync_folder(target.parent)
        return there is None or there in hashes
