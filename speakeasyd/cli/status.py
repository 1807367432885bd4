"""`speakeasyd status`"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from speakeasyd.cli import parameters as given
from speakeasyd.cli.output import (
    console,
    escape_strings,
    format_duration,
    format_local_time,
    print_json,
)
from speakeasyd.cli.tables import STATUS_STYLES
from speakeasyd.domain.job import TERMINAL, Status
from speakeasyd.errors import LedgerError
from speakeasyd.ledger.overview import Snapshot, take_snapshot
from speakeasyd.ledger.rows import Row

EVERY_S = 1.0  # seconds between two looks
MOST_ACTIVE = 12  # jobs in progress that are listed
_BY_ITSELF = "It ends when the cause is removed."
_BAR = 28  # characters


def command(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Update the screen until Ctrl-C.")
    ] = False,
    config: given.Config = None,
    state: given.State = None,
    as_json: given.Json = False,
) -> int:
    """Show what the daemon does, its speed and the time left.

    Exit status: 0 if the daemon is up, 1 if it is down.
    """
    folder = given.find_state_folder(config, state)
    if watch:
        _watch_status(folder)
        return 0
    snapshot = take_snapshot(folder)
    if as_json:
        print_json(asdict(snapshot))
    else:
        console().print(render_status(snapshot))
    return 0 if snapshot.daemon else 1


def _watch_status(state: Path) -> None:
    with suppress(KeyboardInterrupt), Live(console=console(), auto_refresh=False) as live:
        while True:
            try:
                live.update(render_status(take_snapshot(state)), refresh=True)
            except LedgerError as error:  # the daemon may not have started yet
                live.update(Text(f"{error}\n{error.hint}"), refresh=True)
            time.sleep(EVERY_S)


def render_status(snapshot: Snapshot) -> RenderableType:
    shown = {
        field.name: escape_strings(getattr(snapshot, field.name)) for field in fields(snapshot)
    }
    return Group(*_build_parts(replace(snapshot, **shown)))


def _build_parts(snapshot: Snapshot) -> Iterator[RenderableType]:
    yield _build_head(snapshot)
    yield _build_counts(snapshot)
    for pause in snapshot.paused_by:
        label = f"{pause['kind']} {pause['name']}".rstrip()
        until = _BY_ITSELF if pause["ends_by_itself"] else "It lasts until `speakeasyd resume`."
        yield Text(f"paused ({label}): {pause['reason']}. {until}", style="bold yellow")
    for name, error in snapshot.failures.items():
        yield Text(f"failing ({name}): {error}", style="bold red")
    if snapshot.batches:
        yield _add_title("batches", _build_batches(snapshot.batches))
    if snapshot.in_work:
        yield _add_title("in progress", _build_active_jobs(snapshot.in_work[:MOST_ACTIVE]))
    if snapshot.ended:
        yield _add_title("latest", _build_ended_jobs(snapshot.ended))
    if snapshot.workers:
        yield _add_title("workers", _build_workers(snapshot.workers))
    trouble = [
        *_build_inboxes(snapshot.inboxes),
        *_build_waiting(snapshot.waiting),
        *map(_build_incident, snapshot.incidents),
    ]
    if trouble:
        yield _add_title("notices", Group(*trouble))


def _build_head(snapshot: Snapshot) -> Text:
    head = Text("speakeasyd ", style="bold")
    if up := snapshot.daemon:
        head.append(f"up for {format_duration(up.up_s)}", style="green")
        head.append(f"  process {up.pid}", style="dim")
    else:
        head.append("down", style="bold red")
        head.append("  start it: speakeasyd run", style="dim")
    return head


def _build_counts(snapshot: Snapshot) -> Text:
    line = Text()
    for name, count in snapshot.counts.items():
        if count or name in {Status.PENDING, Status.COMPLETED}:
            line.append(f"{count} {name}  ", style=STATUS_STYLES[name])
    if snapshot.speed and snapshot.daemon:
        line.append(f" {snapshot.speed:.1f} times as fast as speech", style="bold")
        if snapshot.left_s and snapshot.left_s > 0:
            line.append(f", about {format_duration(snapshot.left_s)} left")
    return line


def _add_title(title: str, content: RenderableType) -> Group:
    return Group(Text(f"\n{title}", style="bold"), content)


def _create_grid(*justified: str) -> Table:
    """The first column is the one that gets shorter where there is not enough room."""
    grid = Table.grid(padding=(0, 2))
    for number, side in enumerate(justified):
        grid.add_column(justify="right" if side == "right" else "left", no_wrap=number > 0)
    return grid


def _build_batches(batches: list[Row]) -> Table:
    grid = _create_grid("left", "left", "right", "right", "left")
    for batch in batches:
        ended = sum(int(str(batch[status])) for status in TERMINAL)
        failed = Text(f"{batch['failed']} failed", style="red") if batch["failed"] else Text("")
        grid.add_row(
            _build_name(batch["batch"]),
            *_build_bar(batch["progress"]),
            f"{ended} of {batch['total']}",
            failed,
        )
    return grid


def _build_active_jobs(jobs: list[Row]) -> Table:
    grid = _create_grid("left", "left", "right", "right", "left")
    for job in jobs:
        grid.add_row(
            _build_name(job["path"]),
            *_build_bar(job["progress"]),
            f"job {job['job_id']}",
            str(job["language"] or ""),
        )
    return grid


def _build_bar(progress: object) -> tuple[ProgressBar, str]:
    share = float(str(progress))
    return ProgressBar(
        total=1.0, completed=share, width=_BAR, complete_style="cyan"
    ), f"{share:.0%}"


def _build_ended_jobs(jobs: list[Row]) -> Table:
    grid = _create_grid("left", "left", "right", "left")
    for job in jobs:
        status = str(job["status"])
        audio = format_duration(float(str(job["audio_seconds"]))) if job["audio_seconds"] else ""
        grid.add_row(
            _build_name(job["path"]),
            Text(status, STATUS_STYLES[status]),
            f"job {job['job_id']}",
            str(job["error_code"] or audio),
        )
    return grid


def _build_workers(workers: list[Row]) -> Table:
    grid = _create_grid("left", "left", "left", "right", "left")
    for worker in workers:
        memory = f"{int(str(worker['rss'])) / 2**20:.0f} MB" if worker["rss"] else ""
        warning = Text(str(worker["warning"] or ""), "yellow")
        grid.add_row(
            str(worker["name"]),
            str(worker["state"]),
            str(worker["model"] or "no model loaded"),
            memory,
            warning,
        )
    return grid


def _build_inboxes(inboxes: list[Row]) -> Iterator[Text]:
    for inbox in inboxes:
        if inbox.get("note"):
            yield Text(
                f"inbox {inbox['name']}: {inbox['note']}; scanned every {inbox['scan_every_s']:g} s",
                "yellow",
            )
        if inbox.get("unreadable"):
            yield Text(
                f"inbox {inbox['name']}: cannot look into {_join_names(inbox['unreadable'])}",
                "yellow",
            )
        if inbox.get("untaken"):
            yield Text(f"inbox {inbox['name']}: {_build_untaken(inbox)}", "yellow")


def _build_untaken(inbox: Row) -> str:
    count = int(str(inbox["untaken"]))
    what = "file is" if count == 1 else "files are"
    examples = _join_names(inbox["untaken_examples"], count)
    return f"{count} {what} not taken ({examples}); speakeasyd why FILE says why"


def _join_names(names: object, count: int = 0) -> str:
    """With commas; `count`: how many there are, if not all are named."""
    named = list(map(str, names)) if isinstance(names, list) else []
    return ", ".join([*named, "..."] if count > len(named) else named)


def _build_waiting(waiting: list[Row]) -> Iterator[Text]:
    for arrival in waiting:
        yield Text(
            f"{arrival['path']} waits since {format_local_time(arrival['since'])}: {arrival['reason']}",
            "yellow",
        )


def _build_incident(incident: Row) -> Text:
    is_resolved, cost = incident["resolved_at"] is not None, incident["cost_seconds"]
    after = f" after {cost:.1f} s" if cost is not None else ""
    over = f"resolved{after}" if is_resolved else "not resolved"
    return Text(
        f"{format_local_time(incident['at'])}  {incident['device']}: {incident['error']}; {incident['action']}; {over}",
        "dim" if is_resolved else "yellow",
    )


def _build_name(text: object) -> Text:
    return Text(str(text), "cyan", no_wrap=True, overflow="ellipsis")
