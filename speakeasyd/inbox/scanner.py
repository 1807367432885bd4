"""The scan of an inbox: the truth about what is there, whatever events were lost."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from speakeasyd.domain.job import Sighting, Signature
from speakeasyd.errors import SpeakeasyError
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.safe_open import FolderHandle, LinkRefused

OnUntaken = Callable[[bytes], None]  # a path relative to the inbox
OnError = Callable[
    [bytes, OSError], None
]  # a path relative to the inbox, and what was wrong with it


class InboxMissing(SpeakeasyError):
    """The inbox itself is not there or cannot be read: unmounted, deleted, renamed. Its files are not gone for that."""


def scan_inbox(
    root: Path,
    rules: InboxRules,
    *,
    folder: bytes = b"",
    on_error: OnError,
    on_untaken: OnUntaken = lambda _path: None,
) -> Iterator[Sighting]:
    """Yield the files below `root`, or below one folder in it, that the rules allow.

    It blocks, so iterate over it in a thread. It never follows a link and opens only folders.
    `on_error` gets folders and files that cannot be read; those that disappear are left out.
    `on_untaken` gets files with other extensions and special files. Raises InboxMissing.
    """
    if folder and rules.why_folder_ignored(folder):
        return
    folders = [folder]
    while folders:
        place = folders.pop()
        try:
            with FolderHandle.open(root, place) as handle:
                for entry in handle.scan():
                    name = os.fsencode(entry.name)
                    path = b"%s/%s" % (place, name) if place else name
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            if not rules.why_folder_ignored(path):
                                folders.append(path)
                        elif not _is_left_out(entry, rules):
                            yield Sighting(path, Signature.of(_stat_entry(entry)))
                        elif rules.has_other_extension(entry.name) or not rules.why_name_ignored(
                            entry.name
                        ):
                            on_untaken(path)
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        on_error(path, error)
        except OSError as error:
            if not place:
                raise InboxMissing(f"the inbox {root} cannot be read: {error.strerror}") from error
            if not isinstance(error, FileNotFoundError | NotADirectoryError | LinkRefused):
                on_error(place, error)


def _is_left_out(entry: "os.DirEntry[str]", rules: InboxRules) -> bool:
    return bool(rules.why_name_ignored(entry.name)) or not entry.is_file(follow_symlinks=False)


def _stat_entry(entry: "os.DirEntry[str]") -> os.stat_result:
    """On Windows a directory entry has no inode, and an old size for a file that is being written."""
    return os.lstat(entry.path) if sys.platform == "win32" else entry.stat(follow_symlinks=False)
