"""Sets keys in a configuration file and keeps its other lines and comments."""

import re
from collections.abc import Mapping

from speakeasyd.config.reference import format_toml


def set_keys(text: str, table: str, values: Mapping[str, object]) -> str:
    """Return the file's text with these keys of `[table]` set, each at its present place, even if commented out."""
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
