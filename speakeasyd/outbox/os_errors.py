"""Classifies errors of the file system: outages of a folder, which end, and faults of one file."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speakeasyd.errors import ErrorCode, FileFault, OutboxUnavailable
from speakeasyd.mounts import explain_read_only

_FULL = ("ENOSPC", "EDQUOT")
_REFUSED = (
    "EROFS",
    "EACCES",
    "EPERM",
    "EBUSY",
    "ETXTBSY",
    "EAGAIN",
)  # on Windows also: held open by somebody just now
_FAILING = ("EIO", "ENOENT", "ENXIO", "ENODEV", "ESTALE", "EREMOTEIO")
_AWAY = ("ENOTCONN", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT")  # network shares
_UNREACHABLE = ("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH")
_PASSING = (
    "EMFILE",
    "ENFILE",
    "ENOMEM",
    "EINTR",
    "EEXIST",
    "ELOOP",
)
# too much at once; a name that was taken, or a folder that was replaced by a link, just then
_OUTAGES = frozenset(
    getattr(errno, name)
    for name in (*_FULL, *_REFUSED, *_FAILING, *_AWAY, *_UNREACHABLE, *_PASSING)
    if hasattr(errno, name)
)
_WINDOWS_OUTAGES = frozenset({39, 51, 55, 59, 64, 121, 433, 483, 1117, 1167, 1231, 1232})
"""Errors of full, failing and vanished drives and shares that Python gives the number EINVAL."""

_HINTS = {
    errno.ENOSPC: "Free some space; the queue resumes by itself.",
    errno.EROFS: "Make the folder writable again; the queue resumes by itself.",
    errno.EACCES: "Let speakeasyd's user write there; the queue resumes by itself.",
    errno.ENOENT: "Mount or create the folder again; the queue resumes by itself.",
}


def is_outage(error: OSError) -> bool:
    """Whether the same may work later, without a change of the file's name."""
    return error.errno in _OUTAGES or getattr(error, "winerror", None) in _WINDOWS_OUTAGES


@contextmanager
def translate_os_errors(root: Path) -> Iterator[None]:
    """Translate an OSError to OutboxUnavailable for the folder, or to FileFault for the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EROFS and (cause := explain_read_only(root)):
            reason += f". {cause.removesuffix('.')}"
        if is_outage(error):
            hint = _HINTS.get(
                error.errno or 0, "The queue resumes by itself once the folder is writable."
            )
            raise OutboxUnavailable(f"{root} cannot be written: {reason}", hint=hint) from error
        what = f"the file cannot be written in {root}: {reason}"
        raise FileFault(
            ErrorCode.OUTPUT_REFUSED, what, hint="Change the naming template or the file's name."
        ) from error
