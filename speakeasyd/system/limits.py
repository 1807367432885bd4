"""How many files this process may have open, connections included."""

import logging
import sys
from contextlib import suppress

WANTED = 65_536  # descriptors: far more than are ever used, few enough that a child can close them all quickly
SMALLER = 10_240  # what macOS allows where it says "no limit"
WITHOUT_LIMIT = 8_192  # descriptors reckoned with where the system tells none

log = logging.getLogger(__name__)


def raise_file_limit() -> None:
    """Raise the soft limit as far as the hard one allows. The usual 1,024 are soon used up by strangers."""
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
            log.debug("up to %d files may be open, after %d", target, soft)
            return


def file_limit() -> int:
    """Descriptors that this process may have open."""
    if sys.platform == "win32":
        return WITHOUT_LIMIT
    import resource  # noqa: PLC0415

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WITHOUT_LIMIT if soft == resource.RLIM_INFINITY else soft
