"""Words what is wrong with a value, for users: pydantic's own messages are for programmers. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

_MISSING = "is missing"
_RULES: Mapping[str, str] = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "list_type": "must be a list, in brackets",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "missing": _MISSING,
    "model_attributes_type": "must be a table",
    "model_type": "must be a table",
    "path_type": "must be a path, in quotes",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "must be text, in quotes",
    "too_short": "must have at least {min_length} {unit}",
    "tuple_type": "must be a list, in brackets",
}
"""By pydantic's type of the error, in terms of its context."""
_NOT_EMPTY = {"string_too_short", "too_short"}


def explain_value(key: str, problem: Any, *, shown: str = "") -> str:
    """Return a sentence about a wrong value: `beam_size is 99; it must be at most 20`.

    `problem`: one of pydantic's `errors()`. `key`: of the value; empty if it is about several keys.
    `shown`: the value; empty if it is not to be shown.
    """
    if problem["type"] == "value_error":
        return ": ".join(filter(None, [key, str(problem["ctx"]["error"])]))
    rule = _explain_rule(problem)
    return f"{key} is {shown}; it {rule}" if shown and rule != _MISSING else f"{key} {rule}"


def _explain_rule(problem: Any) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _NOT_EMPTY and context["min_length"] == 1:
        return "must not be empty"
    if kind in _RULES:
        is_list = context.get("field_type") in {"List", "Set", "Tuple"}
        return _RULES[kind].format(**context, unit="entries" if is_list else "characters")
    message = str(problem["msg"]).replace("Input should be", "must be").replace("should", "must")
    return message[0].lower() + message[1:]


def drop_consequences(problems: Sequence[Any]) -> list[Any]:
    """Return the problems without those of lists that are too short because an entry is wrong."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem, place in zip(problems, places, strict=True)
        if problem["type"] != "too_short"
        or not any(len(other) > len(place) and other[: len(place)] == place for other in places)
    ]
