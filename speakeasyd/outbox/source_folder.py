"""What becomes of a source when its job has ended: into the archive, into the folder of failures, or deleted.

Programs may write to a source at any time, so that what was checked may have changed when the file is removed. A source
is therefore set aside first: renamed to a hidden name in its folder, by which no program opens it. There it is checked,
and then moved or removed; if it changed or is open for writing, it gets its name back. A crash in between leaves the
hidden file, and the next start gives it its name back.
"""

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePath

from speakeasyd.domain.job import EndedJob, Signature
from speakeasyd.domain.naming import make_component
from speakeasyd.durable import sync_file
from speakeasyd.openness import find_writer
from speakeasyd.outbox.managed_folder import ManagedFolder
from speakeasyd.outbox.os_errors import translate_os_errors
from speakeasyd.safe_open import POSIX, FolderHandle, open_below, walk_folders

log = logging.getLogger(__name__)

BLOCK = 1024 * 1024  # bytes copied or compared at a time
NOTE = ".why.txt"  # ends the name of the note beside a failed source
_ASIDE = re.compile(r"\.(.+)\.[0-9a-f]{8}\.speakeasyd-aside", re.DOTALL)
_LONGEST_SUFFIX = 20  # characters of a name's ending that are kept in the hidden name
_LONGEST = 220  # bytes of a name that are kept in the hidden name: filesystems allow 255


@dataclass(frozen=True, slots=True)
class Kept:
    """The source stays where it is. `reason` is for people; empty where another version is there now, or nothing."""

    reason: str = ""


def delete_source(root: Path, ended: EndedJob) -> Kept | None:
    """Delete a source below its inbox `root`, after reading it once more. None: it is deleted."""
    if not _has_bytes(root, ended):
        return Kept()
    with _set_aside(root, ended) as aside:
        if isinstance(aside, Kept):
            return aside
        aside.folder.remove_file(aside.name)
        aside.folder.sync()
    return None


def restore_aside(root: Path) -> bool:
    """Give files that a crash left under their hidden names their own names back. False: the inbox is not there."""
    if not root.is_dir():
        return False
    for folder, names in walk_folders(root):
        for name in names:
            if found := _ASIDE.fullmatch(name):
                try:
                    _put_back(folder, name, found[1])
                except OSError as error:
                    place = folder.path / name
                    log.warning("%s cannot get its name back: %s", place, error)
    return True


class SourceFolder(ManagedFolder):
    """A folder that takes sources in, with the sub-folders of their inbox. Nothing in it is ever overwritten."""

    def move_source(self, root: Path, ended: EndedJob, *, note: str = "") -> Path | Kept:
        """Move a source of the inbox `root` here, with a note beside it if there is one. Returns where it is now.

        Raises OutboxUnavailable or FileFault; the source then is where it was.
        """
        self.require_folder()
        with translate_os_errors(self.path), _set_aside(root, ended) as aside:
            if isinstance(aside, Kept):
                return aside
            above, _, name = os.fsdecode(ended.path).rpartition("/")
            with self.open_folder(above, create=True) as folder:
                target = next(
                    one
                    for one in propose_archive_names(name)
                    if _is_free_or_same(folder, one, aside)
                )
                if note:
                    _write_note(note, folder, make_component(target, room=len(NOTE)) + NOTE)
                _move_aside(aside, folder, target)
                aside.folder.sync()
                return folder.path / target


def propose_archive_names(name: str) -> Iterator[str]:
    """Names for a source in such a folder, the best first; it has the first that was free."""
    yield name
    path = PurePath(name)
    for number in count(2):
        suffix = f" ({number}){path.suffix}"
        yield make_component(path.stem, room=len(suffix.encode())) + suffix


# --- set aside, check, put back


@dataclass(frozen=True, slots=True)
class _Aside:
    """A source under its hidden name."""

    folder: FolderHandle
    name: str


@contextmanager
def _set_aside(root: Path, ended: EndedJob) -> Iterator[_Aside | Kept]:
    """The source under a hidden name, checked; at the end it has its own name back if it is still there."""
    above, _, name = os.fsdecode(ended.path).rpartition("/")
    try:
        folder = FolderHandle.open(root, above)
    except (FileNotFoundError, NotADirectoryError):
        yield Kept()
        return
    with folder:
        hidden = _hide_source(folder, name, ended.signature)
        if isinstance(hidden, Kept):
            yield hidden
            return
        try:
            # A program that opened it before is found now; no other can open it under its name.
            yield _why_kept(folder, hidden, ended.signature) or _Aside(folder, hidden)
        finally:
            if folder.has(hidden):
                _put_back(folder, hidden, name)


def _hide_source(folder: FolderHandle, name: str, signature: Signature) -> str | Kept:
    """Rename the file unless it is to be kept. Returns its hidden name."""
    if kept := _why_kept(folder, name, signature):
        return kept
    hidden = _make_hidden_name(name)
    try:
        folder.replace_to(name, folder, hidden)
    except FileNotFoundError:
        return Kept()
    return hidden


def _why_kept(folder: FolderHandle, name: str, signature: Signature) -> Kept | None:
    """Return why a file must be kept; None if it is the version of the job and has no writer."""
    try:
        state = folder.stat(name)
    except FileNotFoundError:
        return Kept()
    if Signature.of(state) != signature or not stat.S_ISREG(state.st_mode):
        return Kept()
    writer = find_writer(folder.path_to_open(name))
    return Kept(writer.value) if writer else None


def _put_back(folder: FolderHandle, hidden: str, name: str) -> None:
    """Under its own name, or beside a newer file that has taken it."""
    path = PurePath(name)
    if folder.has(name) and folder.stat(name).st_ino == folder.stat(hidden).st_ino:
        folder.remove_file(hidden)  # a crash came between the two steps of the move
        return
    others = (f"{path.stem} ({number}){path.suffix}" for number in count(2))
    wanted = name
    while not folder.move_to(hidden, folder, wanted):
        wanted = next(others)
    folder.sync()


def _make_hidden_name(name: str) -> str:
    suffix = PurePath(name).suffix[-_LONGEST_SUFFIX:]
    stem = name.removesuffix(suffix)
    while len(os.fsencode(stem + suffix)) > _LONGEST:
        stem = stem[:-1]
    return f".{stem}{suffix}.{secrets.token_hex(4)}.speakeasyd-aside"


def _has_bytes(root: Path, ended: EndedJob) -> bool:
    """Whether the file still has the bytes that were transcribed, whatever its times say."""
    try:
        with open_below(root, ended.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == ended.sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


# --- into the archive or the failed folder


def _move_aside(aside: _Aside, folder: FolderHandle, target: str) -> None:
    if folder.has(target):  # a copy from before a crash
        aside.folder.remove_file(aside.name)
        return
    try:
        is_moved = aside.folder.move_to(aside.name, folder, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        is_moved = _copy_aside(aside, folder, target)
    if not is_moved:
        raise FileExistsError(errno.EEXIST, "the name was taken just now", str(target))
    folder.sync()


def _copy_aside(aside: _Aside, folder: FolderHandle, target: str) -> bool:
    """To another filesystem, with its times; then remove it. False: the name is taken."""
    with aside.folder.open_file(aside.name) as source, folder.draft() as (draft, file):
        shutil.copyfileobj(source, file, BLOCK)
        sync_file(file)
        state = os.fstat(source.fileno())
        place = file.fileno() if POSIX else folder.path / draft
        with suppress(OSError):  # not every filesystem stores times and modes
            os.utime(place, ns=(state.st_atime_ns, state.st_mtime_ns))
            os.chmod(place, stat.S_IMODE(state.st_mode))  # noqa: PTH101
        file.close()
        if not folder.move_to(draft, folder, target):
            return False
    folder.sync()
    aside.folder.remove_file(aside.name)
    return True


def _write_note(note: str, folder: FolderHandle, name: str) -> None:
    """Written before the file comes, so that a crash in between leaves no file without its reason."""
    with folder.draft() as (draft, file):
        file.write(note.encode("utf-8", "replace"))
        sync_file(file)
        file.close()
        folder.replace_to(draft, folder, name)
    folder.sync()


def _is_free_or_same(folder: FolderHandle, name: str, aside: _Aside) -> bool:
    if not folder.has(name):
        return True
    if not stat.S_ISREG(folder.stat(name).st_mode):
        return False
    with folder.open_file(name) as one, aside.folder.open_file(aside.name) as other:
        if os.fstat(one.fileno()).st_size != os.fstat(other.fileno()).st_size:
            return False
        while block := one.read(BLOCK):
            if block != other.read(BLOCK):
                return False
    return True
