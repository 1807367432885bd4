"""Causes of pauses, and whether they end by themselves."""

PERSON = "person"
"""A person asked for it. Every other cause is looked at again and again, and ends once it is over."""


def ends_by_itself(cause: str) -> bool:
    return cause != PERSON
