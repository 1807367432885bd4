"""`speakeasyd once`"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text

from speakeasyd import logs
from speakeasyd.cli.flags import Flags, load_with_flags, with_flags
from speakeasyd.cli.inbox_folders import prepare_inboxes
from speakeasyd.cli.output import console
from speakeasyd.cli.run import log_start, log_stop
from speakeasyd.domain.drained import Drained, UnfinishedFile
from speakeasyd.launch import drain
from speakeasyd.workers.spawn import SpawnedWorker

NAMED_MOST = 20  # files that are named of each kind


@with_flags
def command(config: Path | None, flags: Flags, prestarted: SpawnedWorker | None) -> int:
    """Transcribe the files in the inboxes, then exit. Also exits if no progress is possible.

    Exit status: 0 all is done, 1 some files failed or are left, 2 it could not start.
    """
    loaded = load_with_flags(config, flags)
    settings = loaded.settings
    prepare_inboxes(settings, strict=True)
    logs.configure_logging(settings.log)
    log_start(loaded)
    drained = drain(settings, prestarted=prestarted, on_event=logs.EventLogger())
    log_stop()
    out = console()
    for line in list_outcomes(drained):
        out.print(Text(line), soft_wrap=True)
    return drained.exit_status


def list_outcomes(drained: Drained) -> Iterator[str]:
    """How many ended how, then what failed, what is left and what is not taken, by name."""
    counts = [f"{count} {status}" for status, count in drained.ended.items()]
    if drained.unfinished:
        counts.append(f"{len(drained.unfinished)} left")
    if drained.untaken:
        counts.append(f"{len(drained.untaken)} not taken")
    yield ", ".join(counts) or ("nothing was done" if drained.troubles else "nothing to do")
    yield from _list_files("failed", drained.failed)
    yield from _list_files("left", drained.unfinished)
    reasons = {file.reason for file in drained.unfinished}
    yield from (f"trouble: {trouble}" for trouble in drained.troubles if trouble not in reasons)
    if drained.untaken:
        names = ", ".join(drained.untaken[:3])
        more = ", ..." if len(drained.untaken) > 3 else ""
        yield f"not taken: {names}{more}; speakeasyd why FILE says why"


def _list_files(what: str, files: Sequence[UnfinishedFile]) -> Iterator[str]:
    for file in files[:NAMED_MOST]:
        yield f"{what}: {file.path}: {file.reason}"
    if len(files) > NAMED_MOST:
        yield f"{what}: {len(files) - NAMED_MOST} more, see speakeasyd jobs and speakeasyd status"
