"""Closed sets in the page's scripts equal those of the daemon and are written in one file."""

import re
from enum import StrEnum
from pathlib import Path

import pytest

from speakeasyd.domain.device_health import DeviceState
from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.job import Status
from speakeasyd.domain.pausing import PauseKind
from speakeasyd.domain.recording import RecordingPhase
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "speakeasyd" / "server" / "page"
SET = re.compile(r"export const (\w+) = \{(.*?)\};", re.DOTALL)
MEMBER = re.compile(r'(\w+): "([^"]*)"')
SUBJECT = re.compile(r'kind\.startsWith\("(\w+\.)"\)')
SCRIPTS = [script for script in sorted(PAGE.glob("*.js")) if script.name != "kinds.js"]
DOTTED = re.compile(r'"(\w+\.\w+)"')
COMPARED = re.compile(r'[!=]== "([a-z_.]+)"')

ENUMS: list[type[StrEnum]] = [EventKind, Status, PauseKind, RecordingPhase, DeviceState]
COMPLETE: list[type[StrEnum]] = [Status, DeviceState]
"""The page has to know every member of these."""


def _read_sets() -> dict[str, dict[str, str]]:
    text = (PAGE / "kinds.js").read_text("utf-8")
    return {name: dict(MEMBER.findall(body)) for name, body in SET.findall(text)}


def test_every_set_of_the_page_is_one_of_the_daemon() -> None:
    assert _read_sets().keys() == {enum.__name__ for enum in ENUMS}


@pytest.mark.parametrize("enum", ENUMS)
def test_members_have_the_names_and_values_of_the_daemon(enum: type[StrEnum]) -> None:
    known = {member.name: member.value for member in enum}
    of_page = _read_sets()[enum.__name__]
    assert of_page.items() <= known.items()
    if enum in COMPLETE:
        assert of_page == known


def test_the_subjects_of_events_exist() -> None:
    subjects = SUBJECT.findall((PAGE / "kinds.js").read_text("utf-8"))
    assert subjects
    assert all(any(kind.startswith(subject) for kind in EventKind) for subject in subjects)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_no_other_script_repeats_a_value(script: Path) -> None:
    text = script.read_text("utf-8")
    literals = {*COMPARED.findall(text), *DOTTED.findall(text)}
    assert not literals & {member.value for enum in ENUMS for member in enum}
