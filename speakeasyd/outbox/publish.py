"""Artifacts into the outbox: each is there as a whole or not at all."""

import errno
import hashlib
import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack

from speakeasyd.durable import draft, is_plain, make_folders, settle, settle_folder
from speakeasyd.outbox.root import Root
from speakeasyd.outbox.trouble import explained

TRIAL = 64 * 1024  # bytes: more than a disk that is full has left


class Outbox(Root):
    """Paths are relative to the outbox, '/' between parts.

    Every verb raises OutboxUnavailable while the outbox is full or away, and FileFault for a name it will not take.
    """

    def digest(self, path: str) -> str | None:
        """The SHA-256 of the file there; None if the name is free, "" if it is taken by what cannot be read."""
        with explained(self.path):
            target = self.resolve(path)
            if not is_plain(target):
                return "" if os.path.lexists(target) else None
            try:
                with target.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except PermissionError:
                return ""

    def write(self, files: Mapping[str, bytes], *, replacing: Mapping[str, frozenset[str]] = {}) -> None:
        """Write files of one folder, to appear in this order. A name that has the same bytes already is left alone.

        `replacing`: hashes, by path, of files that may be replaced; any other file in the way is somebody else's.
        """
        self.require()
        new = {path: data for path, data in files.items() if not self._has(path, data, replacing)}
        folder = self.resolve(next(iter(files))).parent
        with explained(self.path), ExitStack() as stack:
            make_folders(folder)
            drafts = []
            for path, data in new.items():
                name, file = stack.enter_context(draft(folder))
                file.write(data)
                settle(file)
                file.close()
                drafts.append((name, path))
            for name, path in drafts:
                self._has(path, new[path], replacing)  # a person may have come in between
                name.replace(self.resolve(path))
            settle_folder(folder)

    def _has(self, path: str, data: bytes, replacing: Mapping[str, frozenset[str]]) -> bool:
        with explained(self.path):
            there = self.digest(path)
            wanted = hashlib.sha256(data).hexdigest()
            if there not in {None, wanted, *replacing.get(path, frozenset())}:
                raise FileExistsError(errno.EEXIST, f"{path} was put there by somebody else just now")
            return there == wanted

    def try_out(self) -> None:
        """Write a file of no use, and remove it again. Raises OutboxUnavailable."""
        self.require()
        with explained(self.path), draft(self.path) as (_, file):
            file.write(bytes(TRIAL))
            settle(file)

    def remove(self, path: str, *, hashes: Collection[str]) -> bool:
        """Remove a file of ours, unless somebody has changed it since. Returns whether nothing is there any more."""
        self.require()
        there = self.digest(path)
        if there in hashes:
            with explained(self.path):
                target = self.resolve(path)
                target.unlink(missing_ok=True)
                settle_folder(target.parent)
        return there is None or there in hashes
