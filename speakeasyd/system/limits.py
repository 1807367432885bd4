"""The limit of open files of this process, connections included."""

import logging
import sys
from contextlib import suppress

WANTED = 65_536  # descriptors: more than are ever used, and a child can close them all quickly
SMALLER = 10_240  # descriptors that macOS allows when it reports no limit
WITHOUT_LIMIT = 8_192  # descriptors assumed if the system reports no limit

log = logging.getLogger(__name__)


def raise_file_limit() -> None:
    """Raise the soft limit up to the hard one: clients can easily use up the usual 1,024."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (WANTED, SMALLER):
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= target:
            return
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            log.debug("limit of open files raised from %d to %d", soft, target)
            return


def file_limit() -> int:
    """Return how many descriptors this process may have open."""
    if sys.platform == "win32":
        return WITHOUT_LIMIT
    import resource  # noqa: PLC0415

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WITHOUT_LIMIT if soft == resource.RLIM_INFINITY else soft
