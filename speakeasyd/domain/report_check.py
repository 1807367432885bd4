"""Validates a worker's report against the types of `domain.protocol` before it is used.

A pickle can contain any object. The annotations are the contract: floats are finite, integers fit
the 64 bits of a database, and every value has the type of its field.
"""

import types
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

from speakeasyd.domain.protocol import Report

INTEGER_LIMIT = 2**63  # what SQLite stores
SECONDS_LIMIT = 1e12  # no valid time, score or ratio is larger
SHOWN = 200  # characters of a wrong value that a message repeats

_REPORTS: tuple[type, ...] = get_args(Report)

Check = Callable[[object], str | None]
"""Returns None, or what is wrong with a value, to follow its name: ` is 'x', not a finite number`."""


def find_complaint(report: object) -> str | None:
    """Return what is wrong with a report, as a message for the log; None if it is valid."""
    if not isinstance(report, _REPORTS):
        return f"{_format_value(report)} is no report"
    complaint = _check_fields(report)
    return None if complaint is None else f"{type(report).__name__}{complaint}"


def _check_fields(value: object) -> str | None:
    owner: type = type(value)
    for name, check in _create_field_checks(owner):
        complaint = check(getattr(value, name, None))
        if complaint is not None:
            return f".{name}{complaint}"
    return None


@cache
def _create_field_checks(owner: type) -> tuple[tuple[str, Check], ...]:
    hints = get_type_hints(owner)
    return tuple((field.name, _create_check(hints[field.name])) for field in fields(owner))


@cache
def _create_check(hint: Any) -> Check:
    """Return the check for an annotation."""
    if isinstance(hint, NewType):
        return _create_check(hint.__supertype__)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return _create_union_check([_create_check(choice) for choice in arguments])
    if origin is Literal:
        return _create_plain_check(lambda value: value in arguments, "one of the allowed words")
    if origin is tuple:
        return _create_tuple_check(arguments)
    return _create_type_check(hint)


def _create_type_check(hint: type | None) -> Check:
    if hint is None or hint is type(None):
        return _create_plain_check(lambda value: value is None, "nothing")
    if hint is float:
        return _create_plain_check(_is_finite, "a finite number")
    if hint is int:
        return _create_plain_check(_is_integer, "an integer of 64 bits")
    check_type = _create_plain_check(
        lambda value: isinstance(value, hint), f"of type {hint.__name__}"
    )
    if not is_dataclass(hint):
        return check_type
    return lambda value: check_type(value) or _check_fields(value)


def _create_plain_check(is_valid: Callable[[Any], bool], wanted: str) -> Check:
    return lambda value: None if is_valid(value) else _explain_mismatch(value, wanted)


def _create_union_check(choices: Sequence[Check]) -> Check:
    def check(value: object) -> str | None:
        complaint = None
        for choice in choices:
            found = choice(value)
            if found is None:
                return None
            complaint = complaint or found
        return complaint

    return check


def _create_tuple_check(items: tuple[Any, ...]) -> Check:
    any_length = items[-1] is Ellipsis
    checks = [_create_check(item) for item in items if item is not Ellipsis]

    def check(value: object) -> str | None:
        if not isinstance(value, tuple):
            return _explain_mismatch(value, "a tuple")
        if not any_length and len(value) != len(checks):
            return _explain_mismatch(value, f"{len(checks)} values")
        for number, (item, check_item) in enumerate(
            zip(value, checks * len(value) if any_length else checks, strict=True)
        ):
            complaint = check_item(item)
            if complaint is not None:
                return f"[{number}]{complaint}"
        return None

    return check


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < SECONDS_LIMIT  # false for NaN, too


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < INTEGER_LIMIT


def _explain_mismatch(value: object, wanted: str) -> str:
    return f" is {_format_value(value)}, not {wanted}"


def _format_value(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - any object; integers of many digits raise, too
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
