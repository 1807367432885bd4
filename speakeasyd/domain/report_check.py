"""Validates a worker's report against the types of `domain.protocol` before it is used.

A pickle can contain any object. The annotations are the contract: floats are finite, integers fit
the 64 bits of a database, and every value has the type of its field.
"""

import types
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

from speakeasyd.domain.protocol import Report

INTEGER_LIMIT = 2**63  # what SQLite stores
SECONDS_LIMIT = 1e12  # no valid time, score or ratio is larger
SHOWN = 200  # characters of a wrong value that a message repeats

_REPORTS: tuple[type, ...] = get_args(Report)


def find_complaint(report: object) -> str | None:
    """Return what is wrong with a report, as a message for the log; None if it is valid."""
    if not isinstance(report, _REPORTS):
        return f"{_format_value(report)} is no report"
    return _check_fields(report, type(report).__name__)


def _check_fields(value: object, place: str) -> str | None:
    owner: type = type(value)
    for name, hint in _field_types(owner).items():
        complaint = _check_value(getattr(value, name, None), hint, f"{place}.{name}")
        if complaint:
            return complaint
    return None


@cache
def _field_types(owner: type) -> dict[str, Any]:
    hints = get_type_hints(owner)
    names = [field.name for field in fields(owner)]
    return {name: hints[name] for name in names}


def _check_value(value: object, hint: Any, place: str) -> str | None:
    if isinstance(hint, NewType):
        return _check_value(value, hint.__supertype__, place)
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        complaints = [_check_value(value, choice, place) for choice in get_args(hint)]
        return None if None in complaints else complaints[0]
    if origin is Literal:
        return (
            None
            if value in get_args(hint)
            else _explain_mismatch(place, value, "one of the allowed words")
        )
    if origin is tuple:
        return _check_tuple(value, get_args(hint), place)
    return _check_plain(value, hint, place)


def _check_tuple(value: object, items: tuple[Any, ...], place: str) -> str | None:
    if not isinstance(value, tuple):
        return _explain_mismatch(place, value, "a tuple")
    any_length = items[-1] is Ellipsis
    if not any_length and len(value) != len(items):
        return _explain_mismatch(place, value, f"{len(items)} values")
    hints = [items[0]] * len(value) if any_length else list(items)
    for number, (item, hint) in enumerate(zip(value, hints, strict=True)):
        complaint = _check_value(item, hint, f"{place}[{number}]")
        if complaint:
            return complaint
    return None


def _check_plain(value: object, hint: Any, place: str) -> str | None:
    if hint is None or hint is type(None):
        return None if value is None else _explain_mismatch(place, value, "nothing")
    if hint is float:
        return None if _is_finite(value) else _explain_mismatch(place, value, "a finite number")
    if hint is int:
        return (
            None if _is_integer(value) else _explain_mismatch(place, value, "an integer of 64 bits")
        )
    if not isinstance(value, hint):
        return _explain_mismatch(place, value, f"of type {hint.__name__}")
    return _check_fields(value, place) if is_dataclass(value) else None


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < SECONDS_LIMIT  # false for NaN, too


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < INTEGER_LIMIT


def _explain_mismatch(place: str, value: object, wanted: str) -> str:
    return f"{place} is {_format_value(value)}, not {wanted}"


def _format_value(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - any object; integers of many digits raise, too
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
