"""`speakeasyd doctor`"""

import sys
from collections.abc import Iterator
from dataclasses import asdict

from pydantic import SecretStr
from rich.text import Text

from speakeasyd.cli import parameters as given
from speakeasyd.cli.checks import CHECKS, find_readers
from speakeasyd.cli.finding import Check, Finding, Level
from speakeasyd.cli.flags import Flags, load_with_flags
from speakeasyd.cli.output import console, print_json
from speakeasyd.config import LoadedSettings
from speakeasyd.errors import SpeakeasyError

_STYLES = {Level.OK: "green", Level.WARN: "bold yellow", Level.FAIL: "bold red"}


def command(
    *,
    config: given.Config = None,
    inbox: given.Inbox = None,
    outbox: given.Outbox = None,
    state: given.State = None,
    model: given.Model = None,
    device: given.Device = None,
    as_json: given.Json = False,
) -> int:
    """Look for what is missing or wrong on this machine, and print how to fix it. Changes nothing.

    Exit status: 0 without failures, 1 if something will not work.
    """
    flags = Flags(inbox=inbox, outbox=outbox, state=state, model=model, device=device)
    findings = []
    for finding in _run_checks(load_with_flags(config, flags)):
        findings.append(finding)
        if not as_json:
            _print_finding(finding)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    return int(any(finding.level is Level.FAIL for finding in findings))


def _run_checks(loaded: LoadedSettings) -> Iterator[Finding]:
    yield Finding("configuration", Level.OK, str(loaded.file or "no file, the defaults"))
    if loaded.file and _has_secrets(loaded.settings.model_dump()):
        warning = (
            None
            if sys.platform == "win32"
            else find_readers("configuration", loaded.file, "secrets")
        )
        if warning:
            yield warning
    for check in CHECKS:
        try:
            yield from check(loaded.settings)
        except SpeakeasyError as error:
            yield Finding(_name_check(check), Level.FAIL, str(error), error.hint)
        except OSError as error:
            yield Finding(_name_check(check), Level.FAIL, str(error))


def _name_check(check: Check) -> str:
    return check.__name__.removeprefix("check_")


def _has_secrets(value: object) -> bool:
    match value:
        case SecretStr():
            return True
        case dict():
            return any(map(_has_secrets, value.values()))
        case list() | tuple():
            return any(map(_has_secrets, value))
        case _:
            return False


def _print_finding(finding: Finding) -> None:
    line = (
        Text(f"{finding.level:<5}", _STYLES[finding.level])
        + Text(f"{finding.what}: ", "bold")
        + Text(finding.text)
    )
    console().print(line, soft_wrap=True)
    if finding.hint:
        console().print(Text(f"     {finding.hint}", "none"), soft_wrap=True)
