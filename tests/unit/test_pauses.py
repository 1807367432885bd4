"""Pauses: a closed set of kinds, stored by value; a person's pause outlives what does not obey it."""

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
from tests.ledgers import opened

OUTBOX_PAUSE = PauseCause(PauseKind.OUTBOX, "talks at night")


def test_only_a_persons_pause_needs_a_person() -> None:
    assert [kind for kind in PauseKind if not kind.ends_by_itself] == [PauseKind.PERSON]


def test_what_is_stored_is_reload_settings() -> None:
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
def test_what_earlier_versions_stored(stored: object, expected: dict[PauseCause, str]) -> None:
    assert read_pauses(stored) == expected


def test_a_cause_covers_its_inbox_or_all() -> None:
    assert OUTBOX_PAUSE.covers("talks at night")
    assert not OUTBOX_PAUSE.covers("talks")
    assert DEVICE_PAUSE.covers("talks")


async def test_a_persons_pause_survives_those_who_do_not_obey_it(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path / "ledger.db", clock=clock) as ledger:

        async def restart(*, obeyed: bool) -> Pauses:
            pauses = Pauses(ledger=ledger, hub=EventHub(), clock=clock)
            await pauses.restore_manual_pause(obeyed=obeyed)
            return pauses

        await (await restart(obeyed=True)).begin_pause(PERSON_PAUSE, "lunch")
        once = await restart(obeyed=False)
        assert not once.reasons
        await once.begin_pause(OUTBOX_PAUSE, "it is full")
        await once.end_pause(OUTBOX_PAUSE)
        await once.begin_pause(LEDGER_PAUSE, "no room")
        assert (await restart(obeyed=True)).reasons == {PERSON_PAUSE: "lunch"}

        once = await restart(obeyed=False)
        await once.end_pause(PERSON_PAUSE)  # a person resumes meanwhile
        assert not (await restart(obeyed=True)).reasons
