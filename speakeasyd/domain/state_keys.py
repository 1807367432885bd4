"""What the daemon publishes in the ledger's table `state`, besides the inboxes."""

from enum import StrEnum


class StateKey(StrEnum):
    """The key of a stored value. It never changes."""

    DAEMON = "daemon"
    """Version and start of the daemon."""
    WORKERS = "workers"
    """The status of every worker."""
    PAUSES = "pauses"
    """The pauses, as `describe_pause` gives them."""
    FAILURES = "failures"
    """The services that fail, by name, with their errors."""
    NOTIFICATIONS = "notices"
    """The cursor of notifications."""
    BACKED_UP = "backed_up"
    """Time of the last scheduled backup."""
    LEDGER_WRITTEN_AT = "ledger_written_at"
    """Time of a write that tests whether the ledger can be written."""
