"""`speakeasyd devices`"""

from dataclasses import asdict

from speakeasyd.cli import parameters as given
from speakeasyd.cli.output import console, print_json, print_rows
from speakeasyd.recorder.microphone import list_devices


def command(by_line: given.ByLine = False, as_json: given.Json = False) -> int:
    """What can be recorded from, the default marked. Exit status 1: nothing."""
    found = list_devices()
    if as_json:
        print_json([asdict(device) for device in found])
    elif found:
        rows = [
            asdict(device) | {"is_default": "default" if device.is_default else None}
            for device in found
        ]
        print_rows(
            [{name.replace("is_", ""): value for name, value in row.items()} for row in rows],
            by_line=by_line,
        )
    else:
        console().print("there is no microphone, or this user may not use it")
    return 0 if found else 1
