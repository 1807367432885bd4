"""What a check of `doctor` finds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from speakeasyd.config import Settings


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    level: Level
    text: str
    hint: str = ""


Check = Callable[[Settings], Iterator[Finding]]
"""Finds things, good and bad, and changes nothing."""
