"""Names of artifacts: a template with fields, safe on every filesystem, with alternatives.

An alternative is used where a name is already taken.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from string import Formatter

from speakeasyd.errors import ConfigError

FIELDS = {
    "stem": "the file's name without its ending",
    "name": "the file's name with its ending",
    "ext": "the ending, without the dot",
    "preset": "the preset, or `default`",
    "language": "the language's code, or `unknown`",
    "date": "the day the file was last written, as 2026-01-31, in local time",
    "job_id": "the number of the job",
    "batch": "the batch",
    "model": "the model",
}

LONGEST = 200  # bytes of a name: filesystems allow 255, and some reserve a part of them
ENDING = 8  # bytes reserved for the dot and the format
TRIES = 99  # highest number in `name (2)`, `name (3)` ...

_FORBIDDEN = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f-\x9f\u2028\u2029]')
_SURROGATE = re.compile("[\ud800-\udfff]")
_DEVICES = re.compile(
    r"(CON|PRN|AUX|NUL|CLOCK\$|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])\s*(\.|$)", re.IGNORECASE
)


def check_template(template: str) -> None:
    """Raises ConfigError if braces hold anything but a field, or a part of the path is no name."""
    hint = (
        "Allowed are "
        + ", ".join(f"{{{field}}}" for field in FIELDS)
        + ", text, and / for folders."
    )
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"the naming template {template!r} is wrong: {error}", hint=hint
        ) from None
    for _, field, spec, conversion in parsed:
        if field is not None and (field not in FIELDS or spec or conversion):
            raise ConfigError(
                f"the naming template {template!r} has the unknown field {{{field}}}", hint=hint
            )
    if any(part.strip(" .") == "" for part in template.split("/")):
        raise ConfigError(
            f"the naming template {template!r} has an empty name, `.` or `..` in it", hint=hint
        )


def propose_names(template: str, values: Mapping[str, str], *, folder: str = "") -> Iterator[str]:
    """Yield at most about 100 paths, the best first, without the format's extension.

    The paths are relative to the outbox, '/' between parts, and each part is valid on every
    filesystem. `values` has a text for each field. `folder` is the source's folder below its inbox;
    the path repeats it.
    """
    parents = [make_component(part) for part in folder.split("/") if part]
    *folders, last = (_fill_template(part, values) for part in template.split("/"))
    parents += map(make_component, folders)
    *_, pattern = template.split("/")
    with_ending = _fill_template(pattern.replace("{stem}", "{name}"), values)
    best = make_component(last, room=ENDING)
    yield "/".join([*parents, best])  # the others are seldom wanted
    names = [make_component(with_ending, room=ENDING)]
    names += [_add_number(last, str(number)) for number in range(2, TRIES + 1)]
    names.append(_add_number(last, f"job {values['job_id']}"))
    for name in dict.fromkeys(names):
        if name != best:
            yield "/".join([*parents, name])


def make_component(text: str, *, room: int = 0, longest: int = LONGEST) -> str:
    """Return a text as a file or folder name that is valid on every system.

    It has at most `longest` bytes, of which `room` are left free.
    """
    flat = _FORBIDDEN.sub(
        "_", unicodedata.normalize("NFC", _SURROGATE.sub(_escape_surrogate, text))
    ).replace("/", "_")
    name = _truncate_bytes(flat.strip(" "), longest - room - 1).rstrip(" .") or "_"
    device = _DEVICES.match(name)
    return f"{name[: device.end(1)]}_{name[device.end(1) :]}" if device else name


def build_collision_key(path: str) -> str:
    """Return a key that is equal for paths that differ in letter case or Unicode form only.

    Some filesystems treat such paths as one file.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _fill_template(pattern: str, values: Mapping[str, str]) -> str:
    """Return the pattern with the values of its fields; a slash in a value makes no folder."""
    filled = (
        literal + (values[field].replace("/", "_") if field else "")
        for literal, field, *_ in Formatter().parse(pattern)
    )
    return "".join(filled)


def _add_number(name: str, number: str) -> str:
    suffix = f" ({number})"
    return make_component(name, room=ENDING + len(suffix)) + suffix


def _escape_surrogate(surrogate: re.Match[str]) -> str:
    """Return an undecodable byte as `%E9`, another lone surrogate as U+FFFD."""
    code = ord(surrogate.group())
    return f"%{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else "\ufffd"


def _truncate_bytes(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore")
