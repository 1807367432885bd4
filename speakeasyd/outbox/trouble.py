"""What a refusal of the filesystem means: wait until the folder is well again, or give up this one file."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speakeasyd.errors import ErrorCode, FileFault, OutboxUnavailable

_OUTAGES = frozenset(
    getattr(errno, name)
    for name in (
        # full
        "ENOSPC EDQUOT "
        # read-only, or not ours to write; on Windows also: held open by another program for a moment
        "EROFS EACCES EPERM EBUSY ETXTBSY EAGAIN "
        # failing or vanished
        "EIO ENOENT ENXIO ENODEV ESTALE "
        # a network share that is away
        "ENOTCONN ECONNABORTED ECONNREFUSED ECONNRESET ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH EREMOTEIO "
        # too much at once; a name that somebody else took a moment ago
        "EMFILE ENFILE ENOMEM EINTR EEXIST"
    ).split()
    if hasattr(errno, name)
)

_HINTS = {
    errno.ENOSPC: "Free some space; the queue goes on by itself.",
    errno.EROFS: "Make the folder writable again; the queue goes on by itself.",
    errno.EACCES: "Let speakeasyd's user write there; the queue goes on by itself.",
    errno.ENOENT: "Mount or create the folder again; the queue goes on by itself.",
}


def is_outage(error: OSError) -> bool:
    """Whether the same may work later, without a change of the file's name."""
    return error.errno in _OUTAGES


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """An OSError inside becomes OutboxUnavailable, for the folder as a whole, or FileFault, for the one file."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}"
        if is_outage(error):
            hint = _HINTS.get(error.errno or 0, "The queue goes on by itself once the folder is well again.")
            raise OutboxUnavailable(f"{root} cannot be written: {reason}", hint=hint) from error
        what = f"the file cannot be written in {root}: {reason}"
        raise FileFault(
            ErrorCode.OUTPUT_REFUSED, what, hint="Change the naming template or the file's name."
        ) from error
