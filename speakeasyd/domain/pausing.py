"""Pauses of the queue: their kinds, what each covers, and whether it ends by itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class PauseKind(StrEnum):
    """Why the queue waits. The value is stored in the ledger and returned by the API."""

    PERSON = "person"
    """A person asked for it."""
    INBOX = "inbox"
    """An inbox is not there."""
    OUTBOX = "outbox"
    """An outbox is full, read-only or not there."""
    LEDGER = "ledger"
    """The ledger cannot be written."""
    DEVICE = "device"
    """No device can be used."""
    HOURS = "hours"
    """It is outside of the hours of work."""
    MEMORY = "memory"
    """The memory of the machine is short."""
    VRAM = "vram"
    """The memory of a GPU is short."""

    @property
    def ends_by_itself(self) -> bool:
        """A person ends what a person began; every other cause is checked again and again."""
        return self is not PauseKind.PERSON

    @property
    def yields_machine(self) -> bool:
        """Whether running jobs are released, too; they continue from their committed chunks."""
        return self in {PauseKind.PERSON, PauseKind.HOURS, PauseKind.MEMORY, PauseKind.VRAM}


@dataclass(frozen=True, slots=True)
class PauseCause:
    kind: PauseKind
    name: str = ""  # of the inbox that it concerns; empty: it concerns every inbox

    def __str__(self) -> str:
        """For people and logs. Programs read `kind` and `name`."""
        return f"{self.kind} {self.name}" if self.name else self.kind.value

    def covers(self, inbox: str) -> bool:
        return self.name in {"", inbox}


PERSON_PAUSE = PauseCause(PauseKind.PERSON)
LEDGER_PAUSE = PauseCause(PauseKind.LEDGER)
DEVICE_PAUSE = PauseCause(PauseKind.DEVICE)

Row = Mapping[str, object]


def describe_pause(cause: PauseCause, reason: str) -> dict[str, object]:
    """Return what the ledger, the API and events tell of a pause."""
    return {
        "kind": cause.kind.value,
        "name": cause.name,
        "reason": reason,
        "ends_by_itself": cause.kind.ends_by_itself,
    }


def read_pauses(stored: object) -> dict[PauseCause, str]:
    """Return the reasons by cause, as `describe_pause` stored them.

    Earlier versions stored the reasons by the text of the cause. Of these only a person's pause
    outlives its daemon.
    """
    if isinstance(stored, Mapping):
        reason = stored.get(PauseKind.PERSON.value)
        return {PERSON_PAUSE: str(reason)} if reason else {}
    rows = stored if isinstance(stored, list) else []
    return {
        PauseCause(PauseKind(row["kind"]), str(row["name"])): str(row["reason"]) for row in rows
    }
