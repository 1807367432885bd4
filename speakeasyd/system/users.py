"""What another process may do with a file, as far as the mode of the file tells."""

import os
import stat
import sys
from pathlib import Path

import psutil


def may_read(pid: int, place: Path) -> bool | None:
    """Whether a process may read a file, or look into a folder. None where the mode does not tell."""
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
    """Empty where the system does not tell them."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return set()
    return {
        int(group) for line in lines if line.startswith("Groups:") for group in line.split()[1:]
    }


def _has_access_list(place: Path) -> bool:
    """Whether rights beside the mode were given."""
    if sys.platform != "linux":
        return False
    try:
        return "system.posix_acl_access" in os.listxattr(place, follow_symlinks=False)
    except OSError:
        return False
