"""Progress of a command that takes longer than two seconds: a bar on stderr, if that is a terminal."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from speakeasyd.cli.output import SafeConsole

DELAY_S = 2.0  # seconds: what is done earlier shows no bar

OnProgress = Callable[[float], None]
"""Takes the part that is done, 0 to 1."""


@contextmanager
def show_progress(what: str, *, delay_s: float = DELAY_S) -> Iterator[OnProgress]:
    """Show a bar while the block runs; it moves without a measure until the progress is given."""
    out = SafeConsole(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
    bar = progress.add_task(what, total=None)
    timer = threading.Timer(delay_s, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda share: progress.update(bar, completed=share, total=1.0)
    finally:
        timer.cancel()
        timer.join()
        progress.stop()
