"""Finds the programs that hold the ledger's write lock. Linux lists all file locks in /proc/locks.

The ledger's files are not opened here: closing one would release SQLite's own locks in this
process.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

WRITE_LOCK = 120  # the byte of the log's index that SQLite locks for a transaction that writes
LOCKS = Path("/proc/locks")
# Seconds between two checks; a program that holds the lock at both is not in a short transaction
RECHECK_S = 0.3
COMMAND_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class LockingProgram:
    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})" if self.command else f"process {self.pid}"


def describe_hold(ledger: Path) -> str:
    """Return the message for users while another program holds the ledger's lock."""
    others = [program for program in find_holders(ledger) if program.pid != os.getpid()]
    who = f": {', '.join(map(str, others))}" if others else ""
    return (
        f"the ledger is locked by another program{who}; it has to end its transaction, or be closed"
    )


def find_long_hold(ledger: Path, *, daemon: int) -> str:
    """Return `describe_hold` if a program other than the daemon holds the lock for long; else "".

    Blocks for `RECHECK_S` seconds if the lock is held.
    """
    first = _foreign_pids(ledger, daemon)
    if not first:
        return ""
    time.sleep(RECHECK_S)
    return describe_hold(ledger) if first & _foreign_pids(ledger, daemon) else ""


def find_holders(ledger: Path) -> list[LockingProgram]:
    return [LockingProgram(pid, _read_command(pid)) for pid in sorted(_list_pids(ledger))]


def _foreign_pids(ledger: Path, daemon: int) -> set[int]:
    return _list_pids(ledger) - {daemon, os.getpid()}


def _list_pids(ledger: Path) -> set[int]:
    index = Path(f"{ledger}-shm")
    files = set()
    for path in (ledger, index):
        with suppress(OSError):
            files.add(path.stat().st_ino)
    index_inode = index.stat().st_ino if index.exists() else None
    return {
        pid
        for pid, inode, start, end in _write_locks()
        if inode in files
        and (inode != index_inode or start <= WRITE_LOCK <= end)
        and _has_open(pid, ledger, index)
    }


def _write_locks() -> Iterator[tuple[int, int, int, float]]:
    """Yield process, inode, first and last byte of each write lock.

    A line: `1: POSIX  ADVISORY  WRITE 1234 08:01:5678 120 120`.
    """
    try:
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split()
        # the line of a process that waits for a lock has one more field, an arrow
        if len(fields) == 8 and fields[3] == "WRITE":
            with suppress(ValueError):
                inode = int(fields[5].rpartition(":")[2])
                end = float("inf") if fields[7] == "EOF" else int(fields[7])
                yield int(fields[4]), inode, int(fields[6]), end


def _has_open(pid: int, *files: Path) -> bool:
    """Return whether a process has one of these files open.

    Needed because inodes are unique within one filesystem only. Assumed for a process that this
    user may not inspect.
    """
    try:
        handles = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return pid > 0
    wanted = {str(file.absolute().resolve()) for file in files}
    for handle in handles:
        with suppress(OSError):
            if str(handle.readlink()) in wanted:
                return True
    return False


def _read_command(pid: int) -> str:
    with suppress(OSError):
        words = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
        return " ".join(words.split())[:COMMAND_CHARACTERS]
    return ""
