"""Pauses: kinds, storage, and which pauses a daemon obeys."""

from pathlib import Path

import pytest

from speakeasyd.domain.pausing import (
    DEVICE_PAUSE,
    LEDGER_PAUSE,
    PERSON_PAUSE,
    PauseCause,
    PauseKind,
    describe_pause,
    read_pauses,
)
from speakeasyd.events import EventHub
from speakeasyd.services.pauses import Pauses
from speakeasyd.testing import ManualClock
from tests.ledgers import open_ledger

OUTBOX_PAUSE = PauseCause(PauseKind.OUTBOX, "talks at night")


def test_only_a_persons_pause_needs_a_person() -> None:
    assert [kind for kind in PauseKind if not kind.ends_by_itself] == [PauseKind.PERSON]


def test_stored_pauses_are_read_equal() -> None:
    reasons = {OUTBOX_PAUSE: "it is full", LEDGER_PAUSE: "no room", PERSON_PAUSE: "lunch"}
    assert read_pauses([describe_pause(*pause) for pause in reasons.items()]) == reasons


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"person": "lunch", "outbox in": "full"}, {PERSON_PAUSE: "lunch"}),
    ],
)
def test_pauses_stored_by_earlier_versions_are_read(
    stored: object, expected: dict[PauseCause, str]
) -> None:
    assert read_pauses(stored) == expected


def test_a_cause_covers_its_inbox_or_all() -> None:
    assert OUTBOX_PAUSE.covers("talks at night")
    assert not OUTBOX_PAUSE.covers("talks")
    assert DEVICE_PAUSE.covers("talks")


async def test_a_persons_pause_survives_daemons_that_do_not_obey_it(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_ledger(tmp_path / "ledger.db", clock=clock) as ledger:

        async def restart_pauses(*, obeyed: bool) -> Pauses:
            pauses = Pauses(ledger=ledger, hub=EventHub(), clock=clock)
            await pauses.restore_manual_pause(obeyed=obeyed)
            return pauses

        await (await restart_pauses(obeyed=True)).begin_pause(PERSON_PAUSE, "lunch")
        once = await restart_pauses(obeyed=False)
        assert not once.reasons
        await once.begin_pause(OUTBOX_PAUSE, "it is full")
        await once.end_pause(OUTBOX_PAUSE)
        await once.begin_pause(LEDGER_PAUSE, "no room")
        assert (await restart_pauses(obeyed=True)).reasons == {PERSON_PAUSE: "lunch"}

        once = await restart_pauses(obeyed=False)
        await once.end_pause(PERSON_PAUSE)  # a person resumes before
        assert not (await restart_pauses(obeyed=True)).reasons
