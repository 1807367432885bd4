"""`speakeasyd once`"""

from collections import Counter
from pathlib import Path

from speakeasyd import daemon, logs
from speakeasyd.cli import parameters as given
from speakeasyd.cli.output import console
from speakeasyd.cli.places import prepare
from speakeasyd.events import Event


@given.with_flags
def command(config: Path | None, flags: given.Flags) -> int:
    """Transcribe what is in the inboxes, then leave.

    Exit status: 0 all is well, 1 some files failed, 2 it could not start.
    """
    settings = given.settings(config, flags)
    prepare(settings, strict=True)
    logs.set_up(settings.log)
    tally = Tally()
    status = daemon.main(settings, once=True, on_event=tally)
    console().print(str(tally))
    return status


class Tally:
    """Counts how jobs end, and passes every event on to the log."""

    def __init__(self) -> None:
        self._narrate = logs.Narrator()
        self._ends: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        self._narrate(event)
        area, _, what = event.kind.partition(".")
        if area == "job" and what in {"completed", "failed", "cancelled", "skipped"}:
            self._ends[what] += 1

    def __str__(self) -> str:
        return ", ".join(f"{count} {end}" for end, count in self._ends.items()) or "nothing to do"
