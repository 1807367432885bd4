"""Whether another process may read a file, judged by the file's mode."""

import os
import stat
import sys
from pathlib import Path

import psutil


def may_read(pid: int, place: Path) -> bool | None:
    """Return whether a process may read a file or list a folder; None if the mode does not tell."""
    if sys.platform == "win32":
        return None
    try:
        found = place.lstat()
        process = psutil.Process(pid)
        user = process.uids().effective
        groups = {process.gids().effective, *_supplementary_groups(pid)}
    except (OSError, psutil.Error):
        return None
    if user == 0 or _has_access_list(place):
        return None
    is_folder = stat.S_ISDIR(found.st_mode)
    needed = stat.S_IROTH | stat.S_IXOTH if is_folder else stat.S_IROTH
    if user == found.st_uid:
        needed <<= 6
    elif found.st_gid in groups:
        needed <<= 3
    return found.st_mode & needed == needed


def _supplementary_groups(pid: int) -> set[int]:
    """Return the supplementary group ids of a process; empty if unknown."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return set()
    return {
        int(group) for line in lines if line.startswith("Groups:") for group in line.split()[1:]
    }


def _has_access_list(place: Path) -> bool:
    """Return whether the file has a POSIX access control list."""
    if sys.platform != "linux":
        return False
    try:
        return "system.posix_acl_access" in os.listxattr(place, follow_symlinks=False)
    except OSError:
        return False
