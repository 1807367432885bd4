"""Drives of Windows."""

import sys
from pathlib import PureWindowsPath

_REMOTE = 4  # DRIVE_REMOTE of GetDriveTypeW


def is_mapped_drive(folder: str) -> bool:
    """Return whether the folder is on a network drive with a letter, which only its user's session has."""
    drive = PureWindowsPath(folder).drive
    if sys.platform != "win32" or not drive.endswith(":"):
        return False
    import ctypes  # noqa: PLC0415 - Windows only

    return int(ctypes.windll.kernel32.GetDriveTypeW(f"{drive}\\")) == _REMOTE
