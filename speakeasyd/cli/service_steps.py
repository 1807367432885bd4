"""Prints and carries out the steps that a service manager plans."""

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from speakeasyd.cli.ledger_changes import send_request
from speakeasyd.cli.output import print_text
from speakeasyd.domain.event_payloads import StopRequested
from speakeasyd.errors import LedgerError, SpeakeasyError
from speakeasyd.ledger.lock import find_holder
from speakeasyd.system.managers.plan import (
    AwaitStart,
    AwaitStop,
    CopyFile,
    MakeFolder,
    Owner,
    Remove,
    Run,
    Step,
    Steps,
    WriteFile,
)

START_S = 120.0  # seconds for the daemon to start; the first start of a slow machine takes long
STOP_S = 60.0  # seconds for the daemon to stop, as in the units
LOOK_S = 0.2  # seconds between two looks at its lock


def describe_steps(steps: Steps) -> Iterator[str]:
    """Yield the lines that tell what the steps would do."""
    for step in steps:
        yield f"+ {_describe_step(step)}"
        if isinstance(step, WriteFile) and not (step.keep and step.path.exists()):
            yield from (f"    {line}" for line in _decode_content(step.content).splitlines())


def carry_out(steps: Steps, *, state: Path, silent: bool = False) -> int:
    """Carry out the steps up to the first one that fails. Returns its exit status, or 0.

    `state`: the folder of the ledger. `silent`: do not say what is done. Raises SpeakeasyError.
    """
    for step in steps:
        if not silent:
            print_text(f"+ {_describe_step(step)}")
            sys.stdout.flush()  # before the output of commands
        status = _carry_out(step, state)
        if status:
            return status
    return 0


def _describe_step(step: Step) -> str:
    match step:
        case MakeFolder(path, mode, owner):
            return f"make the folder {path} ({_describe_rights(mode, owner)}), if it is missing"
        case WriteFile(path, _, mode, owner, keep):
            return f"write {path} ({_describe_rights(mode, owner)})" + (
                ", if it is missing" if keep else ""
            )
        case CopyFile(source, target):
            return f"copy {source} to {target}"
        case Remove(paths):
            return f"remove {', '.join(map(str, paths))}, if present"
        case Run(command):
            return (
                subprocess.list2cmdline(command) if sys.platform == "win32" else shlex.join(command)
            )
        case AwaitStop() | AwaitStart():
            return _describe_wait(step)


def _describe_wait(step: AwaitStop | AwaitStart) -> str:
    match step:
        case AwaitStart():
            return "wait until the daemon has started"
        case AwaitStop(asks):
            return f"{'ask the daemon to stop, and ' if asks else ''}wait until it has stopped"


def _describe_rights(mode: int, owner: Owner | None) -> str:
    return f"{mode:04o}" + (f" {owner.user}:{owner.group}" if owner else "")


def _decode_content(content: bytes) -> str:
    return content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8")


def _carry_out(step: Step, state: Path) -> int:
    match step:
        case MakeFolder(path, mode, owner):
            if not path.is_dir():
                path.mkdir(parents=True)
                _set_rights(path, mode, owner)
        case WriteFile(path, content, mode, owner, keep):
            if not (keep and path.exists()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            _set_rights(path, mode, owner)
        case CopyFile(source, target):
            shutil.copyfile(source, target)
        case Remove(paths):
            for path in paths:
                if path.is_dir():
                    with suppress(OSError):  # something else is in it
                        path.rmdir()
                else:
                    path.unlink(missing_ok=True)
        case Run(command, may_fail):
            status = _run_command(command)
            return 0 if may_fail else status
        case AwaitStop(asks):
            _await_stop(state, asks=asks)
        case AwaitStart():
            _await_start(state)
    return 0


def _set_rights(path: Path, mode: int, owner: Owner | None) -> None:
    if owner:
        shutil.chown(path, owner.user, owner.group)
    path.chmod(mode)


def _run_command(command: tuple[str, ...]) -> int:
    try:
        return subprocess.run(command, check=False).returncode  # noqa: S603 - as planned
    except FileNotFoundError as error:
        raise SpeakeasyError(
            f"there is no program {command[0]} on this machine",
            hint="Without a service manager: run `speakeasyd run` by what starts your programs.",
        ) from error


def _await_stop(state: Path, *, asks: bool) -> None:
    """Raises SpeakeasyError if the daemon does not stop in time."""
    with suppress(
        LedgerError
    ):  # none is there, or of another user: then there is nothing to wait for
        if find_holder(state) and asks:
            send_request(state, StopRequested())
        deadline = time.monotonic() + STOP_S
        while holder := find_holder(state):
            if time.monotonic() > deadline:
                raise SpeakeasyError(f"the daemon does not stop: {holder}")
            time.sleep(LOOK_S)


def _await_start(state: Path) -> None:
    """Raises SpeakeasyError if no daemon starts in time."""
    with suppress(LedgerError):  # of another user
        deadline = time.monotonic() + START_S
        while not find_holder(state):
            if time.monotonic() > deadline:
                raise SpeakeasyError(
                    f"the daemon has not started within {START_S:.0f} s",
                    hint="See: speakeasyd service logs, speakeasyd service status",
                )
            time.sleep(LOOK_S)
