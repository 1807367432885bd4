"""Keys set in a configuration file that people keep: its other lines, and their comments, stay as they are."""

import re
from collections.abc import Mapping

from speakeasyd.config.reference import format_toml


def set_keys(text: str, table: str, values: Mapping[str, object]) -> str:
    """The file's text with these keys of `[table]` set, each where it stands, commented out or not."""
    lines = text.splitlines()
    if f"[{table}]" not in lines:
        lines += ["", f"[{table}]"]
    for key, value in values.items():
        start = lines.index(f"[{table}]") + 1
        end = next((n for n in range(start, len(lines)) if lines[n].startswith("[")), len(lines))
        place = re.compile(rf"(# )?{re.escape(key)}\s*=")
        at = next((n for n in range(start, end) if place.match(lines[n])), None)
        line = f"{key} = {format_toml(value)}"
        if at is None:
            lines.insert(start, line)
        else:
            lines[at] = line
    return "\n".join(lines) + "\n"
