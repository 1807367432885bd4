"""`speakeasyd demo`"""

import shutil
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from speakeasyd import logs
from speakeasyd.cli import parameters as given
from speakeasyd.cli.flags import Flags, Formats, settings_from_flags
from speakeasyd.cli.output import console, format_duration
from speakeasyd.config import Settings
from speakeasyd.domain.event_kinds import JOB_ENDED, EventKind
from speakeasyd.errors import StartError
from speakeasyd.events import Event
from speakeasyd.launch import drain
from speakeasyd.ledger.job_lists import EXAMPLES, list_results
from speakeasyd.ledger.readonly import read_ledger
from speakeasyd.ledger.rows import Row

SETTLE_S = 0.5  # seconds: nobody else writes here


def command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", readable=False, help="Audio or video of yours."),
    ] = None,
    *,
    inbox: given.Inbox = None,
    outbox: given.Outbox = None,
    state: given.State = None,
    model: given.Model = "bundled",
    device: given.Device = "auto",
    language: given.Language = None,
    languages: given.Languages = None,
    task: given.Task = None,
    formats: Formats = None,
) -> int:
    """Show it all on sample clips, or on files of yours, in a scratch folder that stays.

    Your configuration is left out of it. The bundled model knows English only; --model takes a better one.
    """
    scratch = Path(tempfile.mkdtemp(prefix="speakeasyd-demo-"))
    flags = Flags(
        inbox=inbox or scratch / "inbox",
        outbox=outbox or scratch / "outbox",
        state=state or scratch / "state",
        model=model,
        device=device,
        settle=SETTLE_S,
        language=language,
        languages=languages,
        task=task,
        formats=formats,
    )
    settings = settings_from_flags(flags)
    _drop_files(files or _find_samples(), settings.inboxes[0].path)
    out = console()
    out.print(
        "A real daemon, on a scratch inbox and outbox:", settings.inboxes[0].path, soft_wrap=True
    )
    log = scratch / "speakeasyd.log"
    try:
        status = _run_daemon(settings, log, out)
    except StartError:
        out.print("Log", log, style="bold", soft_wrap=True)
        raise
    _print_results(settings, log, out)
    return status


def _find_samples() -> list[Path]:
    folder = resources.files("speakeasyd") / "data" / "samples"
    return sorted(Path(str(sample)) for sample in folder.iterdir() if sample.name.endswith(".flac"))


def _drop_files(files: Sequence[Path], inbox: Path) -> None:
    """Copy the files under hidden names, then rename them, so that no partial file is seen."""
    inbox.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not file.is_file():
            raise StartError(f"there is no file {file}", hint="Check its name and folder.")
        part = inbox / f"{file.name}.part"
        shutil.copyfile(file, part)
        part.replace(inbox / file.name)


def _run_daemon(settings: Settings, log: Path, out: Console) -> int:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with log.open("w", encoding="utf-8") as stream, Progress(*columns, console=out) as progress:
        logs.configure_logging(settings.log, stream=stream)
        narrate = _ProgressDisplay(progress, logs.EventLogger())
        return drain(settings, on_event=narrate).exit_status


_END_NOTES = {
    EventKind.JOB_COMPLETED: "completed",
    EventKind.JOB_FAILED: "failed",
    EventKind.JOB_CANCELLED: "cancelled",
    EventKind.JOB_SKIPPED: "skipped",
}


class _ProgressDisplay:
    """A bar for each job, and every event passed on to the log."""

    def __init__(self, progress: Progress, narrate: logs.EventLogger) -> None:
        self._progress = progress
        self._narrate = narrate
        self._bars: dict[int, TaskID] = {}

    def __call__(self, event: Event) -> None:
        self._narrate(event)
        if event.kind is EventKind.QUEUE_PAUSED:
            waits = Text(f"The demo waits: {event.data['reason']} (Ctrl-C ends it)", "yellow")
            self._progress.console.print(waits, soft_wrap=True)
        job = event.job_id
        if job is None:
            return
        if job not in self._bars:
            name = Text(str(event.data.get("path", f"job {job}"))).markup
            self._bars[job] = self._progress.add_task(name, total=1.0, note="waits")
        self._update_bar(self._bars[job], event)

    def _update_bar(self, bar: TaskID, event: Event) -> None:
        match event.kind:
            case EventKind.JOB_CLAIMED:
                self._progress.update(bar, note="listens")
            case EventKind.CHUNK_DONE:
                self._progress.update(
                    bar, completed=float(str(event.data["progress"])), note="transcribes"
                )
            case kind if kind in JOB_ENDED:
                self._progress.update(bar, completed=1.0, note=_END_NOTES.get(kind, "done"))
                self._progress.stop_task(bar)


def _print_results(settings: Settings, log: Path, out: Console) -> None:
    outbox = settings.inboxes[0].outbox
    for job in read_ledger(settings.state, list_results):
        out.print(Text(f"\n{job['path']}  ", "bold cyan") + Text(_format_speed(job), "dim"))
        out.print(
            Text(
                str(job["text"] if job["text"] is not None else f"{job['status']}: {job['error']}")
            )
        )
        if job["warning"]:
            out.print(Text(str(job["warning"]), "yellow"))
    out.print("\nTranscripts", outbox, style="bold", soft_wrap=True)
    for file in sorted(path for path in outbox.rglob("*") if path.is_file()):
        out.print(f"  {file.relative_to(outbox)}", markup=False)
    out.print("Log", log, style="bold", soft_wrap=True)
    out.print("\nThe ledger answers SQL; try", style="bold")
    for query in EXAMPLES:
        out.print(
            f'  speakeasyd sql "{query}" --state "{settings.state}"', markup=False, soft_wrap=True
        )
    out.print("\nThen the real thing: speakeasyd run --inbox DIR --outbox DIR", style="bold")


def _format_speed(job: Row) -> str:
    seconds, took = float(str(job["audio_seconds"] or 0)), float(str(job["compute_seconds"] or 0))
    return (
        f"{format_duration(seconds)} of audio in {took:.1f} s, by {job['model']}" if seconds else ""
    )
