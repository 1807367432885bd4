"""Causes of pauses, and whether they end by themselves."""

PERSON = "person"
"""A person asked for the pause. Every other cause is checked periodically and ends by itself."""


def ends_by_itself(cause: str) -> bool:
    """Return whether a pause with this cause ends without a person."""
    return cause != PERSON
