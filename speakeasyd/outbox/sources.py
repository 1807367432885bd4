"""What becomes of a source when its job has ended: into the archive, into the folder of failures, or deleted."""

import errno
import filecmp
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from speakeasyd.domain.job import Signature
from speakeasyd.domain.naming import component
from speakeasyd.durable import copy, draft, is_plain, make_folders, settle, settle_folder
from speakeasyd.outbox.root import Root
from speakeasyd.outbox.trouble import explained

NOTE = ".why.txt"  # ends the name of the note beside a failed source


def is_still(source: Path, signature: Signature) -> bool:
    """Whether the file is the version that the job was about. Judged again right before it is touched."""
    if not is_plain(source):
        return False
    return Signature.of(source.lstat()) == signature


def discard(source: Path, signature: Signature) -> bool:
    """Delete the file. False: a newer version has taken its place, or it is gone."""
    if not is_still(source, signature):
        return False
    source.unlink()
    settle_folder(source.parent)
    return True


class Shelf(Root):
    """A folder that takes sources in, with the sub-folders of their inbox. Nothing in it is ever overwritten."""

    def take(self, source: Path, signature: Signature, path: bytes, *, note: str = "") -> Path | None:
        """Move the file here, with a note beside it if there is one. None: another version is there now, or nothing.

        Raises OutboxUnavailable or FileFault; the source then is where it was.
        """
        self.require()
        with explained(self.path):
            if not is_still(source, signature):
                return None
            target = next(name for name in self.names(path) if _free_or_same(name, source))
            make_folders(target.parent)
            if note:
                _leave(note, target.with_name(component(target.name, room=len(NOTE)) + NOTE))
            return target if self._move(source, signature, target) else None

    def names(self, path: bytes) -> Iterator[Path]:
        """Where a source may lie, the best place first; it has the first that was free."""
        wanted = self.resolve(os.fsdecode(path))
        yield wanted
        for number in count(2):
            suffix = f" ({number}){wanted.suffix}"
            yield wanted.with_name(component(wanted.stem, room=len(suffix.encode())) + suffix)

    def _move(self, source: Path, signature: Signature, target: Path) -> bool:
        """False: a newer version came in the very moment, and stays in the inbox."""
        if target.exists():  # a copy from before a crash
            return discard(source, signature)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy(source, target)
            return discard(source, signature)
        if not is_still(target, signature):
            target.rename(source)
            return False
        settle_folder(target.parent)
        settle_folder(source.parent)
        return True


def _leave(note: str, target: Path) -> None:
    """Written before the file comes, so that a crash in between leaves no file without its reason."""
    with draft(target.parent) as (path, file):
        file.write(note.encode("utf-8", "replace"))
        settle(file)
        file.close()
        path.replace(target)
    settle_folder(target.parent)


def _free_or_same(name: Path, source: Path) -> bool:
    return not os.path.lexists(name) or (is_plain(name) and filecmp.cmp(source, name, shallow=False))
