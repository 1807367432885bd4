"""Whether a program on this machine has a file open for writing. Blocks: call it in a thread.

Linux: a read lease, which the kernel refuses while the file is open for writing. It needs the
file's owner or CAP_LEASE, and a filesystem with leases. Without a lease, /proc may show a writer,
but cannot prove that there is none. Windows: share modes. Elsewhere the answer is UNKNOWN. No
system knows of writers on other machines.
"""

import errno
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from speakeasyd.domain.debounce import OpenFile, Openness

# Seconds for which one snapshot of /proc is reused; taking one costs some tens of milliseconds
SNAPSHOT_S = 1.0

if sys.platform == "linux":
    import fcntl

    def judge_openness(path: Path | bytes) -> Openness:
        """Return whether the file is open for writing. Never follows a link and never waits."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            return Openness.OPEN if error.errno == errno.EAGAIN else Openness.UNKNOWN
        try:
            answer = _try_lease(descriptor)
            if answer is not Openness.UNKNOWN:
                return answer
            is_written = _identify_file(os.fstat(descriptor)) in _writers.by_file()
            return Openness.OPEN if is_written else Openness.UNKNOWN
        finally:
            os.close(descriptor)

    def _try_lease(descriptor: int) -> Openness:
        try:
            # If the file is opened for writing while the lease is held, the kernel sends a signal.
            # SIGURG is ignored by default; the default, SIGIO, would end the process.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            return Openness.OPEN if error.errno == errno.EAGAIN else Openness.UNKNOWN
        return Openness.CLOSED

    def name_writer(path: Path | bytes) -> str:
        """Return the program that has the file open for writing, with its process id.

        Returns "" if it is unknown.
        """
        try:
            return _writers.by_file().get(_identify_file(os.lstat(path)), "")
        except OSError:
            return ""

elif sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _GENERIC_READ = 0x8000_0000
    _SHARE_READ_AND_DELETE = 0x1 | 0x4  # without 0x2 (write): a writer causes a sharing violation
    _OPEN_EXISTING = 3
    _SHARING_VIOLATION = 32
    _INVALID_HANDLE = ctypes.c_void_p(-1).value
    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.CreateFileW.restype = wintypes.HANDLE
    _kernel32.CreateFileW.argtypes = (
        wintypes.LPCWSTR,
        wintypes.DWORD,
        wintypes.DWORD,
        ctypes.c_void_p,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.HANDLE,
    )
    _kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)

    def judge_openness(path: Path | bytes) -> Openness:
        """Return whether the file is open for writing."""
        name = os.fsdecode(path)
        handle = _kernel32.CreateFileW(
            name, _GENERIC_READ, _SHARE_READ_AND_DELETE, None, _OPEN_EXISTING, 0, None
        )
        if handle == _INVALID_HANDLE:
            return (
                Openness.OPEN if ctypes.get_last_error() == _SHARING_VIOLATION else Openness.UNKNOWN
            )
        _kernel32.CloseHandle(handle)
        return Openness.CLOSED

    def name_writer(_path: Path | bytes) -> str:
        """Return "": not supported on this platform."""
        return ""

else:

    def judge_openness(_path: Path | bytes) -> Openness:
        """Return UNKNOWN: not supported on this platform."""
        return Openness.UNKNOWN

    def name_writer(_path: Path | bytes) -> str:
        """Return "": not supported on this platform."""
        return ""


def find_writer(path: Path | bytes) -> OpenFile | None:
    """Return the writer of the file; None if there is none or if that is unknown."""
    return OpenFile(name_writer(path)) if judge_openness(path) is Openness.OPEN else None


FileId = tuple[int, int]  # device and inode
_ACCESS_MODE = 0o3  # the bits of a descriptor's flags with the access mode


class _Writers:
    """The files open for writing, read from /proc as far as this process has the rights."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken_at = float("-inf")  # monotonic seconds
        self._by_file: dict[FileId, str] = {}

    def by_file(self) -> dict[FileId, str]:
        """Return the writing programs by file, at most `SNAPSHOT_S` old."""
        with self._lock:
            if time.monotonic() - self._taken_at > SNAPSHOT_S:
                self._by_file = dict(_find_writers())
                self._taken_at = time.monotonic()
            return self._by_file


_writers = _Writers()


def _find_writers() -> Iterator[tuple[FileId, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended, or belongs to another user
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError, ValueError):  # the file was closed in the meantime
                    state = descriptor.stat()
                    if stat.S_ISREG(state.st_mode) and _is_for_writing(
                        process / "fdinfo" / descriptor.name
                    ):
                        yield _identify_file(state), _name_process(process)


def _is_for_writing(info: Path) -> bool:
    for line in info.read_bytes().splitlines():
        key, _, value = line.partition(b":")
        if key == b"flags":
            return int(value, 8) & _ACCESS_MODE != os.O_RDONLY
    return False


def _name_process(process: Path) -> str:
    name = (process / "comm").read_text("utf-8", errors="replace").strip()
    return f"{name} (process {process.name})"


def _identify_file(state: os.stat_result) -> FileId:
    return state.st_dev, state.st_ino
