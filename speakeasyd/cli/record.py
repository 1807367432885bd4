"""`speakeasyd record`"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from speakeasyd.cli import parameters as given
from speakeasyd.cli.flags import Flags, load_settings
from speakeasyd.cli.inbox_folders import prepare_inboxes
from speakeasyd.cli.output import console, format_position
from speakeasyd.domain.recording import (
    FLOOR_DB,
    SOUND_DB,
    RecorderState,
    RecordingLimits,
    RecordingPhase,
)
from speakeasyd.recorder.recorder import Recorder
from speakeasyd.system import signals

LOOK_S = 0.1  # seconds between two pictures of the meter
CLIPPED_DB = -0.5  # peaks above are distorted
_BAR = 30  # characters


def command(
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|NUMBER", help="What to record from; `speakeasyd devices` lists it."
        ),
    ] = None,
    until_silence: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.1, help="Stop after so much silence behind a sound."),
    ] = None,
    max_s: Annotated[
        float | None, typer.Option("--max", metavar="SECONDS", min=0.1, help="Stop after that.")
    ] = None,
    config: given.Config = None,
    inbox: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Put the recording here.", file_okay=False, resolve_path=True
        ),
    ] = None,
) -> int:
    """Record from a microphone into the first inbox, until Ctrl-C or SIGTERM.

    Exit status: 0 the recording is in the inbox, 1 it broke off (what was recorded is in the inbox all the same), 2 the
    inbox is not there.
    """
    settings = load_settings(config, Flags(inbox=inbox))
    prepare_inboxes(settings, strict=True)
    recorder = Recorder(folder=settings.inboxes[0].path)
    with signals.watch_for_stop() as asked:
        recorder.start(
            device=_parse_device(device),
            limits=RecordingLimits(max_s=max_s, until_silence_s=until_silence),
        )
        with Live(console=console(), auto_refresh=False, transient=True) as live:
            while not (asked.is_set() or recorder.wait_until_ended(LOOK_S)):
                live.update(render_meter(recorder.state), refresh=True)
        return _print_result(recorder.stop())


def _parse_device(text: str | None) -> str | int | None:
    return int(text) if text and text.isdecimal() else text


def render_meter(state: RecorderState) -> RenderableType:
    """Time, level and device in one line."""
    grid = Table.grid(padding=(0, 1))
    style = "red" if state.peak_db > CLIPPED_DB else "green" if state.peak_db >= SOUND_DB else "dim"
    bar = ProgressBar(
        total=-FLOOR_DB, completed=state.peak_db - FLOOR_DB, width=_BAR, complete_style=style
    )
    lost = (
        Text(f"audio was lost {state.overflows} times", "yellow") if state.overflows else Text("")
    )
    grid.add_row(
        Text("●", "red"),
        format_position(state.seconds),
        bar,
        f"{state.peak_db:5.0f} dB",
        state.device,
        lost,
    )
    return grid


def _print_result(state: RecorderState) -> int:
    out = console()
    if state.overflows:
        out.print(
            Text(f"audio was lost {state.overflows} times: the machine was too slow", "yellow")
        )
    if state.reason:
        out.print(Text(f"ended: {state.reason}"))
    if state.file:
        out.print(Text(f"{state.file}, {format_position(state.seconds)}"), soft_wrap=True)
    else:
        out.print(Text("nothing was recorded", "yellow"))
    return 1 if state.phase is RecordingPhase.FAILED else 0
